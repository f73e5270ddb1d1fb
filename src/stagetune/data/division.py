"""The part of each image where groups are kept apart, and where the test is a fold: functions of data and seed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from stagetune.data.groups import group_numbers, joined_by_copies, some
from stagetune.data.source import IntArray, Source
from stagetune.errors import DataError, did_you_mean

TRAIN, VAL, TEST = range(3)


def by_groups(
    source: Source, *, val: float, test: float, seed: int, val_groups: Sequence[str], test_groups: Sequence[str]
) -> IntArray:
    """The part of each image [n]: no group in two of them, every class in train, and in all of them by its share.

    Groups that have copies of one picture count as one. A part whose groups are named has these and no others.

    Raises:
        DataError: for groups that are not there, for too few, and for a class that would leave train.
    """
    names, units, unit = _units(source, 3)
    check_named(source.name, names, val_groups, test_groups)
    given: dict[int, int] = {}
    for part, chosen in ((VAL, val_groups), (TEST, test_groups)):
        for name in chosen:
            if given.setdefault(int(units[names.index(name)]), part) != part:
                raise DataError(
                    f"{name} of data.test_groups has a picture that a group of data.val_groups has, too; hold "
                    "out both for the same, or remove the picture from one"
                )
    held_out = np.isin(unit, list(given))
    if lost := sorted(set(source.labels.tolist()) - set(source.labels[~held_out].tolist())):
        raise DataError(
            f"data.val_groups and data.test_groups: have all images of {some([source.classes[i] for i in lost])}, so "
            "that none is left to train on; hold out other groups"
        )
    return divided(source.labels, unit, (1 - val - test, val, test), seed=seed, given=given)[unit]


def fold_by_groups(source: Source, *, folds: int, fold: int, val: float, seed: int) -> IntArray:
    """The same, with the groups of a fold as the test; of each class folds have equal shares, as near as can be.

    As scikit-learn's StratifiedGroupKFold, largest groups first, each to where it is wanted most.
    """
    _, _, unit = _units(source, max(3, folds))
    equal = [1 / folds] * folds
    fold_of = divided(source.labels, unit, equal, seed=seed, keeps_first=False)
    for label, name in enumerate(source.classes):
        if len(np.unique(fold_of[unit[source.labels == label]])) == 1:
            images = np.flatnonzero(source.labels == label).tolist()
            groups = sorted({(source.image_groups or [])[image] for image in images})
            raise DataError(
                f"data.folds={folds}: all images of {name} are of {some(groups)} and in one fold, so that none would "
                "be left to train on; give it images of other groups, or leave data.folds out"
            )
    given = dict.fromkeys(np.flatnonzero(fold_of == fold).tolist(), TEST)
    return divided(source.labels, unit, (1 - val - 1 / folds, val, 1 / folds), seed=seed, given=given)[unit]


def fold_by_images(source: Source, *, folds: int, fold: int, val: float, seed: int) -> IntArray:
    """The part of each image [n] by class, with a fold as the test; copies of one picture go to the same part.

    What follows a fold in the order of its class is its validation. Raises `DataError` for a class of one picture.
    """
    rng = np.random.default_rng([seed, 14])
    part = np.zeros_like(source.labels)
    dealt = 0
    for label, name in enumerate(source.classes):
        images = np.flatnonzero(source.labels == label)
        picture = np.unique([source.contents[i] for i in images.tolist()], return_inverse=True)[1]
        count = int(picture.max()) + 1
        if count < 2:
            raise DataError(
                f"data.folds={folds}: {name} has one picture, so that none would be left to train on; give more, or "
                "leave data.folds out"
            )
        drawn = _dealt(rng.permutation(count), dealt, folds, fold, round(count * val))
        part[images] = drawn[picture]
        dealt += count
    return part


def fold_by_identities(source: Source, *, folds: int, fold: int, val: float, seed: int) -> IntArray:
    """The part of each image [n], no identity in two of them, with a fold of the identities as the test."""
    count = len(source.classes)
    order = np.random.default_rng([seed, 14]).permutation(count)
    return _dealt(order, 0, folds, fold, max(2, round(count * val)))[source.labels]


def check_named(name: str, known: Sequence[str], val_groups: Sequence[str], test_groups: Sequence[str]) -> None:
    """Raise `DataError` for a group that is to be held out and is not there, or is to be for two parts."""
    for group in [*val_groups, *test_groups]:
        if group not in known:
            raise DataError(
                f"{name} has no group named {group}; {did_you_mean(group, known) if known else 'it has none'}"
            )
        if group in val_groups and group in test_groups:
            raise DataError(f"{group} stands in data.val_groups and in data.test_groups; leave it in one of them")


def divided(
    labels: IntArray,
    groups: IntArray,
    shares: Sequence[float],
    *,
    seed: int,
    given: Mapping[int, int] | None = None,
    keeps_first: bool = True,
) -> IntArray:
    """The part of each group, so that of each class every part has its share, as near as groups allow.

    Greedy, as scikit-learn's StratifiedGroupKFold: the largest groups first, each to where it lessens the squared
    distance to the shares most, relative to them. A class that has no more groups to come than there are parts
    without it goes to one of these.

    Args:
        labels: the class of each image [n].
        groups: the group of each image [n], counted from 0.
        shares: of each part, together 1.
        seed: decides among groups that are alike.
        given: the part of some groups; no other group goes there, and the first part's share is what is left.
        keeps_first: whether every class that is not all given is in the first part.

    Returns:
        The part of each group [groups].
    """
    given = given or {}
    (of, cls), count = np.unique(np.stack([groups, labels]), axis=1, return_counts=True)
    weight = count / np.bincount(labels)[cls]  # of its class, what the images of a class in a group are
    rows = np.split(np.arange(len(of)), np.searchsorted(of, np.arange(1, of.max() + 1)))
    want = np.repeat(np.array(shares, dtype=float)[:, None], labels.max() + 1, axis=1)
    lacks = np.ones(want.shape, dtype=bool)
    to_come = np.bincount(cls)
    part = np.zeros(len(rows), dtype=np.int64)

    def place(group: int, where: int) -> None:
        classes = cls[rows[group]]
        part[group] = where
        want[where, classes] -= weight[rows[group]]
        lacks[where, classes] = False
        to_come[classes] -= 1

    for group, where in given.items():
        place(group, where)
    open_parts = np.array([p for p in range(len(shares)) if p not in given.values()])
    if given:  # what was wanted of a part that is full is wanted of the first, or was taken from it
        full = [p for p in range(len(shares)) if p not in open_parts]
        want[0] += want[full].sum(axis=0)
    scale = np.maximum(want[open_parts].mean(axis=1), 0.01)
    size = np.log2(np.bincount(of, weights=weight**2)).round()  # coarse, so that the seed has something to draw
    order = np.random.default_rng([seed, 15]).permutation(len(rows))
    for group in order[np.argsort(-size[order], kind="stable")].tolist():
        if group in given:
            continue
        classes, share = cls[rows[group]], weight[rows[group]]
        without = lacks[open_parts][:, classes]
        if keeps_first and (lacks[0, classes] & (to_come[classes] == 1)).any():
            place(group, 0)
            continue
        scarce = to_come[classes] <= without.sum(axis=0)
        missed = (scarce & ~without).sum(axis=1)
        gain = (2 * want[open_parts][:, classes] - share) @ share / scale
        place(group, int(open_parts[np.lexsort((-gain, missed))[0]]))
    return part


def _units(source: Source, needed: int) -> tuple[list[str], IntArray, IntArray]:
    """The names of the groups; the unit of each, and of each image: groups with copies of a picture are one."""
    groups = group_numbers(source)
    assert groups is not None
    if source.groups is not None and len(set(source.groups)) < len(source.groups):
        raise DataError(
            f"data.split=groups: every class of {source.name} lies in one group, so that val and test would be of "
            "classes never trained on; for that use data.split=identities with data.val_groups and data.test_groups"
        )
    names = sorted(set(source.image_groups or ()))
    units: IntArray = np.unique(joined_by_copies(groups, source.contents), return_inverse=True)[1].astype(np.int64)
    if (count := int(units.max()) + 1) < needed:
        apart = "" if count == len(names) else f", of which {count} share no picture"
        raise DataError(
            f"data.split=groups: {source.name} has {len(names)} groups ({some(names)}){apart}, and {needed} are "
            "needed; give more groups, or fewer data.folds, or use data.split=images"
        )
    return names, units, units[groups]


def _dealt(order: npt.NDArray[Any], first: int, folds: int, fold: int, val: int) -> IntArray:
    """The part of each of some things, dealt in `order` to the folds, from `first` on; train has at least one."""
    place = (np.arange(len(order)) + first - fold) % folds
    by_turn = order[np.argsort(place, kind="stable")]
    test = int((place == 0).sum())
    part = np.zeros(len(order), dtype=np.int64)
    part[by_turn[:test]] = TEST
    part[by_turn[test : test + min(max(1, val), len(order) - test - 1)]] = VAL
    return part
