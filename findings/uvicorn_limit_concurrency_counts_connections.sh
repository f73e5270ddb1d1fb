#!/usr/bin/env bash
# uvicorn 0.54.0 (h11), Python 3.11.
# limit_concurrency reads as the number of requests answered at a time. It counts open connections, the asking one among them,
# and answers 503 once there are that many: with 1 every request is refused, by a server that is doing nothing, and N lets N - 1
# in. Connections that browsers and clients keep open without asking anything count in full, so that a few open pages make a
# server of a small limit unreachable. Bounding the work needs a queue or semaphore in the application.
# Seen on 2026-11-27: limit 1 gives 503 at once; limit 3 gives 200, with two idle connections 503, and 200 after they are
# closed.
# The script fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet uvicorn==0.54.0 h11==0.16.0
cd "$work"
timeout 60 "$work/venv/bin/python" - <<'PYTHON'
import asyncio

import uvicorn


async def application(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


async def seen(limit, idle):
    config = uvicorn.Config(application, port=0, limit_concurrency=limit, lifespan="off", http="h11", log_level="error")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]

    async def ask():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        status = int((await reader.readline()).split()[1])
        writer.close()
        await asyncio.sleep(0.3)
        return status

    statuses = [await ask()]
    held = [(await asyncio.open_connection("127.0.0.1", port))[1] for _ in range(idle)]
    await asyncio.sleep(0.3)
    statuses.append(await ask())
    for writer in held:
        writer.close()
    await asyncio.sleep(0.3)
    statuses.append(await ask())
    server.should_exit = True
    await task
    return statuses


one, three = asyncio.run(seen(1, 0)), asyncio.run(seen(3, 2))
print("limit 1:", one, "limit 3 before, with and after two idle connections:", three)
assert one == [503, 503, 503]
assert three == [200, 503, 200]
PYTHON
