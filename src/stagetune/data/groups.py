"""Groups of images, such as those of a patient: how they are told, and which of them belong together."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stagetune.config.settings import GroupSettings
from stagetune.data.source import IntArray, Source
from stagetune.errors import DataError

if TYPE_CHECKING:
    from stagetune.config.schema import Config

SHOWN = 5  # names in one message


@dataclass
class PathGroupSettings(GroupSettings):
    """What data of files can be told, whose paths may say the group of each image."""

    group_pattern: str | None = None

    def problems(self, config: "Config") -> Iterator[str]:
        yield from GroupSettings.problems(self, config)
        try:
            re.compile(self.group_pattern or "")
        except re.error as error:
            yield f"data.group_pattern={self.group_pattern}: is no regular expression ({error})"


def groups_of_paths(paths: Sequence[str], pattern: str) -> list[str]:
    """Of each path what the first brackets of a regular expression match there, or all of it where it has none.

    Raises:
        DataError: once for all paths in which it is not found, or finds nothing.
    """
    found = [re.search(pattern, path) for path in paths]
    groups = [(match[1] if match.re.groups else match[0]) if match else None for match in found]
    if without := [path for path, group in zip(paths, groups, strict=True) if not group]:
        raise DataError(
            f"data.group_pattern={pattern}: gives no group for {len(without)} of {len(paths)} images, such as "
            f"{some(without)}; it is searched in paths like these"
        )
    return [group for group in groups if group]


def class_groups(labels: IntArray, image_groups: Sequence[str] | None) -> list[str] | None:
    """Of each class the group that all its images belong to; None if there is a class of several groups."""
    if image_groups is None:
        return None
    pairs = sorted(set(zip(labels.tolist(), image_groups, strict=True)))
    return [group for _, group in pairs] if len(pairs) == len(np.unique(labels)) else None


def group_numbers(source: Source) -> IntArray | None:
    """The group of each image [n], counted in the order of their names; None where none are known."""
    if source.image_groups is None:
        return None
    return np.unique(source.image_groups, return_inverse=True)[1].astype(np.int64)


def joined(count: int, links: Sequence[tuple[int, int]]) -> list[int]:
    """For each of `count` things the first of those that links join it with."""
    owner = list(range(count))

    def root(i: int) -> int:
        while owner[i] != i:
            owner[i] = owner[owner[i]]
            i = owner[i]
        return i

    for a, b in links:
        low, high = sorted((root(a), root(b)))
        owner[high] = low
    return [root(i) for i in range(count)]


def joined_by_copies(groups: IntArray, contents: Sequence[str]) -> IntArray:
    """Of each group [groups] the first one with which copies of one picture join it, directly or through others."""
    first: dict[str, int] = {}
    links = [
        (first.setdefault(content, group), group) for content, group in zip(contents, groups.tolist(), strict=True)
    ]
    return np.array(joined(int(groups.max()) + 1, [(a, b) for a, b in links if a != b]), dtype=np.int64)


def some(names: Sequence[str]) -> str:
    """The first few of many."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
