"""A trained model over HTTP, with a page to try it on. Run: python examples/serve.py outputs/people --gallery staff

It needs pip install 'stagetune[serve]'. Then, with a siamese run's model:
    curl -F a=@one.jpg -F b=@two.jpg http://127.0.0.1:8000/verify
"""

import argparse
import asyncio
import os
import signal
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
from fastapi import FastAPI, HTTPException, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from PIL import Image, UnidentifiedImageError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import stagetune
from stagetune.errors import DataError, StagetuneError, shown
from stagetune.inference.answers import Identification, Prediction, Verification
from stagetune.inference.gallery import Gallery

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # not EPS, for which Pillow would start Ghostscript
WAITING = 256  # requests that a worker holds; the next ones are asked to come again
SECONDS = 60  # within which a request's body must have come
T = TypeVar("T")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Serve a trained model over HTTP, with a page to try it on.")
    parser.add_argument("model", type=Path, help="a run, a checkpoint or an exported file")
    parser.add_argument("--gallery", type=Path, help="whom to know: a folder that stagetune gallery build has made")
    parser.add_argument(
        "--host", default="127.0.0.1", help="0.0.0.0 answers other machines, too (default: 127.0.0.1)"
    )
    parser.add_argument("--port", type=between(int, 0, 65535), default=8000)
    parser.add_argument(
        "--workers", type=between(int, 1, 1000), default=os.cpu_count(), help="processes (default: one per core)"
    )
    parser.add_argument(
        "--max-mb",
        type=between(float, 0.001, 1000),
        default=10,
        help="of a request with all its pictures (default: 10)",
    )
    parser.add_argument("--trust", action="store_true", help="run the network of its own that a checkpoint names")
    return parser.parse_args()


def between(kind: Callable[[str], float], least: float, most: float) -> Callable[[str], float]:
    """How a number of the command line is read."""

    def number(text: str) -> float:
        value = kind(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text}: give a number from {least:g} to {most:g}")
        return value

    return number


def app() -> FastAPI:
    """What each worker serves. It is started with the same command line as its parent."""
    return make_app(arguments())


