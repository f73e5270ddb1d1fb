"""What was found, as lines on a screen, as JSON, and as an exit code."""

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from stagetune.inspection.check import KINDS, Checked, Finding

SHOWN = 3  # findings of a kind that the screen names
LONGEST = 300  # letters of a line
NAMED = 8  # classes on one line
UNREADABLE = 3  # exit code: some images cannot be read
SPOILT = 5  # exit code: a run would stop, or be tested on what it has seen


def exit_code(checked: Checked) -> int:
    """5 where a run would stop at the data or, unless they are published, has copies across parts; 3; 0."""
    is_leaking = checked.found["leaks"] and not checked.config.data.published
    return SPOILT if checked.refused or is_leaking else UNREADABLE if checked.unreadable else 0


def summary(checked: Checked) -> Iterator[tuple[str, str]]:
    """Lines with what each is about, worst first; then what there is."""
    config, source = checked.config, checked.source
    what = f" of {len(source.classes):,} classes" if config.data.has_identities else ""
    counts = ", ".join(f"{part} {len(indices):,}" for part, indices in checked.split.parts().items())
    yield "data", f"{source.name}, {len(source):,} images{what}; {counts}"
    for note in source.notes:
        yield "", textwrap.shorten(note, LONGEST, placeholder=" ...")
    if checked.refused:
        yield "stops", f"a run stops here: {checked.refused}"
    if checked.unreadable:
        yield "broken", _some("images that cannot be read", checked.unreadable, len(checked.unreadable))
    for kind, title in KINDS.items():
        if found := checked.found[kind]:
            yield kind, _some(title, [_named(checked, kind, one) for one in found[:SHOWN]], len(found))
    if not any([checked.refused, checked.unreadable, *checked.found.values()]):
        yield "found", "nothing wrong or odd"
    if config.data.has_identities:
        yield "classes", _class_words(checked)
    facts = checked.looks.facts
    (width, height), middle, (widest, highest) = (
        of.astype(int).tolist() for of in (f(checked.looks.sides, axis=0) for f in (np.min, np.median, np.max))
    )
    kinds = Counter(one.mode for one in facts), Counter(one.format for one in facts if one.format)
    files = "; ".join(", ".join(f"{name} {count:,}" for name, count in kind.most_common()) for kind in kinds if kind)
    yield "images", f"{width} x {height} to {widest} x {highest}, median {middle[0]} x {middle[1]}; {files}"
    if deep := _range(checked):
        yield "", f"values of deep images {deep[0]:g} to {deep[1]:g}"
    yield "features", checked.features + (f"; the probe is {checked.probe}" if checked.probe else "")


def as_json(checked: Checked) -> dict[str, Any]:
    """All that was found, for a program; docs/checking.md says what each key is."""
    config, source, part = checked.config, checked.source, checked.part
    facts, sides = checked.looks.facts, checked.looks.sides

    def image(index: int) -> dict[str, Any]:
        return {"image": source.describe(index), "part": part[index], "label": checked.label(index)}

    return {
        "name": config.name,
        "data": source.name,
        "images": len(source),
        "parts": {name: _part(checked, indices.tolist()) for name, indices in checked.split.parts().items()},
        "sides": {
            side: dict(zip(("least", "median", "largest"), _three(sides[:, axis]), strict=True))
            for axis, side in enumerate(("width", "height"))
        },
        "modes": dict(Counter(one.mode for one in facts)),
        "formats": dict(Counter(one.format for one in facts if one.format)),
        "range": _range(checked),
        "notes": list(source.notes),
        "features": checked.features,
        "probe": checked.probe or None,
        "refused": checked.refused or None,
        "unreadable": list(checked.unreadable),
        "found": {
            kind: [
                {"images": [image(i) for i in one.images], "text": one.text, "score": one.score} for one in findings
            ]
            for kind, findings in checked.found.items()
        },
        "exit_code": exit_code(checked),
    }


def _part(checked: Checked, indices: list[int]) -> dict[str, Any]:
    if not checked.config.data.has_identities:
        return {"images": len(indices)}
    counts = Counter(checked.label(i) for i in indices)
    baseline = majority(checked)
    share = [baseline, counts[baseline] / len(indices)] if baseline and indices else None
    return {"images": len(indices), "classes": dict(sorted(counts.items())), "majority": share}


def majority(checked: Checked) -> str | None:
    """The class that most training images have: whoever answers it always has the baseline's accuracy.

    None where the parts have other classes than training has.
    """
    if checked.config.data.split == "identities":
        return None
    counts = np.bincount(checked.source.labels[checked.split.train], minlength=len(checked.source.classes))
    return checked.source.classes[int(counts.argmax())]


def _class_words(checked: Checked) -> str:
    counts = Counter(checked.label(i) for i in range(len(checked.source))).most_common()
    said = ", ".join(f"{name} {count:,}" for name, count in counts)
    if len(counts) > NAMED:
        said = f"{counts[0][0]} has {counts[0][1]:,} images, {counts[-1][0]} {counts[-1][1]:,}"
    parts = {part: _part(checked, indices.tolist())["majority"] for part, indices in checked.split.parts().items()}
    shares = ", ".join(f"{found[1]:.1%} of {part}" for part, found in parts.items() if found)
    baseline = f"; always {majority(checked)} is right about {shares}" if shares else ""
    return textwrap.shorten(said + baseline, LONGEST, placeholder=" ...")


def _named(checked: Checked, kind: str, one: Finding) -> str:
    if kind == "alike":  # it names classes
        return one.text
    return f"{' = '.join(checked.short(i) for i in one.images[:2])} ({one.text})"


def _some(title: str, names: Sequence[str], count: int) -> str:
    listed = ", ".join(names[:SHOWN])
    such = f", such as {listed}" if count > SHOWN else f" ({listed})"
    return textwrap.shorten(f"{title}: {count:,}{such}", LONGEST, placeholder=" ...")


def _three(values: np.ndarray) -> list[int]:
    return [int(values.min()), int(np.median(values)), int(values.max())]


def _range(checked: Checked) -> list[float] | None:
    """The least and the largest value of deep images; None where there are none."""
    facts = checked.looks.facts
    lows, highs = ([getattr(one, key) for one in facts if getattr(one, key) is not None] for key in ("low", "high"))
    return [float(min(lows)), float(max(highs))] if lows else None
