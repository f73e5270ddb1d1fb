"""examples/serve.py, asked over HTTP by a real client: answers as the library gives them, whatever else is asked."""

import asyncio
import importlib.util
import itertools
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from argparse import Namespace
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import uvicorn
from PIL import Image
from sklearn.datasets import load_digits

import stagetune
from conftest import TINY
from stagetune.config.compose import compose
from stagetune.errors import DataError
from stagetune.inference.gallery import Gallery
from stagetune.inference.model import TrainedModel
from stagetune.run import run_experiment

SERVE = Path(__file__).parents[1] / "examples" / "serve.py"
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MEGABYTES = 0.2  # that a request may have
Server = tuple[str, subprocess.Popen[str]]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A siamese run, a gallery, and pictures to ask about."""
    folder = tmp_path_factory.mktemp("people")
    train("+experiment=siamese_staged", folder / "run")
    digits = load_digits()
    for i in range(6):
        Image.fromarray((digits.images[i] * 15).astype("uint8")).resize((90, 90)).save(folder / f"{i}.png")
    model, known = stagetune.load(folder / "run", device="cpu"), [folder / f"{i}.png" for i in range(4)]
    vectors = model.embed(known)
    gallery = Gallery.create(
        folder / "gallery",
        model=model.description.key,
        distance=str(model.description.distance),
        dimensions=vectors.shape[1],
    )
    gallery.add(["zero", "one", "two", "three"], vectors, [path.name for path in known])
    gallery.save()
    return folder


@pytest.fixture(scope="module")
def model(people: Path) -> TrainedModel:
    return stagetune.load(people / "run", device="cpu")


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier's run."""
    return train("+experiment=classifier_staged", tmp_path_factory.mktemp("kinds") / "run")


def train(experiment: str, folder: Path) -> Path:
    config = compose([experiment, *TINY])
    config.schedule.stages, config.schedule.leave_frozen = config.schedule.stages[:1], True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stagetune.run.experiment.draw_run", lambda *_: None)
        run_experiment(config, folder)
    return folder


