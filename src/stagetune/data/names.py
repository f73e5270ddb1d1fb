"""What people call the parts of a data set, and classes whose names may be one name. No torch."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence

PARTS: Mapping[str, Sequence[str]] = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "dev"),
    "test": ("test", "testing"),
}


def part_called(name: str) -> str | None:
    """Which of train, val and test is meant, in whatever letters; None for another name.

    >>> part_called("Validation")
    'val'
    """
    return next((part for part, usual in PARTS.items() if name.lower() in usual), None)


def has_control_characters(name: str) -> bool:
    """Whether there are line breaks, tabs or the like in it, which no name of a class has."""
    return any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in name)


def notes_on_likeness(classes: Iterable[str]) -> list[str]:
    """In words, the classes whose names differ in case, blanks or the way that accents are written alone."""
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(" ".join(unicodedata.normalize("NFKC", name).casefold().split()), []).append(name)
    return [
        f"classes {' and '.join(map(repr, names))} differ in case or blanks alone; name them alike if they are one"
        for names in alike.values()
        if len(names) > 1
    ]
