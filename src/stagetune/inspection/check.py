"""All that is looked for in the data of a configuration, and what was found."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import takewhile
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stagetune.config.schema import Config
from stagetune.config.settings import DataSettings
from stagetune.data.groups import group_numbers, some
from stagetune.data.source import IntArray, Pairs, Source
from stagetune.data.splits import Split, check_explicit_pairs, make_split
from stagetune.errors import DataError
from stagetune.inspection.copies import Copies, exact_copies, near_copies
from stagetune.inspection.features import untouched_features
from stagetune.inspection.labels import Probed, alike, cross_validated, doubts
from stagetune.inspection.looks import Looks, looks_of
from stagetune.inspection.oddities import blurred, dark, long, small
from stagetune.run.build import check_targets
from stagetune.run.data import build_source, reading_of
from stagetune.run.screen import Screen

KINDS = {  # worst first; on the screen the first word
    "leaks": "copies in two parts, so that the test is of memory",
    "conflicts": "copies with different labels",
    "doubted": "labels that a cross-validated probe doubts",
    "alike": "classes that look alike, such as one identity twice",
    "flat": "images of one colour",
    "dark": "dark images",
    "blurred": "blurred images",
    "small": "images that are enlarged more than twice for the network",
    "long": "images of an extreme shape",
    "frames": "files with several pictures, of which the first is taken",
    "copies": "copies within a part",
}


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, or odd, and the images that show it.

    Attributes:
        images: their indices.
        text: what was seen, beside their names.
        score: a number for it, which the kind of finding gives its meaning.
    """

    images: tuple[int, ...]
    text: str
    score: float


@dataclass(frozen=True)
class Checked:
    """What was found in the data of a configuration.

    Attributes:
        config: whose data they are.
        source: the images that can be read.
        split: into the parts of a run; where there can be none, all are in train.
        looks: what was measured of each image.
        unreadable: the images that cannot be read, with the reason.
        refused: why a run would stop at these data; empty if it would not.
        features: of which weights they are, or "none" and why.
        probe: how often the probe is right, in words, or why it is left out; empty where there are no features.
        found: of each kind the findings, worst first.
    """

    config: Config
    source: Source
    split: Split
    looks: Looks
    unreadable: Sequence[str]
    refused: str
    features: str
    probe: str
    found: dict[str, list[Finding]]

    @cached_property
    def part(self) -> list[str]:
        """The part that each image is in; empty for one that the split leaves out."""
        names = [""] * len(self.source)
        for part, indices in self.split.parts().items():
            for index in indices.tolist():
                names[index] = part
        return names

    def short(self, index: int) -> str:
        """What an image is called, without the folder that all of them share."""
        return self.source.describe(index).removeprefix(self._shared)

    @cached_property
    def _shared(self) -> str:
        names = [self.source.describe(index) for index in range(len(self.source))]
        alike = takewhile(lambda pair: pair[0] == pair[1], zip(min(names), max(names), strict=False))
        return "".join(letter for letter, _ in alike).rpartition(os.sep)[0] + os.sep

    def label(self, index: int) -> str:
        """The name of an image's class; empty where the data have none."""
        return self.source.classes[self.source.labels[index]] if self.config.data.has_identities else ""


def check(config: Config, screen: Screen) -> Checked:
    """Look at the images of a configuration as a run would see them; nothing is trained but a probe.

    Args:
        config: of a run.
        screen: is told what takes its time.

    Raises:
        StagetuneError: where there is nothing to look at, such as a folder that is not there.
    """
    check_targets(config)
    size, data = config.input().size, config.data
    with reading_of(config, screen, decodes_once=False) as reading:
        source, pairs, scale = build_source(replace(config, data=_tolerant(data)), reading)
    split, refused = _divided(config, source, pairs)
    with _bar(len(source), "looking at images") as done:
        looks = looks_of(source, size, done)
    if config.cache.features == "off":
        features, words = None, "the feature cache is off (cache=auto)"
    else:
        with _waiting(f"computing the features of {len(source):,} images"):
            features, words = untouched_features(config, source, split, scale, screen)
    probed, probe = None, ""
    if features is None:
        words = f"none: {words}"
    elif not data.has_identities:
        probe = "left out: the data say of pairs alone whether they are of one identity"
    else:
        try:
            with _waiting("asking a probe about the labels"):
                probed = cross_validated(features, source.labels, group_numbers(source))
            probe = f"right about {probed.accuracy:.1%} of {len(probed.images):,} images that it has not seen"
            probe += "" if is_heard(probed) else ", too few for its doubts to count"
        except ValueError as error:
            probe = f"left out: {error}"
    found: dict[str, list[Finding]] = {kind: [] for kind in KINDS}
    checked = Checked(config, source, split, looks, getattr(source, "unreadable", []), refused, words, probe, found)
    with _waiting("comparing images"):
        near = near_copies(looks.small, source.contents, looks.sides.min(axis=1), features)
    _file_copies(checked, [*exact_copies(source.contents), *near])
    if probed is not None:
        found["doubted"] = _doubted(checked, probed)
    if features is not None and data.has_identities:
        found["alike"] = _alike(checked, features, probed)
    found |= _odd(checked)
    return checked


