"""Groups of images, such as patients: who says them, that none is in two parts; folds that test every image once."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from stagetune.config.compose import compose
from stagetune.config.schema import Config
from stagetune.data.division import divided
from stagetune.data.groups import class_groups
from stagetune.data.image_files import ImageFiles
from stagetune.data.sources.digits import Digits
from stagetune.data.sources.identity_csv import Columns, identity_csv
from stagetune.data.sources.image_folder import image_folder
from stagetune.data.sources.own import OwnImages
from stagetune.data.splits import Split, make_split, split_notes
from stagetune.data.wrappers.centred import Centred
from stagetune.data.wrappers.spliced import splice
from stagetune.data.wrappers.turned import turned
from stagetune.errors import ConfigError, DataError
from stagetune.evaluation.verification import bootstrap, interval_unit, report
from stagetune.run import run_experiment
from stagetune.run.data import build_data
from stagetune.run.words import data_words

SHARES: dict[str, Any] = {"val": 0.2, "test": 0.2, "seed": 0}


def source_of(labels: Any, groups: Any = None, contents: Any = None, split: Any = None) -> Any:
    """All that a split needs to know of images."""
    names = None if groups is None else [f"p{group}" for group in groups]
    return SimpleNamespace(
        name="scans",
        classes=[f"class{label}" for label in range(max(labels) + 1)],
        labels=np.array(labels),
        image_groups=names,
        groups=class_groups(np.array(labels), names),
        contents=list(map(str, range(len(labels)))) if contents is None else contents,
        split=split,
        __len__=lambda: len(labels),
        describe=lambda i: f"image {i} of {names[i] if names else 'none'}",
    )


def patients(seed: int, count: int = 40, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Labels and groups: a few images of each patient, mostly of one class."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(count), rng.integers(1, 15, count))
    mix = rng.dirichlet(np.full(classes, 0.3), count)
    return np.array([rng.choice(classes, p=mix[group]) for group in groups]), groups


def shares(labels: np.ndarray, part: np.ndarray, parts: int) -> np.ndarray:
    """Of each part and class, which share of the class lies there."""
    return np.stack([np.bincount(labels[part == p], minlength=labels.max() + 1) for p in range(parts)]) / np.bincount(
        labels
    )


# ------------------------------------------------------------------------------------------------------------- splits


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=12, max_size=80), st.integers(0, 5))
def test_no_group_is_in_two_parts_and_every_class_is_in_train(images: list[tuple[int, int]], seed: int) -> None:
    labels = np.unique([label for label, _ in images], return_inverse=True)[1]
    source = source_of(labels, [group for _, group in images])
    try:
        split = make_split(source, by="groups", val=0.2, test=0.2, seed=seed)
    except DataError as error:
        if any(words in str(error) for words in ("fewer than 2 classes", "and 3 are needed", "lies in one group")):
            return
        raise
    of = [{source.image_groups[i] for i in indices} for indices in split.parts().values()]
    assert sorted(name for part in of for name in part) == sorted(set(source.image_groups))
    assert set(labels[split.train]) == set(labels)
    again = make_split(source, by="groups", val=0.2, test=0.2, seed=seed)
    assert all(np.array_equal(split.parts()[part], again.parts()[part]) for part in split.parts())


def test_of_each_class_every_part_has_about_its_share_and_the_seed_draws() -> None:
    labels, groups = patients(0, count=150)
    found = [divided(labels, groups, (0.6, 0.2, 0.2), seed=seed)[groups] for seed in range(3)]
    for part in found:
        np.testing.assert_allclose(shares(labels, part, 3), [[0.6] * 3, [0.2] * 3, [0.2] * 3], atol=0.03)
    assert (found[0] != found[1]).any()


def test_folds_are_as_near_to_equal_as_scikit_learns() -> None:
    ours, theirs = [], []
    for seed in range(8):
        labels, groups = patients(seed)
        fold = np.zeros(len(labels), dtype=int)
        peer = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        for i, (_, test) in enumerate(peer.split(labels, labels, groups)):
            fold[test] = i
        theirs.append(np.abs(shares(labels, fold, 5) - 0.2).mean())
        drawn = divided(labels, groups, [0.2] * 5, seed=seed, keeps_first=False)[groups]
        ours.append(np.abs(shares(labels, drawn, 5) - 0.2).mean())
    assert np.mean(ours) <= 1.05 * np.mean(theirs)


@pytest.mark.parametrize("by", ["images", "identities", "groups"])
def test_over_all_folds_every_image_is_tested_once(by: str) -> None:
    labels, groups = patients(1, count=60, classes=12)
    contents = list(map(str, range(len(labels))))
    twin = int(np.flatnonzero((labels == labels[0]) & (groups != groups[0]))[0])
    if by != "identities":
        contents[twin] = contents[0]  # a copy, of another group
    source = source_of(labels, groups, contents)
    splits = [make_split(source, by=by, **SHARES, folds=5, fold=fold) for fold in range(5)]
    assert sorted(np.concatenate([split.test for split in splits])) == list(range(len(labels)))
    for split in splits:
        assert sorted(np.concatenate(list(split.parts().values()))) == list(range(len(labels)))
        if by != "identities":
            assert len(split.val) == pytest.approx(0.2 * len(labels), rel=0.25)
            assert sum(0 in part and twin in part for part in split.parts().values()) == 1
    if by == "images":
        np.testing.assert_allclose([len(split.test) for split in splits], len(labels) / 5, atol=2)
    other = make_split(source, by=by, **{**SHARES, "seed": 1}, folds=5)
    assert set(other.test.tolist()) != set(splits[0].test.tolist())


def test_named_groups_are_held_out_and_the_other_part_is_drawn() -> None:
    labels, groups = patients(2)
    split = make_split(source_of(labels, groups), by="groups", **SHARES, test_groups=["p3", "p17"])
    assert set(groups[split.test]) == {3, 17}
    assert not {3, 17} & (set(groups[split.val]) | set(groups[split.train]))
    assert len(split.val) == pytest.approx(0.2 * len(labels), rel=0.1)


def test_groups_with_a_copy_of_one_picture_stay_together() -> None:
    labels, groups = [0, 1] * 10, np.repeat(np.arange(10), 2)
    contents = [str(i) for i in range(20)]
    contents[6] = contents[0]  # p3 has a picture of p0
    source = source_of(labels, groups, contents)
    for seed in range(5):
        parts = make_split(source, by="groups", val=0.2, test=0.2, seed=seed).parts().values()
        assert sum(bool({0, 6} & set(part.tolist())) for part in parts) == 1
    with pytest.raises(DataError, match=r"p3 of data.test_groups has a picture that a group of data.val_groups has"):
        make_split(source, by="groups", **SHARES, val_groups=["p0"], test_groups=["p3"])


def test_a_class_of_one_group_is_trained_on_and_said_not_to_be_tested() -> None:
    labels, groups = [0, 1] * 10 + [2, 2], [*np.repeat(np.arange(10), 2), 10, 10]
    source = source_of(labels, groups)
    split = make_split(source, by="groups", **SHARES)
    assert {20, 21} <= set(split.train.tolist())
    assert split_notes(source, split, "groups") == [
        f"{part} has no image of class2, so that nothing measured there is of them" for part in ("validation", "test")
    ]


def test_classes_that_are_groups_are_said() -> None:
    confounded, alphabets = source_of([0, 0, 1, 1], [0, 0, 1, 1]), source_of([0, 0, 1, 1], [0, 0, 0, 0])
    split = Split(*(np.arange(4) for _ in range(3)))
    assert "every class is of one group, and no other class is" in split_notes(confounded, split, "images")[0]
    assert split_notes(alphabets, split, "images") == []


MIXED = ([0, 1] * 6, np.repeat(np.arange(6), 2))  # each of six patients has an image of both classes


@pytest.mark.parametrize(
    ("source", "more", "message"),
    [
        (source_of([0, 1] * 6), {}, "data.split=groups: scans knows no groups; give them by folder or file name"),
        (source_of([0, 1] * 2, [0, 0, 1, 1]), {}, r"scans has 2 groups \(p0, p1\), and 3 are needed; give more"),
        (source_of(*MIXED), {"folds": 7}, r"scans has 6 groups \(p0, p1, p2, p3, p4, \.\.\.\), and 7 are needed"),
        (source_of(*MIXED), {"test_groups": ["p9"]}, "scans has no group named p9; did you mean p5"),
        (
            source_of([0, 1] * 5 + [2, 2], MIXED[1]),
            {"test_groups": ["p5"]},
            "data.val_groups and data.test_groups: have all images of class2, so that none is left to train on",
        ),
        (
            source_of([0, 1] * 5 + [2, 2], MIXED[1]),
            {"folds": 3},
            "data.folds=3: all images of class2 are of p5 and in one fold, so that none would be left to train on",
        ),
        (
            source_of([0, 1] * 3, [0, 0, 1, 1, 2, 2]),
            {"folds": 2},
            r"the val split has fewer than 2 classes \(none\); give more images, classes or groups, or change "
            "data.val, and data.test or data.folds",
        ),
        (
            source_of([0, 0, 1, 1, 2, 2, 3, 3], [0] * 4 + [1] * 2 + [2] * 2),
            {},
            "every class of scans lies in one group, .*use data.split=identities with data.val_groups and data.test",
        ),
        (
            source_of(*MIXED, split=["train"] * 4 + ["val"] * 3 + ["test"] * 5),
            {},
            "data.split=groups, but p3 of val are in test too; keep them apart",
        ),
        (
            source_of(*MIXED, split=["train"] * 3 + ["val"] * 5 + ["test"] * 4),
            {},
            "data.split=groups, but p1 of val are in train too; keep them apart",
        ),
        (
            source_of(*MIXED, split=["train"] * 4 + ["val"] * 4 + ["test"] * 4),
            {"folds": 3},
            "data.folds=3: scans brings its own split; leave data.folds out",
        ),
    ],
)  # fmt: skip
def test_a_split_that_cannot_keep_groups_apart_is_refused(source: Any, more: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_split(source, by="groups", **SHARES, **more)


def test_a_split_of_images_says_which_groups_it_does_not_keep_apart() -> None:
    source = source_of(*MIXED, split=["train"] * 5 + ["val"] * 3 + ["test"] * 4)
    split = make_split(source, by="images", **SHARES)
    assert split_notes(source, split, "images") == [
        "1 of 6 groups have images in train and in val; data.split=groups keeps them apart"
    ]
    source.split = ["train", "train", "test", "test"] * 2 + ["val", "val", "train", "test"]
    split = make_split(source, by="images", **SHARES)
    assert split_notes(source, split, "images") == [
        "1 of 6 groups have images in train and in test; data.split=groups keeps them apart"
    ]
    alphabets = source_of([0, 0, 1, 1] * 3, [0] * 12)  # groups of classes cannot be kept apart
    assert split_notes(alphabets, make_split(alphabets, by="images", **SHARES), "images") == []


# ------------------------------------------------------------------------------------------------------------ readers


def scans(root: Path, pattern: str) -> Path:
    """An image for each of two kinds and six patients, where `pattern` says."""
    for kind in ("benign", "malign"):
        for patient in range(6):
            path = root / pattern.format(kind=kind, patient=f"patient{patient}")
            path.parent.mkdir(parents=True, exist_ok=True)
            level = 40 * patient + 20 * (kind == "malign")
            Image.new("RGB", (9, 8), (level, level, level)).save(path)
    return root


def of_images(source: ImageFiles) -> set[tuple[str, str]]:
    assert source.image_groups is not None
    return {(source.classes[label], group) for label, group in zip(source.labels, source.image_groups, strict=True)}


EXPECTED = {(kind, f"patient{patient}") for kind in ("benign", "malign") for patient in range(6)}


@pytest.mark.parametrize(
    ("pattern", "how"),
    [
        ("{kind}/{patient}/1.png", {"group_level": 2}),
        ("{patient}/{kind}/1.png", {"group_level": 1}),
        ("{kind}/{patient}_1.png", {"group_pattern": r"(patient\d+)_"}),
        ("{kind}/{patient}_1.png", {"group_pattern": r"patient\d+"}),
        ("{patient}/{kind}/1.png", {"group_pattern": r"^[^/]+", "depth": "2"}),
    ],
)
def test_a_folder_or_a_part_of_the_path_is_the_group_of_an_image(
    pattern: str, how: dict[str, Any], tmp_path: Path
) -> None:
    source = image_folder(scans(tmp_path / "images", pattern), **how)
    assert {(name.split("/")[-1], group) for name, group in of_images(source)} == EXPECTED
    assert (source.groups is None) == ("depth" not in how)  # there a class is of one patient


def test_groups_lie_below_the_folders_of_a_split(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        scans(tmp_path / part, "{patient}/{kind}/1.png")
    for how in ({"group_level": 1}, {"group_pattern": r"^(\w+)/", "depth": "2"}):
        assert {group for _, group in of_images(image_folder(tmp_path, **how))} == {f"patient{i}" for i in range(6)}


def test_paths_without_a_group_are_counted_and_named(tmp_path: Path) -> None:
    scans(tmp_path, "{kind}/{patient}_1.png")
    with pytest.raises(DataError) as caught:
        image_folder(tmp_path, group_pattern="patient[0-4]")
    assert str(caught.value) == (
        "data.group_pattern=patient[0-4]: gives no group for 2 of 12 images, such as benign/patient5_1.png, "
        "malign/patient5_1.png; it is searched in paths like these"
    )


def test_a_table_calls_its_columns_as_it_likes(tmp_path: Path) -> None:
    scans(tmp_path, "{kind}-{patient}.png")
    rows = [f"{kind}-{patient}.png,{kind},{patient}" for kind, patient in sorted(EXPECTED)]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["file,species,patient", *rows]))
    called = Columns(path="file", identity="species", group="patient")
    source = identity_csv(table, columns=called)
    assert of_images(source) == EXPECTED
    assert (source.groups, source.split) == (None, None)  # not the last line's patient for a species
    by_path = identity_csv(table, columns=Columns(path="file", identity="species"), group_pattern=r"-(\w+)")
    assert of_images(by_path) == EXPECTED
    with pytest.raises(DataError, match=r"has no column path and no column identity; .*data.columns.identity=NAME"):
        identity_csv(table)
    with pytest.raises(DataError, match=r"has no column pateint; did you mean patient\?"):
        identity_csv(table, columns=Columns(path="file", identity="species", group="pateint"))
    table.write_text("\n".join(["file,species,patient", *rows[:-1], rows[-1].rpartition(",")[0] + ","]))
    with pytest.raises(DataError, match="line 13: patient is empty; give every image its group, or none a column"):
        identity_csv(table, columns=called)


def test_an_own_data_set_may_give_the_group_of_each_image() -> None:
    grays = [np.full((8, 8), 20 * i, dtype=np.uint8) for i in range(4)]
    items = [{"image": gray, "label": i % 2, "group": i // 2 + 7} for i, gray in enumerate(grays)]
    source = OwnImages(items, "a.Items")
    assert (source.image_groups, source.groups) == (["7", "7", "8", "8"], None)
    assert OwnImages([(gray, 0) for gray in grays], "a.Items").image_groups is None
    for wrong, message in (
        ({}, "item 2 has no group; give one to all or to none"),
        ({"group": [1]}, r"item 2 has \[1\] as its group"),
    ):
        with pytest.raises(DataError, match=message):
            OwnImages([*items[:2], {"image": grays[2], "label": 0, **wrong}, items[3]], "a.Items")


def test_an_image_that_a_wrapper_adds_is_of_the_group_of_its_original() -> None:
    source = Digits()
    source.image_groups = [f"p{i % 50}" for i in range(len(source))]
    split = make_split(source, by="groups", **SHARES)
    for more, larger in (turned(source, split), splice(Centred(source), split, partners=2, seed=0)):
        of = [{more.image_groups[i] for i in part} for part in larger.parts().values()]
        assert len(more.image_groups) == len(more)
        assert sum(map(len, of)) == len(set.union(*of)) == 50


# ------------------------------------------------------------------------------------------------------ whole program


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["data.group_pattern='(p'"], "data.group_pattern=(p: is no regular expression ("),
        (
            ["data.group_level=1", "data.group_pattern=p"],
            "data.group_level and data.group_pattern: both say the group of an image; leave one of them out",
        ),
        (
            ["data.group_level=1", "data.depth=2"],
            "data.group_level and data.depth=2: both say what the two folders above an image are; leave one",
        ),
        (["data.folds=5", "data.fold=5"], "data.fold=5: there are data.folds=5, counted from 0 to 4"),
        (["data.fold=1"], "data.fold=1: has no effect without data.folds; add data.folds=5"),
        (
            ["data.folds=5", "data.test=0.3"],
            "data.test=0.3: has no effect with data.folds=5, one of which is the test",
        ),
        (
            ["data.folds=2", "data.val=0.5"],
            "data.val=0.5 and data.folds=2: leave nothing to train on, a fold is 0.5; take a smaller data.val",
        ),
        (
            ["data.folds=5", "data.split=groups", "data.test_groups=[a]"],
            "data.val_groups and data.test_groups: data.folds=5 draws both; leave one of them out",
        ),
        (
            ["data=identity_csv", "data.columns.grup=patient"],
            "data.columns.grup: no such key in data.columns; did you mean data.columns.group?",
        ),
        (
            ["data=identity_csv", "data.columns.group=file", "data.columns.path=file"],
            "data.columns.group and data.columns.path: are both file; each is a column of its own",
        ),
        (
            ["data=identity_csv", "data.columns.group=patient", "data.group_pattern=p"],
            "data.columns.group and data.group_pattern: both say the group of an image; leave one of them out",
        ),
    ],
)
def test_settings_that_do_not_fit_are_said(words: list[str], problem: str, tmp_path: Path) -> None:
    (tmp_path / "table.csv").touch()
    place = [f"data.csv={tmp_path}/table.csv"] if words[0] == "data=identity_csv" else [f"data.root={tmp_path}"]
    with pytest.raises(ConfigError) as caught:
        compose(["data=image_folder", *words, *place])
    (said,) = caught.value.problems
    assert said.startswith(problem)


def test_groups_may_be_named_by_numbers(tmp_path: Path) -> None:
    words = ["data=image_folder", f"data.root={tmp_path}", "data.split=groups", "data.test_groups=[3,p4]"]
    assert compose(words).data.test_groups == ["3", "p4"]


@pytest.mark.slow
def test_a_classifier_is_tested_on_a_fold_of_patients_and_says_so(tmp_path: Path) -> None:
    words = ["data=image_folder", f"data.root={scans(tmp_path, '{kind}/{patient}/1.png')}", "data.group_level=2"]
    config = compose([*words, "data.split=groups", "data.folds=3", "data.fold=1", "data.image_size=16"])
    data = build_data(config)
    said, counts = data_words(config, data).splitlines()[:2]
    assert counts == "benign 6, malign 6"
    assert said == (
        "image_folder, 12 images of 2 classes in 6 groups at 16 px; train 6, val 2, test 4; the test is fold 1 of 3 "
        "(unseen groups of known classes)"
    )
    config = compose([*words, "data.image_size=16"])
    assert "groups have images in train and in test; data.split=groups keeps them apart" in data_words(
        config, build_data(config)
    )


# ---------------------------------------------------------------------------------------------------------- intervals


def test_intervals_draw_the_units_that_they_are_told_and_weigh_pairs_by_them() -> None:
    rng = np.random.default_rng(0)
    identity = np.repeat(np.arange(12), 4)
    group = identity // 3
    first, second = np.triu_indices(len(identity), 1)
    is_same = identity[first] == identity[second]
    distance = rng.gamma(4, 0.3, len(first)) + 0.5 * ~is_same
    found = bootstrap(distance, group[first], group[second], {"auc": lambda roc: roc.auc}, is_same=is_same, draws=40)
    draws, values = np.random.default_rng([0, 6]), []
    for _ in range(40):
        times = np.bincount(draws.integers(0, 4, 4), minlength=4)
        a, b = group[first], group[second]
        weight = np.where(a == b, times[a], times[a] * times[b])
        values.append(roc_auc_score(is_same, -distance, sample_weight=weight))
    assert found["auc"] == pytest.approx(np.percentile(values, [2.5, 97.5]))


def test_the_unit_of_an_interval_is_the_coarser_of_identity_and_group() -> None:
    identity = np.array([0, 0, 1, 1, 2, 2])
    for groups, over in (
        (None, "identities"),
        (np.array([0, 0, 0, 0, 1, 1]), "groups"),
        (np.array([0, 1, 0, 1, 0, 1]), "identities"),  # sessions, in each of which all are
        (np.array([5, 5, 5, 5, 5, 5]), "identities"),  # nothing could be drawn
        (np.array([0, 0, 1, 1, 2, 2]), "identities"),
    ):
        name, unit = interval_unit(identity, groups)
        assert name == over
        assert np.array_equal(unit, groups if over == "groups" else identity)
    embeddings = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    known = torch.arange(20).repeat_interleave(3)
    over_groups = report(embeddings, known, threshold=1.0, groups=known.numpy() // 5)
    over_identities = report(embeddings, known, threshold=1.0)
    assert (over_groups["interval_over"], over_identities["interval_over"]) == ("groups", "identities")
    assert over_groups["auc"]["value"] == over_identities["auc"]["value"]
    assert over_groups["auc"]["low"] != over_identities["auc"]["low"]


@pytest.mark.slow
def test_a_run_says_over_what_its_intervals_are(tmp_path: Path, tiny: Callable[..., Config]) -> None:
    rng = np.random.default_rng(0)
    for group in "abcd":
        for identity in range(3):
            (tmp_path / "images" / group / str(identity)).mkdir(parents=True)
            for i in range(3):
                pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "images" / group / str(identity) / f"{i}.png")
    config = tiny(
        "+experiment=siamese_staged", "data=image_folder", f"data.root={tmp_path / 'images'}",
        "data.depth=2", "data.split=identities", "data.test_groups=[a,b]", "data.val_groups=[c]",
        "data.batch_size=8", "data.num_workers=0", stages=1,
    )  # fmt: skip
    result = run_experiment(config, tmp_path / "run")
    assert result.verification["interval_over"] == "groups"
    assert result.stages[0]["verification"]["interval_over"] == "identities"  # validation has one group


def test_classes_that_validation_or_test_have_no_image_of_are_said(tmp_path: Path) -> None:
    for kind, count in (("many", 10), ("some", 5), ("two", 2), ("one", 1)):
        for i in range(count):
            path = tmp_path / kind / f"{i}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (8, 8), (i * 20, len(kind), count)).save(path)
    config = compose(["data=image_folder", f"data.root={tmp_path}", "data.image_size=16", "data.seed=0"])
    said = data_words(config, build_data(config)).splitlines()
    assert said[1].startswith("many 10, some 5, two 2, one 1; uneven: ")
    none = "has no image of one, two, so that nothing measured there is of them"
    assert said[-2:] == [f"validation {none}", f"test {none}"]
