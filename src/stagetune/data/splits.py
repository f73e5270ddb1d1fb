"""Who is trained on and who is tested on: pure functions of labels and seed, and a check for leaks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stagetune.data.division import (
    by_groups,
    check_named,
    divided,
    fold_by_groups,
    fold_by_identities,
    fold_by_images,
)
from stagetune.data.groups import joined_by_copies, some
from stagetune.data.source import IntArray, Pairs, Source
from stagetune.errors import DataError

GIVE_GROUPS = (
    "give them by folder or file name (data=image_folder with data.group_level or data.group_pattern), in a table "
    "(data=identity_csv with a column group, or data.columns.group=NAME), or as `group` of the items of your own data"
)


@dataclass(frozen=True)
class Split:
    """Image indices of each part, ascending."""

    train: IntArray
    val: IntArray
    test: IntArray

    def parts(self) -> dict[str, IntArray]:
        return {"train": self.train, "val": self.val, "test": self.test}


def make_split(
    source: Source,
    *,
    by: str,
    val: float,
    test: float,
    seed: int,
    val_groups: Sequence[str] | None = None,
    test_groups: Sequence[str] | None = None,
    published: bool = False,
    folds: int | None = None,
    fold: int = 0,
) -> Split:
    """The split that the data set brings, else one by images (stratified), by identities or by groups.

    Where the one that it brings has no validation, that is drawn from train; where it has no test, half of validation
    is the test. With `folds` the test is the fold of
    that number, so that over all of them every image is tested once.

    Raises `DataError` where a picture (unless the data is `published`) or, with `by="identities"`, an identity or,
    with `by="groups"`, a group stands in two parts, and where a part has fewer than 2 classes.
    """
    if by == "groups" and source.image_groups is None:
        raise DataError(f"data.split=groups: {source.name} knows no groups; {GIVE_GROUPS}")
    if source.split is not None:
        for key, asked in (("folds", folds), ("val_groups", val_groups), ("test_groups", test_groups)):
            if asked:
                raise DataError(f"data.{key}={asked}: {source.name} brings its own split; leave data.{key} out")
        where = np.array(source.split)
        split = Split(*(np.flatnonzero(where == part) for part in ("train", "val", "test")))
        if len(split.test) and not len(split.val):
            drawn = _drawn(source, split.train, by, val, seed)
            split = Split(split.train[~drawn], split.train[drawn], split.test)
        elif len(split.val) and not len(split.test):
            drawn = _drawn(source, split.val, by, 1 / 2, seed, least=2)
            split = Split(split.train, split.val[~drawn], split.val[drawn])
    elif folds is not None:
        draw = {"groups": fold_by_groups, "identities": fold_by_identities}.get(by, fold_by_images)
        split = _of_parts(draw(source, folds=folds, fold=fold, val=val, seed=seed))
    elif by == "groups":
        named = {"val_groups": val_groups or (), "test_groups": test_groups or ()}
        split = _of_parts(by_groups(source, val=val, test=test, seed=seed, **named))
    elif by == "identities":
        part_of_class = _identities_apart(source, val, test, seed, val_groups or (), test_groups or ())
        split = _of_parts(part_of_class[source.labels])
    else:
        split = _images_by_share(source, val, test, seed)
    check_split(source, split, by, published=published)
    return split


def copies_across(source: Source, split: Split) -> list[str]:
    """In words, each image whose picture stands in an earlier part, too."""
    seen: dict[str, tuple[str, int]] = {}
    found = []
    for part, indices in split.parts().items():
        for index in indices.tolist():
            other, twin = seen.setdefault(source.contents[index], (part, index))
            if other != part:
                found.append(f"in {other} and in {part}: {source.describe(twin)} and {source.describe(index)}")
    return found


def check_split(source: Source, split: Split, by: str, *, published: bool = False) -> None:
    """Raise `DataError` for a leak between the parts or a part that nothing can be learnt from.

    Copies of a picture in two parts of `published` data stay: results are compared on it as it is.
    """
    if not published and (copies := copies_across(source, split)):
        raise DataError(f"the same picture stands {copies[0]}; remove one of them, or the test would be of memory")
    classes = {part: set(source.labels[indices].tolist()) for part, indices in split.parts().items()}
    for part, present in classes.items():
        if len(present) < 2:
            have = ", ".join(source.classes[i] for i in sorted(present)) or "none"
            what = "images, classes or groups" if by == "groups" else "images or classes"
            raise DataError(
                f"the {part} split has fewer than 2 classes ({have}); give more {what}{_or_other_shares(source)}"
            )
    for part in ("val", "test"):
        if by == "identities" and (shared := classes["train"] & classes[part]):
            names = ", ".join(source.classes[i] for i in sorted(shared)[:5])
            raise DataError(f"data.split=identities, but {names} of {part} are in train too; keep them apart")
        if by == "groups" and (crossing := _groups_across(source, split, part)):
            raise DataError(f"data.split=groups, but {some(crossing)} of {part} are in train too; keep them apart")
        if by != "identities" and (unknown := classes[part] - classes["train"]):
            names = ", ".join(source.classes[i] for i in sorted(unknown)[:5])
            raise DataError(
                f"{names} of {part} are not in train; add images of them there, "
                "or use data.split=identities with task=siamese to test on unseen identities"
            )
    if by == "identities" and (shared := classes["val"] & classes["test"]):
        names = ", ".join(source.classes[i] for i in sorted(shared)[:5])
        raise DataError(f"data.split=identities, but {names} of val are in test too; keep them apart")
    if by == "groups" and (crossing := _groups_across(source, split, "test", "val")):
        raise DataError(f"data.split=groups, but {some(crossing)} of val are in test too; keep them apart")


def split_notes(source: Source, split: Split, by: str) -> list[str]:
    """What a person should know of a split: groups that it does not keep apart, classes that it leaves untested."""
    notes = []
    if by == "images" and source.image_groups and source.groups is None:
        for part in ("test", "val"):
            if crossing := _groups_across(source, split, part):
                count = len(set(source.image_groups))
                notes.append(
                    f"{len(crossing)} of {count} groups have images in train and in {part}; "
                    "data.split=groups keeps them apart"
                )
                break
    if source.groups is not None and len(set(source.groups)) == len(source.classes):
        notes.append("every class is of one group, and no other class is: what tells them apart may be the group")
    if by != "identities":
        for part, indices in (("validation", split.val), ("test", split.test)):
            if lacking := sorted(set(source.labels.tolist()) - set(source.labels[indices].tolist())):
                names = some([source.classes[i] for i in lacking])
                notes.append(f"{part} has no image of {names}, so that nothing measured there is of them")
    return notes


def check_pairs(source: Source, split: Split) -> None:
    """Raise `DataError` if a part has no two images of one identity, so that nothing could be verified."""
    for part, indices in split.parts().items():
        counts = np.bincount(source.labels[indices])
        if counts.max() < 2:
            raise DataError(
                f"the {part} split has no two images of one identity ({len(indices)} images of "
                f"{(counts > 0).sum()} identities), so there are no same pairs; give more images of each identity"
                f"{_or_other_shares(source)}"
            )


def check_explicit_pairs(split: Split, pairs: Pairs) -> int:
    """How many pairs lie across two parts and are not used.

    Raises `DataError` if a part has no same or no different ones.
    """
    used = 0
    for part, indices in split.parts().items():
        inside = np.isin(pairs.first, indices) & np.isin(pairs.second, indices)
        counts = np.bincount(pairs.is_same[inside], minlength=2)
        if not counts.all():
            raise DataError(
                f"the {part} split has {counts[1]} same and {counts[0]} different pairs, but needs both; give more "
                "pairs, a column split, or change data.val and data.test"
            )
        used += int(counts.sum())
    return len(pairs.is_same) - used


def _images_by_share(source: Source, val: float, test: float, seed: int) -> Split:
    """Stratified by class; copies of one picture go to the same part."""
    rng = np.random.default_rng([seed, 1])
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    for label in range(len(source.classes)):
        copies: dict[str, list[int]] = {}
        for index in np.flatnonzero(source.labels == label).tolist():
            copies.setdefault(source.contents[index], []).append(index)
        pictures = list(copies.values())
        order = rng.permutation(len(pictures))
        n_val, n_test = _shares(len(pictures), val, test)
        for rank, picture in enumerate(order.tolist()):
            part = 1 if rank < n_val else 2 if rank < n_val + n_test else 0
            parts[part].extend(pictures[picture])
    return Split(*(np.array(sorted(part), dtype=np.int64) for part in parts))


def leave_split_of_images(source: Source) -> None:
    """Have identities divided by share where the split that the data brings has the same ones in train and test."""
    if source.split is None:
        return
    where = np.array(source.split)
    train, test = (set(source.labels[where == part].tolist()) for part in ("train", "test"))
    if train & test:
        source.split = None
        source.notes.append(
            "its own split has the same classes in train and test, so that identities are divided anew"
        )


def _drawn(
    source: Source, among: IntArray, by: str, share: float, seed: int, least: int = 3
) -> npt.NDArray[np.bool_]:
    """Which of some images are drawn for another part, as where the data set brings no split.

    By images stratified by class, one of each that has `least` pictures, with copies of one picture together; or by
    identities, or by groups.
    """
    labels = source.labels[among]
    if by == "groups":
        groups = np.unique([(source.image_groups or [])[i] for i in among.tolist()], return_inverse=True)[1]
        unit = joined_by_copies(groups, [source.contents[i] for i in among.tolist()])
        unit = np.unique(unit, return_inverse=True)[1][groups]
        return divided(labels, unit, (1 - share, share), seed=seed)[unit] > 0
    if by == "identities":
        identities = np.unique(labels)
        count = max(2, _shares(len(identities), share, 0.0)[0])
        return np.isin(labels, np.random.default_rng([seed, 2]).permutation(identities)[:count])
    rng, taken = np.random.default_rng([seed, 1]), []
    for label in np.unique(labels):
        copies: dict[str, list[int]] = {}
        for index in among[labels == label].tolist():
            copies.setdefault(source.contents[index], []).append(index)
        pictures = list(copies.values())
        count = _shares(len(pictures), share, 0.0, least)[0]
        for picture in rng.permutation(len(pictures))[:count].tolist():
            taken += pictures[picture]
    return np.isin(among, taken)


def _or_other_shares(source: Source) -> str:
    """The end of a message on a part that is too small; the data may bring its parts."""
    return "" if source.split else ", or change data.val, and data.test or data.folds"


def _of_parts(part: IntArray) -> Split:
    """The split of the part of each image: 0 for train, 1 for val, 2 for test."""
    return Split(*(np.flatnonzero(part == number) for number in range(3)))


def _groups_across(source: Source, split: Split, part: str, other: str = "train") -> list[str]:
    """The groups that have images in both parts."""
    groups = source.image_groups or []
    inside, beside = ({groups[i] for i in split.parts()[name].tolist()} for name in (part, other))
    return sorted(inside & beside)


def _identities_apart(
    source: Source, val: float, test: float, seed: int, val_groups: Sequence[str], test_groups: Sequence[str]
) -> IntArray:
    """Per class 0 for train, 1 for val, 2 for test, by its group; a part without groups is drawn from the others."""
    if (val_groups or test_groups) and source.image_groups and source.groups is None:
        raise DataError(
            "data.split=identities: some identities have images of several groups, so that no group of identities "
            "can be held out; use data.split=groups with data.val_groups and data.test_groups"
        )
    check_named(source.name, sorted(set(source.groups or [])), val_groups, test_groups)
    groups = source.groups or [""] * len(source.classes)
    part = np.array([1 if group in val_groups else 2 if group in test_groups else 0 for group in groups])
    order = np.random.default_rng([seed, 2]).permutation(np.flatnonzero(part == 0))
    n_val, n_test = (max(2, n) for n in _shares(len(order), val, test))
    n_val, n_test = 0 if val_groups else n_val, 0 if test_groups else n_test
    part[order[:n_val]], part[order[n_val : n_val + n_test]] = 1, 2
    return part


def _shares(count: int, val: float, test: float, least: int = 3) -> tuple[int, int]:
    """How many of `count` go to val and to test: at least one each where `least` or more are there."""
    if count < least:
        return 0, 0
    return max(1, round(count * val)), max(1, round(count * test))