def _tolerant(data: DataSettings) -> DataSettings:
    """The same data, of which images that cannot be read are counted."""
    return replace(data, on_error="skip") if "on_error" in {field.name for field in fields(data)} else data  # type: ignore[call-arg]


def _divided(config: Config, source: Source, pairs: Pairs | None) -> tuple[Split, str]:
    """The split of a run, copies in two parts or not; and why a run would stop at it."""
    data, refused = config.data, ""
    try:
        split = make_split(source, **data.division(), published=data.published)
    except DataError as error:
        refused = str(error)
        try:
            split = make_split(source, **data.division(), published=True)
        except DataError:
            none = np.zeros(0, dtype=np.int64)
            return Split(np.arange(len(source)), none, none), refused
    try:
        if pairs is not None:
            check_explicit_pairs(split, pairs)
        config.task.check(source, split, pairs)
    except DataError as error:
        refused = refused or str(error)
    return split, refused


@contextmanager
def _bar(total: int, text: str) -> Iterator[Callable[[], None]]:
    """Within, a bar on a terminal; calling what is given moves it on."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(text, total=total)
        yield lambda: progress.advance(task)


def _waiting(text: str) -> AbstractContextManager[object]:
    """Within, a line on a terminal says what takes its time."""
    return Console(stderr=True).status(text) if Console(stderr=True).is_terminal else nullcontext()


def _file_copies(checked: Checked, copies: Sequence[Copies]) -> None:
    """Tell copies by what is wrong with them: in two parts, with two labels; or neither, or both."""
    part, found = checked.part, checked.found
    for one in copies:
        parts = [name for name in ("train", "val", "test") if name in {part[i] for i in one.images}]
        labels = sorted({checked.label(i) for i in one.images})
        text = "the same pixels" if one.is_exact else f"nearly the same ({one.likeness:.3f})"
        if len(parts) > 1:
            found["leaks"].append(Finding(one.images, f"{text}, in {' and '.join(parts)}", one.likeness))
        if len(labels) > 1:
            found["conflicts"].append(Finding(one.images, f"{text}, as {some(labels)}", one.likeness))
        if len(parts) == 1 and len(labels) == 1:
            found["copies"].append(Finding(one.images, text, one.likeness))


def _doubted(checked: Checked, probed: Probed) -> list[Finding]:
    if not is_heard(probed):
        return []
    classes = checked.source.classes
    return [
        Finding((one.image,), f"{checked.label(one.image)}, rather {classes[one.guess]}", one.margin)
        for one in doubts(probed)
    ]


def is_heard(probed: Probed) -> bool:
    """Whether the probe is right more often than not, and than the answer that is most frequent."""
    return probed.accuracy > max(0.5, probed.majority)


def _alike(checked: Checked, features: npt.NDArray[np.floating], probed: Probed | None) -> list[Finding]:
    labels, classes, found = checked.source.labels, checked.source.classes, []
    for pair in alike(features, labels, probed):
        images = [int(i) for one in (pair.first, pair.second) for i in np.flatnonzero(labels == one)[:3]]
        text = f"{classes[pair.first]} and {classes[pair.second]}, told apart {pair.told_apart:.0%} of the time"
        found.append(Finding(tuple(images), text, pair.told_apart))
    return found


def _odd(checked: Checked) -> dict[str, list[Finding]]:
    looks, size = checked.looks, checked.config.input().size

    shape = looks.sides.max(axis=1) / np.maximum(looks.sides.min(axis=1), 1)

    def each(images: IntArray, scores: npt.NDArray[Any], text: Callable[[int], str]) -> list[Finding]:
        return [Finding((i,), text(i), float(scores[i])) for i in images.tolist()]

    def sides(i: int) -> str:
        width, height = looks.sides[i].tolist()
        return f"{width} x {height}"

    def gray(i: int) -> str:
        return f"mean gray value {looks.light[i]:.0f} of 255"

    return {
        "flat": each(np.flatnonzero(looks.flat), looks.light, gray),
        "dark": each(dark(looks), looks.light, gray),
        "blurred": each(blurred(looks), looks.sharp, lambda i: f"sharpness {looks.sharp[i]:.2g}"),
        "small": each(small(looks, size), looks.sides.min(axis=1), lambda i: f"{sides(i)} for {size} px"),
        "long": each(long(looks), shape, sides),
        "frames": each(np.flatnonzero(looks.frames > 1), looks.frames, lambda i: f"{looks.frames[i]} pictures"),
    }