@pytest.fixture(scope="module")
def server(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The address of a server of two workers, and its process."""
    words = ["run", "--gallery", "gallery", "--port", "0", "--workers", "2", "--max-mb", str(MEGABYTES)]
    temporary = tmp_path_factory.mktemp("temporary")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)}
    with (people / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, str(SERVE), *words], cwd=people, stderr=log, text=True, env=environment
        )
    try:
        while (said := (people / "log.txt").read_text()).count("startup complete") < 2:
            assert process.poll() is None, said
            time.sleep(0.1)
        yield re.findall(r"http://[\d.:]+", said)[0], process
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def serve() -> Any:
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("serve", SERVE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def given(run: Path, **more: Any) -> Namespace:
    return Namespace(**{"model": run, "gallery": None, "max_mb": MEGABYTES, "trust": False, **more})


def test_two_hundred_at_once_are_answered_as_by_the_library(
    people: Path, model: TrainedModel, server: Server
) -> None:
    address, process = server
    workers = psutil.Process(process.pid).children()
    content = {path.name: path.read_bytes() for path in sorted(people.glob("*.png"))}
    damaged, oversized = content["0.png"][:300], bytes(int(MEGABYTES * 1e6) + 1)
    asked: list[tuple[str, dict[str, bytes]]] = []
    expected: list[tuple[int, Any]] = []
    for one, other in itertools.product(content, content):
        asked.append(("verify", {"a": content[one], "b": content[other]}))
        expected.append((200, asdict(model.verify(people / one, people / other))))
    for name in content:
        [found] = model.identify(people / name, people / "gallery")
        asked.append(("identify", {"file": content[name]}))
        expected.append((200, {**asdict(found), "image": "upload"}))
    for route, files, status, sentence in (
        ("verify", {"a": content["0.png"], "b": damaged}, 422, "b: cannot be read as an image (image file is trunca"),
        ("verify", {"a": b"hello", "b": damaged}, 422, "a: cannot be read as an image (is none of JPEG, PNG"),
        ("verify", {"a": content["0.png"]}, 422, "b: send a picture as a file of the form"),
        ("verify", {"a": content["0.png"], "b": oversized}, 413, "a request may have 0.2 MB"),
        ("predict", {"file": content["0.png"]}, 409, "predict needs the model of a classifier"),
    ):
        asked.append((route, files))
        expected.append((status, sentence))
    asked, expected = (list(itertools.islice(itertools.cycle(of), 200)) for of in (asked, expected))

    async def ask_all() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None)) as client:
            posts = (
                client.post(f"{address}/{route}", files={name: ("upload", data) for name, data in files.items()})
                for route, files in asked
            )
            return await asyncio.gather(*posts)

    for response, (status, answer) in zip(asyncio.run(ask_all()), expected, strict=True):
        assert response.status_code == status, response.text
        if status == 200:
            assert_alike(response.json(), answer)
        else:
            assert response.json()["detail"].startswith(answer)
            assert str(people) not in response.text
    verified = [answer for status, answer in expected if status == 200 and "is_same" in answer]
    assert {answer["is_same"] for answer in verified} == {True, False}
    assert httpx.get(f"{address}/health").json() == {"status": "ok"}
    assert httpx.get(f"{address}/info").json()["key"] == model.description.key
    assert psutil.Process(process.pid).children() == workers
    for worker in workers:
        files = Path(f"/proc/{worker.pid}/fd")
        held = [os.readlink(file) for file in files.iterdir() if file.exists()] if files.exists() else []
        assert not [name for name in held if "temporary" in name]  # no upload is kept


def assert_alike(told: Any, answer: Any) -> None:
    """Numbers up to their last bits, which depend on the number of threads."""
    if isinstance(answer, dict):
        assert told.keys() == answer.keys()
        for key in answer:
            assert_alike(told[key], answer[key])
    elif isinstance(answer, list | tuple):
        for one, other in zip(told, answer, strict=True):
            assert_alike(one, other)
    elif isinstance(answer, float):
        assert told == pytest.approx(answer, rel=1e-5, abs=1e-6)
    else:
        assert told == answer


def test_a_body_that_does_not_say_how_long_it_is_is_refused_before_its_end(server: Server) -> None:
    host, port = server[0].removeprefix("http://").split(":")
    head = 'Content-Disposition: form-data; name="a"; filename="a.png"\r\n\r\n'
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    start = f"--x\r\n{head}".encode()
    with socket.create_connection((host, int(port)), timeout=20) as client:
        client.sendall(
            b"POST /verify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        )
        client.sendall(f"{len(start):x}\r\n".encode() + start + b"\r\n")
        for _ in range(4):  # a last chunk never comes
            client.sendall(chunk)
        assert client.recv(1000).startswith(b"HTTP/1.1 413")


def test_what_waits_and_what_is_awaited_is_bounded(serve: Any, kinds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(content: AsyncIterator[bytes] | None = None) -> tuple[httpx.Response, httpx.Response]:
        transport = httpx.ASGITransport(serve.make_app(given(kinds)))
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            headers = {"Content-Type": "multipart/form-data; boundary=x"}
            return await client.post("/predict", content=content, headers=headers), await client.get("/health")

    async def slow() -> AsyncIterator[bytes]:
        yield b"--x\r\n"
        await asyncio.sleep(60)

    monkeypatch.setattr(serve, "SECONDS", 0.1)
    late, health = asyncio.run(ask(slow()))
    assert (late.status_code, health.status_code) == (408, 200)
    assert late.json()["detail"] == "the request has not come within 0.1 s; send it again"
    monkeypatch.setattr(serve, "WAITING", 0)
    refused, health = asyncio.run(ask())
    assert (refused.status_code, health.status_code) == (503, 200)
    assert refused.headers["Retry-After"] == "2"
    assert refused.json()["detail"] == "too many requests are waiting; send it again later"


def test_a_picture_of_absurd_size_is_refused(
    serve: Any, kinds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("L", (64, 64)).save(tmp_path / "large.png")
    served = serve.make_app(given(kinds))
    for limit in (3000, 1000):  # of which Pillow warns, and which it refuses
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        response = asyncio.run(posted(served, "/predict", file=tmp_path / "large.png"))
        assert response.status_code == 422
        assert "file: cannot be read as an image (Image size (4096 pixels) exceeds limit" in response.json()["detail"]


async def posted(served: Any, route: str, **files: Path) -> httpx.Response:
    transport = httpx.ASGITransport(served)
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        return await client.post(route, files={name: (path.name, path.read_bytes()) for name, path in files.items()})


def test_a_gallery_of_another_model_is_refused_before_anything_is_served(
    serve: Any, kinds: Path, people: Path
) -> None:
    with pytest.raises(DataError, match="was built by another model"):
        serve.make_app(given(kinds, gallery=people / "gallery"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM or not DRIVER:
        pytest.skip("needs chromium and chromedriver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for word in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync", "window-size=900,1000",
    ):  # fmt: skip
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(DRIVER))
    yield driver
    driver.quit()


def answer(browser: Any, heading: str) -> str:
    """What the page says under a heading, once it says so."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.wait import WebDriverWait

    def said(_: Any) -> str:
        text = str(browser.find_element(By.ID, "answer").text)
        return text if text.startswith(heading) else ""

    return str(WebDriverWait(browser, 20).until(said))


def choose(browser: Any, name: str, path: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(browser, 20).until(lambda _: browser.find_elements(By.NAME, name))[0].send_keys(str(path))


DROP = """
const [name, bytes] = arguments, carried = new DataTransfer()
carried.items.add(new File([Uint8Array.from(atob(bytes), (c) => c.charCodeAt(0))], "dropped.png"))
const place = document.querySelector(`[name=${name}]`).closest("label")
place.dispatchEvent(new DragEvent("drop", {dataTransfer: carried, bubbles: true, cancelable: true}))
"""


def test_two_pictures_on_the_page_are_the_same_or_not(
    people: Path, model: TrainedModel, server: Server, browser: Any
) -> None:
    import base64

    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    browser.get(server[0])
    choose(browser, "a", people / "0.png")
    ActionChains(browser).send_keys(Keys.TAB).perform()  # by keyboard to the first place
    assert browser.switch_to.active_element.get_attribute("name") == "a"
    assert "Picture A" in browser.switch_to.active_element.accessible_name
    dropped = {n: base64.b64encode((people / f"{n}.png").read_bytes()).decode() for n in range(6)}
    browser.execute_script(DROP, "b", dropped[0])
    said = answer(browser, "Same")
    assert f"distance is {0:.2f}" in said
    assert [image.size["height"] > 100 for image in browser.find_elements(By.CSS_SELECTOR, "label img")] == [True] * 2
    other = next(n for n in dropped if not model.verify(people / "0.png", people / f"{n}.png").is_same)
    browser.execute_script(DROP, "b", dropped[other])
    found = model.verify(people / "0.png", people / f"{other}.png")
    assert f"with a probability of {100 * found.probability:.0f}%" in answer(browser, "Different")
    (people / "damaged.png").write_bytes((people / "0.png").read_bytes()[:300])
    choose(browser, "a", people / "damaged.png")
    assert "a: cannot be read as an image" in answer(browser, "No answer")
    (people / "damaged.png").unlink()
    assert [entry for entry in browser.get_log("browser") if "422" not in entry["message"]] == []


def test_one_picture_on_the_page_has_its_classes(serve: Any, kinds: Path, people: Path, browser: Any) -> None:
    [found] = stagetune.load(kinds, device="cpu").predict(people / "3.png")
    with running(serve.make_app(given(kinds))) as address:
        browser.get(address)
        choose(browser, "file", people / "3.png")
        said = answer(browser, "Unknown" if found.is_unknown else found.label)
        told = httpx.post(f"{address}/predict", files={"file": ("3.png", (people / "3.png").read_bytes())}).json()
    assert said.splitlines()[1:] == [f"{name}: {100 * sure:.0f}%" for name, sure in found.top]
    assert_alike(told, {**asdict(found), "image": "3.png"})


@contextmanager
def running(served: Any) -> Iterator[str]:
    """An app on loopback, in a thread of this process."""
    one = uvicorn.Server(uvicorn.Config(served, port=0, log_level="warning"))
    thread = threading.Thread(target=one.run)
    thread.start()
    while not one.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{one.servers[0].sockets[0].getsockname()[1]}"
    one.should_exit = True
    thread.join()


def test_a_server_that_is_told_to_end_answers_what_it_has_begun(people: Path, server: Server) -> None:
    """The last test of this file: it ends the server that the others ask."""
    address, process = server
    host, port = address.removeprefix("http://").split(":")
    family = psutil.Process(process.pid).children(recursive=True)
    image = (people / "0.png").read_bytes()
    request = httpx.Request("POST", f"{address}/verify", files={"a": ("a", image), "b": ("b", image)})
    body = request.read()
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    with socket.create_connection((host, int(port)), timeout=20) as client:
        client.sendall(f"POST /verify HTTP/1.1\r\n{head}\r\n".encode() + body[:1000])
        time.sleep(0.2)
        process.terminate()
        while (people / "log.txt").read_text().count("Shutting down") < 2:
            time.sleep(0.05)
        client.sendall(body[1000:])
        assert client.recv(10_000).startswith(b"HTTP/1.1 200")
    assert process.wait(30) == 0
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--port", "99999"], "argument --port: 99999: give a number from 0 to 65535"),
        (["--workers", "0"], "argument --workers: 0: give a number from 1 to 1000"),
        (["--max-mb", "nan"], "argument --max-mb: nan: give a number from 0.001 to 1000"),
    ],
)
def test_a_number_that_makes_no_server_is_said(
    words: list[str], said: str, serve: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["serve.py", "run", *words])
    with pytest.raises(SystemExit, match="2"):
        serve.arguments()
    assert said in capsys.readouterr().err
