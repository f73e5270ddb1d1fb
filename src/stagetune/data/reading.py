"""Looking at all images of a source as a run begins: what is known is not read, what is read is read once."""

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import PIL
from filelock import Timeout

from stagetune.config.settings import MAX_MEGAPIXELS
from stagetune.data.facts import Facts
from stagetune.data.known import KnownFiles, Stamp

if TYPE_CHECKING:
    from torch import Tensor

PATIENCE = 2.0  # seconds without a word
EVERY = 1.0  # seconds, what was found is recorded
Counting = Callable[[str, int], AbstractContextManager[Callable[[], None]]]


class Lookable(Protocol):
    """An image that can be looked at."""

    @property
    def file(self) -> Path | None:
        """The file that holds it and nothing else; None where there is none."""

    def look(self, *, needed: int | None, max_megapixels: float) -> "tuple[Facts, Tensor | None]":
        """What it is and, but for a deep image, its pixels; raises what decoding raises."""


@contextmanager
def _uncounted(what: str, total: int) -> Iterator[Callable[[], None]]:
    yield lambda: None


class Reading:
    """How the sources that are built within `applied` look at their images, and what came of it.

    It is handed to them so, beside their settings, since it is of the run and not of any one kind of data.

    Args:
        needed: pixels of the shorter side that are enough; far larger JPEGs are decoded at a reduced scale.
        max_megapixels: an image of more is refused.
        known: files of which the facts are known.
        square: makes of the pixels what the table of decoded images has; None where there will be none.
        keep_bytes: of what it makes, at most so much is kept until the table takes it.
        table_bytes: a larger table will not be made, and nothing is kept for it.
        counting: what shows how far it is.
        say: told why it takes longer.
    """

    def __init__(
        self,
        *,
        needed: int | None = None,
        max_megapixels: float = MAX_MEGAPIXELS,
        known: KnownFiles | None = None,
        square: "Callable[[Tensor], Tensor] | None" = None,
        keep_bytes: float = 0,
        table_bytes: float = 0,
        counting: Counting = _uncounted,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.needed, self.max_megapixels, self.known = needed, max_megapixels, known
        self.counting, self._say = counting, say
        self._square, self._keep_bytes, self._table_bytes = square, keep_bytes, table_bytes
        self._kept: defaultdict[str, list[Tensor]] = defaultdict(list)  # by content
        self._held = ExitStack()  # locks
        self.looked = 0  # images that were listed
        self.read = 0  # images that were decoded
        self.known_before = 0  # images that were not, but for the table
        self.seconds = 0.0  # of it

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within, sources are built so."""
        token = _applied.set(self)
        try:
            yield
        finally:
            _applied.reset(token)

    def close(self) -> None:
        """Let go of what was kept, and let other processes that want the same images go on."""
        self._kept.clear()
        self._held.close()
        if self.known is not None:
            self.known.close()

    @contextmanager
    def timed(self) -> Iterator[None]:
        """What runs within is a part of `seconds`."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds += time.monotonic() - start

    def look_at(self, images: Sequence[Lookable]) -> list[Facts | Exception]:
        """What each of them is, or why it cannot be decoded."""
        self.looked += len(images)
        with self.timed():
            found: list[Facts | Exception | None] = [None] * len(images)
            stamps: list[Stamp | None] = [None] * len(images)
            self._recall(images, found, stamps)
            if None in found and self.known is not None:
                self._wait(self.known, [image.file for image in images if image.file is not None])
                self._recall(images, found, stamps)
            self.known_before += sum(facts is not None for facts in found)
            self._read(images, found, stamps)
        return [facts for facts in found if facts is not None]

    def take(self, content: str) -> "Tensor | None":
        """What `square` made of such an image, once for each that was decoded."""
        kept = self._kept.get(content)
        try:
            return kept.pop() if kept else None
        except IndexError:  # another thread was faster
            return None

    @property
    def _how(self) -> str:
        """What decides the facts of a file, beside it; another version of Pillow may decode another way."""
        return f"Pillow {PIL.__version__}, needed {self.needed}, at most {self.max_megapixels}"

    def _recall(
        self, images: Sequence[Lookable], found: list[Facts | Exception | None], stamps: list[Stamp | None]
    ) -> None:
        """Fill in what is known."""
        if self.known is None:
            return
        missing = [(i, image.file) for i, image in enumerate(images) if found[i] is None and image.file is not None]
        facts = self.known.facts([path for _, path in missing], self._how)
        for (i, _), (stamp, known) in zip(missing, facts, strict=True):
            stamps[i], found[i] = stamp, known

    def _wait(self, known: KnownFiles, paths: Sequence[Path]) -> None:
        """Let another process that reads the same images have its turn first."""
        lock = known.lock(paths)
        try:
            try:
                lock.acquire(timeout=PATIENCE)
            except Timeout:
                self._say("waiting for another process that reads the same images")
                lock.acquire()
        except (OSError, NotImplementedError):  # nowhere to write, or a file system without locks
            return
        self._held.callback(lock.release)

    def _read(
        self, images: Sequence[Lookable], found: list[Facts | Exception | None], stamps: Sequence[Stamp | None]
    ) -> None:
        """Decode what is not known, on all cores, and remember it as it comes, so that a killed start is not lost."""
        missing = [i for i, facts in enumerate(found) if facts is None]
        if not missing:
            return
        new: list[tuple[Path, Stamp, Facts]] = []
        recorded = time.monotonic()
        pool = ThreadPoolExecutor(os.cpu_count())
        try:
            with self.counting("reading images", len(missing)) as advance:
                for i, (facts, square) in zip(
                    missing, pool.map(self._look, [images[i] for i in missing]), strict=True
                ):
                    found[i], path, stamp = facts, images[i].file, stamps[i]
                    self.read += 1
                    if isinstance(facts, Facts) and path is not None and stamp is not None:
                        new.append((path, stamp, facts))
                    if isinstance(facts, Facts) and square is not None:
                        self._keep(facts.content, square, len(images))
                    if self.known is not None and time.monotonic() - recorded > EVERY:
                        self.known.record(new, self._how)
                        new, recorded = [], time.monotonic()
                    advance()
        finally:
            pool.shutdown(cancel_futures=True)
            if self.known is not None:
                self.known.record(new, self._how)

    def _keep(self, content: str, square: "Tensor", total: int) -> None:
        self._keep_bytes -= square.nbytes
        if self._keep_bytes < 0 or square.nbytes * total > self._table_bytes:
            self._square = None  # no more of them
        if self._square is not None:
            self._kept[content].append(square)

    def _look(self, image: Lookable) -> "tuple[Facts | Exception, Tensor | None]":
        try:
            facts, pixels = image.look(needed=self.needed, max_megapixels=self.max_megapixels)
        except Exception as error:  # Pillow's decoders raise many types for a damaged file
            return error, None
        square = self._square
        return facts, square(pixels) if square is not None and pixels is not None else None


_applied: ContextVar[Reading | None] = ContextVar("reading", default=None)


def applied_reading() -> Reading:
    """That which applies here; without one all is decoded whole, and nothing known or kept."""
    return _applied.get() or Reading()