def make_app(given: argparse.Namespace) -> FastAPI:
    """The routes of one model; what it is decides which of them answer."""
    import torch  # here, since a worker has to tell its parent quickly that it lives

    torch.set_num_threads(1)  # there are as many workers as cores
    warnings.simplefilter("error", Image.DecompressionBombWarning)  # pictures of absurd size
    model = stagetune.load(given.model, trust=given.trust, device="cpu")
    gallery = Gallery.open(given.gallery) if given.gallery else None
    if gallery:
        gallery.check_model(model.description.key, str(given.model))
    alone = ThreadPoolExecutor(1)  # computes one request after the other, while the event loop takes in more
    served = FastAPI(title="stagetune", version=stagetune.__version__, docs_url=None, redoc_url=None)
    served.add_middleware(Bounds, max_bytes=int(given.max_mb * 1e6))

    async def computed(answer: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(alone, answer)

    async def verify(a: UploadFile, b: UploadFile) -> Verification:
        return await computed(lambda: model.verify(picture("a", a), picture("b", b)))

    async def identify(file: UploadFile) -> Identification:
        [found] = await computed(lambda: model.identify(picture("file", file), gallery or ""))
        return replace(found, image=file.filename or "")

    async def predict(file: UploadFile) -> Prediction:
        [found] = await computed(lambda: model.predict(picture("file", file)))
        return replace(found, image=file.filename or "")

    is_siamese = model.description.task == "siamese"
    for route, is_there, need in (
        (verify, is_siamese, "the model of a siamese run"),
        (identify, is_siamese and gallery, "the model of a siamese run, and a server started with --gallery FOLDER"),
        (predict, not is_siamese, "the model of a classifier"),
    ):
        served.post(f"/{route.__name__}")(route if is_there else refusing(f"{route.__name__} needs {need}"))

    @served.get("/", response_class=HTMLResponse)
    def page() -> str:
        return PAGE

    @served.get("/info")
    def info() -> dict[str, Any]:
        return {**asdict(model.description), "runtime": {"name": model.runtime.name, **model.runtime.about}}

    @served.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @served.exception_handler(StagetuneError)
    def say(_: Request, error: StagetuneError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422 if isinstance(error, DataError) else 500)

    @served.exception_handler(RequestValidationError)
    def say_which(_: Request, error: RequestValidationError) -> JSONResponse:
        fields = " and ".join(str(one["loc"][-1]) for one in error.errors())
        return JSONResponse({"detail": f"{fields}: send a picture as a file of the form (curl -F NAME=@FILE)"}, 422)

    return served


def refusing(why: str) -> Callable[[], None]:
    """A route that says why it has no answer, without reading what was sent."""

    def refuse() -> None:
        raise HTTPException(409, f"{why}; GET /info says which model is served here")

    return refuse


def picture(field: str, upload: UploadFile) -> Image.Image:
    """What was sent, decoded. Raises `DataError` for what is no picture, is damaged or has too many pixels."""
    try:
        image = Image.open(upload.file, formats=FORMATS)
        image.load()
    except UnidentifiedImageError as error:
        raise DataError(f"{field}: cannot be read as an image (is none of {', '.join(FORMATS)})") from error
    except Exception as error:  # Pillow's decoders raise many types for a damaged file
        raise DataError(f"{field}: cannot be read as an image ({error})") from error
    return image


class Bounds:
    """Refuses what is too large, too slow or too much, before or while it is read.

    Args:
        app: what answers the rest.
        max_bytes: of a request's body, whether or not the request says how long it is.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app, self.max_bytes, self.inside = app, max_bytes, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = int(dict(scope.get("headers", ())).get(b"content-length", 0))  # that it is a number, uvicorn checks
        read, until = 0, asyncio.get_running_loop().time() + SECONDS

        async def bounded() -> Message:
            nonlocal read
            if self.inside > WAITING:
                raise HTTPException(503, "too many requests are waiting; send it again later", {"Retry-After": "2"})
            try:
                async with asyncio.timeout_at(until):
                    message: Message = {} if length > self.max_bytes else await receive()
            except TimeoutError as error:
                raise HTTPException(408, f"the request has not come within {SECONDS} s; send it again") from error
            read += len(message.get("body", b""))
            if max(read, length) > self.max_bytes:
                raise HTTPException(413, f"a request may have {self.max_bytes / 1e6:g} MB; send smaller pictures")
            return message

        self.inside += 1
        try:
            await self.app(scope, receive if scope["type"] == "lifespan" else bounded, send)
        finally:
            self.inside -= 1


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>stagetune</title><link rel="icon" href="data:,">
<style>
  :root { color-scheme: light dark; --line: light-dark(#c9ced6, #48505c); --card: light-dark(#fff, #20252c);
    --blue: light-dark(#2458d3, #8ab0ff); --good: light-dark(#11734b, #62d8a0); --bad: light-dark(#b3261e, #ff9c92) }
  body { margin: 0; font: 17px/1.5 system-ui, sans-serif; background: light-dark(#f4f5f7, #14181d) }
  main { max-width: 46rem; margin: 0 auto; padding: 2.5rem 1rem } h1 { margin: 0 } p { margin: .4rem 0 }
  #pictures { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1.5rem 0 }
  label { flex: 1 15rem; height: 17rem; display: grid; place-content: center; text-align: center; position: relative;
    overflow: hidden; border: 2px dashed var(--line); border-radius: 14px; background: var(--card) }
  label.over, label:hover, label:focus-within { border-color: var(--blue) }
  label:focus-within { outline: 3px solid var(--blue); outline-offset: 2px }
  label img, label input { position: absolute; inset: 0; width: 100%; height: 100%; cursor: pointer }
  label img { object-fit: contain; background: var(--card) } label input { opacity: 0 }
  small { display: block; opacity: .75 } meter { width: 100% } h2 { margin: 0; font-size: 2rem; color: var(--tone) }
  #answer:not(:empty) { display: block; padding: 1.2rem 1.5rem; border-radius: 14px; background: var(--card);
    border-left: 8px solid var(--tone) }
</style>
<main><h1></h1><p id="how"></p><div id="pictures"></div><output id="answer" aria-live="polite"></output></main>
<script>
const $ = (selector) => document.querySelector(selector)
const make = (tag, content, ...inner) => {
  const made = Object.assign(document.createElement(tag), content)
  made.append(...inner)
  return made
}
const words = (...inner) => make("p", {}, ...inner)
const percent = (x) => (100 * x).toFixed(x > 0 && x < 0.01 ? 2 : 0) + "%"
const bar = (label, value) => words(label, make("meter", {value, ariaLabel: label}))
const inputs = []
let route, asked = 0

function say(tone, title, ...rest) {
  $("#answer").style.setProperty("--tone", `var(--${tone})`)
  $("#answer").replaceChildren(make("h2", {}, title), ...rest)
}
const tell = {
  verify: (found) => say(found.is_same ? "good" : "bad", found.is_same ? "Same" : "Different",
    words(`Their distance is ${found.distance.toPrecision(3)}; up to ${found.threshold.toPrecision(3)} is the same.`),
    bar(`They are the same with a probability of ${percent(found.probability)}.`, found.probability),
    words(`In validation, ${percent(found.far)} of different pairs were taken for the same.`)),
  predict: (found) => say(found.is_unknown ? "bad" : "good", found.is_unknown ? "Unknown" : found.label,
    ...found.top.map(([name, probability]) => bar(`${name}: ${percent(probability)}`, probability))),
}
async function ask() {
  const mine = ++asked, body = new FormData()
  $("#answer").replaceChildren()
  if (!inputs.every((input) => input.files.length)) return
  for (const input of inputs) body.append(input.name, input.files[0])
  let show = () => say("bad", "No answer", words("The server cannot be reached, or broke off."))
  try {
    const response = await fetch(route, {method: "POST", body}), found = await response.json()
    show = () => response.ok ? tell[route](found) : say("bad", "No answer", words(found.detail))
  } finally {
    if (mine === asked) show()  // else other pictures are there by now
  }
}
function place(name, title) {
  const image = make("img", {alt: "", hidden: true}), input = make("input", {type: "file", name, accept: "image/*"})
  const label = make("label", {}, make("b", {}, title), make("small", {}, "drop it here, or choose it"), image, input)
  input.onchange = () => {
    URL.revokeObjectURL(image.src)
    image.hidden = !input.files.length
    if (input.files.length) image.src = URL.createObjectURL(input.files[0])
    ask()
  }
  label.ondragover = () => label.classList.add("over")
  label.ondragleave = () => label.classList.remove("over")
  label.ondrop = (event) => {
    label.classList.remove("over")
    input.files = event.dataTransfer.files
    input.onchange()
  }
  inputs.push(input)
  $("#pictures").append(label)
}
ondragover = ondrop = (event) => event.preventDefault()  // or the browser would leave for the picture
fetch("info").then((response) => response.json()).then(({task, classes}) => {
  const [title, how, ...places] = task === "siamese"
    ? ["Same or not?", "Do two pictures show the same?", ["a", "Picture A"], ["b", "Picture B"]]
    : ["What is it?", `Which of ${classes.length} classes does a picture show?`, ["file", "Picture"]]
  route = task === "siamese" ? "verify" : "predict"
  $("h1").append(document.title = title)
  $("#how").append(how)
  for (const [name, title] of places) place(name, title)
})
</script>
</html>
"""


def main() -> None:
    given = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn gives the signal on once all is answered
    with shown("stopped"):
        make_app(given)  # a mistake is said once, here, and not by every worker
    uvicorn.run(
        f"{Path(__file__).stem}:app",
        factory=True,
        app_dir=str(Path(__file__).parent),
        host=given.host,
        port=given.port,
        workers=given.workers,
        access_log=False,
        timeout_graceful_shutdown=SECONDS,
        timeout_worker_healthcheck=SECONDS,  # on a busy machine a worker begins slowly
    )


if __name__ == "__main__":
    main()
