"""`stagetune data check`: what was planted in a data set is found, how much of it and how much else is stated."""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter
from sklearn.datasets import load_digits

from stagetune.cli import main
from stagetune.config.compose import compose
from stagetune.inspection.check import is_heard
from stagetune.inspection.copies import exact_copies, near_copies
from stagetune.inspection.labels import Probed, alike, cross_validated, doubts
from stagetune.run import run_experiment

TILE = 96


def photographs() -> list[Image.Image]:
    """Those that foolbox ships."""
    found = find_spec("foolbox")
    assert found
    assert found.origin
    return [
        Image.open(path).convert("RGB") for path in sorted((Path(found.origin).parent / "data").glob("imagenet*.jpg"))
    ]


def tiles(photograph: Image.Image) -> list[Image.Image]:
    """Twenty-five parts that do not overlap."""
    square = photograph.resize((5 * TILE, 5 * TILE), Image.Resampling.BICUBIC)
    return [square.crop((x * TILE, y * TILE, (x + 1) * TILE, (y + 1) * TILE)) for x in range(5) for y in range(5)]


def saved(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def cropped(image: Image.Image) -> Image.Image:
    """All but 5% of each side, from the middle."""
    cut = round(0.025 * TILE)
    return image.crop((cut, cut, TILE - cut, TILE - cut))


CHANGED: dict[str, Callable[[Image.Image], Image.Image]] = {
    "saved": lambda image: saved(image, 40),
    "resized": lambda image: image.resize((60, 60), Image.Resampling.BILINEAR),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "cropped": cropped,
}


ODD: dict[str, Callable[[Image.Image], Image.Image]] = {
    "flat": lambda image: Image.new("RGB", image.size, "gray"),
    "dark": lambda image: ImageEnhance.Brightness(image).enhance(0.06),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(8)),
}


@dataclass
class Planted:
    """A folder of images, and what is wrong with them, by file name."""

    root: Path
    leaks: set[frozenset[str]] = field(default_factory=set)
    near: dict[str, set[frozenset[str]]] = field(default_factory=dict)
    swapped: set[str] = field(default_factory=set)
    odd: dict[str, set[str]] = field(default_factory=dict)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """Ten classes of twenty-five tiles, of which fifteen are trained on."""
    plan = Planted(tmp_path_factory.mktemp("planted"))
    files: dict[tuple[int, int], Path] = {}
    for label, photograph in enumerate(photographs()[:10]):
        for i, tile in enumerate(tiles(photograph)):
            part = "train" if i < 15 else "val" if i < 20 else "test"
            files[label, i] = plan.root / part / f"c{label}" / f"{label}_{i:02d}.png"
            files[label, i].parent.mkdir(parents=True, exist_ok=True)
            tile.save(files[label, i])

    def copy(
        label: int, i: int, part: str, name: str, change: Callable[[Image.Image], Image.Image]
    ) -> frozenset[str]:
        original = files[label, i]
        target = plan.root / part / f"c{label}" / f"{label}_{name}.png"
        change(Image.open(original)).save(target)
        return frozenset([original.name, target.name])

    for label in range(6):
        plan.leaks.add(copy(label, 0, "test", "same", lambda image: image))
    for i, (name, change) in enumerate(CHANGED.items(), start=1):
        plan.near[name] = {copy(label, i, "val", name, change) for label in range(4, 10)}
    for label in range(10):  # one image of each class under the next label
        path = files[label, 6]
        shutil.move(path, plan.root / "train" / f"c{(label + 1) % 10}" / path.name)
        plan.swapped.add(path.name)
    for row, (name, change) in enumerate(ODD.items()):
        chosen = [files[label, 7 + row] for label in range(4)]
        plan.odd[name] = {path.name for path in chosen}
        for path in chosen:
            change(Image.open(path).convert("RGB")).save(path)
    for label in range(2):
        whole = io.BytesIO()
        Image.open(files[label, 20]).save(whole, "JPEG")
        (plan.root / "test" / f"c{label}" / f"{label}_cut.jpg").write_bytes(whole.getvalue()[:-600])
    (plan.root / "train" / "c3" / "3_text.png").write_text("no image")
    plan.odd["unreadable"] = {"0_cut.jpg", "1_cut.jpg", "3_text.png"}
    return plan


@dataclass
class Check:
    """What a check says: its exit code, in words, and as JSON."""

    code: int
    said: str
    json: dict[str, Any]

    def images(self, kind: str) -> list[frozenset[str]]:
        """Of each finding of that kind the names of its images."""
        return [frozenset(Path(one["image"]).name for one in found["images"]) for found in self.json["found"][kind]]

    def each(self, kind: str) -> set[str]:
        return {name for names in self.images(kind) for name in names}

    @property
    def kinds(self) -> set[str]:
        return {kind for kind, found in self.json["found"].items() if found}


Checking = Callable[..., Check]


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Checking:
    """`stagetune data check` of words, twice: as a person sees it, and with --json."""

    def run(*words: str) -> Check:
        codes, printed = [], []
        for more in ([], ["--json"]):
            code = 0
            try:
                main(["data", "check", *words, f"--page={tmp_path / 'page.html'}", *more])
            except SystemExit as ended:
                code = int(ended.code or 0)
            codes.append(code)
            printed.append(capsys.readouterr().out)
        assert codes[0] == codes[1]
        return Check(codes[0], printed[0], json.loads(printed[1]))

    return run


def folder(root: Path, *more: str) -> list[str]:
    small = ["model=resnet18", "model.weights=random", "data.image_size=32", "precision=fp32"]
    return ["data=image_folder", f"data.root={root}", "trainer=cpu", "data.num_workers=0", *small, *more]


def textures(root: Path, counts: dict[str, int], side: int = 40) -> Path:
    """Images of smooth noise, none like another."""
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            noise = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            noise.resize((side, side), Image.Resampling.BICUBIC).save(root / name / f"{i}.png")
    return root


@pytest.mark.slow
def test_what_is_planted_is_found(planted: Planted, check: Checking) -> None:
    found = check(*folder(planted.root), "model=efficientnet_lite0", "model.weights=imagenet", "data.image_size=96")
    leaks = found.images("leaks")
    near = set().union(*planted.near.values())
    assert {name: len(pairs & set(leaks)) for name, pairs in planted.near.items()} == dict.fromkeys(CHANGED, 6)
    assert planted.leaks <= set(leaks)
    assert set(leaks) == planted.leaks | near  # and none beside
    assert found.code == 5
    assert "a run stops here: the same picture stands in train and in test" in found.said

    swapped, spoilt = found.each("doubted"), set().union(*planted.odd.values())
    assert len(swapped & planted.swapped) >= 6  # of 10; 7 where this was written
    assert len(swapped - planted.swapped - spoilt) <= 3

    assert found.each("flat") == planted.odd["flat"]
    assert found.each("dark") == planted.odd["dark"]
    blurred = found.each("blurred")
    assert planted.odd["blurred"] <= blurred
    assert len(blurred) <= 8
    assert {Path(line.partition(" (")[0]).name for line in found.json["unreadable"]} == planted.odd["unreadable"]
    assert found.images("conflicts") == [frozenset(planted.odd["flat"])]  # one colour is one picture
    assert len(found.said.splitlines()) <= 25


@pytest.mark.slow
@pytest.mark.usefixtures("_no_pictures")
def test_features_of_a_check_serve_the_run(check: Checking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = [*folder(textures(tmp_path / "images", {"anna": 15, "ben": 15})), "data.augment=none"]
    words += [
        "model=efficientnet_lite0",
        "model.weights=imagenet",
        "schedule=head_only",
        "schedule.stages.0.epochs=1",
    ]
    assert check(*words).json["features"].startswith("imagenet (efficientnet-lite0")
    tables = {path.name for path in (tmp_path / "cache" / "tables").iterdir()}
    assert tables
    run_experiment(compose(words), tmp_path / "run")
    assert {path.name for path in (tmp_path / "cache" / "tables").iterdir()} == tables


@pytest.mark.slow
def test_nothing_wrong_is_said_and_is_exit_code_0(check: Checking, tmp_path: Path) -> None:
    found = check(*folder(textures(tmp_path / "fine", {"anna": 12, "ben": 6})))
    assert (found.code, found.kinds, found.json["refused"]) == (0, set(), None)
    data, nothing, classes, images, features, page = found.said.splitlines()
    assert data == "data      image_folder, 18 images of 2 classes; train 12, val 3, test 3"
    assert nothing == "found     nothing wrong or odd"
    assert (
        classes == "classes   anna 12, ben 6; always anna is right about 66.7% of train, 66.7% of val, 66.7% of test"
    )
    assert images == "images    40 x 40 to 40 x 40, median 40 x 40; RGB 18; PNG 18"
    why = "the weights are random (model.weights), and features of such say little"
    assert features == f"features  none: {why}"
    assert page == f"page      {tmp_path / 'page.html'}"
    assert found.json["parts"]["train"] == {
        "images": 12,
        "classes": {"anna": 8, "ben": 4},
        "majority": ["anna", 8 / 12],
    }


@pytest.mark.slow
def test_without_weights_at_hand_nothing_is_downloaded_or_pretrained(
    check: Checking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("stagetune.models.imagenet.urlopen", lambda *_, **__: pytest.fail("it asks for a file"))
    for weights in ("auto", "imagenet"):
        found = check(*folder(textures(tmp_path / weights, {"anna": 6, "ben": 6})), f"model.weights={weights}")
        assert found.code == 0
        assert found.json["features"].startswith("none: ")
        assert str(tmp_path / "torch") in found.json["features"]


@pytest.mark.slow
def test_what_cannot_be_read_is_listed_whole_and_is_exit_code_3(check: Checking, tmp_path: Path) -> None:
    root = textures(tmp_path / "some", {"anna": 6, "ben": 6})
    for i in range(4):
        (root / "ben" / f"broken{i}.png").write_bytes(b"no image")
    found = check(*folder(root))
    assert found.code == 3
    assert len(found.json["unreadable"]) == 4
    assert "broken    images that cannot be read: 4, such as" in found.said


@pytest.mark.slow
def test_what_was_not_taken_is_said(check: Checking, tmp_path: Path) -> None:
    root = textures(tmp_path / "some", {"anna": 6, "ben": 6})
    (root / "zoe").mkdir()
    (root / "anna/list.txt").write_text("no image")
    found = check(*folder(root))
    assert found.code == 0
    assert len(found.json["notes"]) == 2
    assert all(note in found.said for note in found.json["notes"])
    assert "zoe" in found.said
    assert "anna/list.txt" in found.said


@pytest.mark.slow
def test_what_a_run_refuses_is_said_and_the_rest_is_looked_at(check: Checking, tmp_path: Path) -> None:
    root = textures(tmp_path / "one", {"anna": 6})
    Image.new("RGB", (40, 40)).save(root / "anna" / "black.png")
    found = check(*folder(root))
    assert found.code == 5
    assert "a run stops here: the train split has fewer than 2 classes (anna)" in found.said
    assert found.each("flat") == {"black.png"}
    assert found.json["parts"]["train"]["images"] == 7

    few = check(*folder(textures(tmp_path / "few", {"anna": 3, "ben": 2, "zoe": 1})))
    assert few.code == 5
    assert "a run stops here: the val split has fewer than 2 classes (anna)" in few.said


@pytest.mark.slow
def test_copies_within_a_part_are_no_leak_and_published_ones_stay(
    check: Checking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "parts"
    for i, part in enumerate(("train", "val", "test")):
        textures(root / part, {"anna": 4, "ben": 4})
        for path in sorted((root / part).rglob("*.png")):  # other pictures in each part
            Image.open(path).transpose(Image.Transpose(i)).save(path)
    shutil.copy(root / "train/anna/0.png", root / "train/anna/again.png")
    within = check(*folder(root))
    assert (within.code, within.kinds, within.each("copies")) == (0, {"copies"}, {"0.png", "again.png"})

    shutil.copy(root / "train/anna/0.png", root / "test/ben/again.png")
    leaking = check(*folder(root))
    assert leaking.code == 5
    assert leaking.kinds == {"leaks", "conflicts"}
    (leak,) = leaking.json["found"]["leaks"]
    assert leak["text"] == "the same pixels, in train and test"
    assert leak["score"] == 1.0
    assert [(one["part"], one["label"]) for one in leak["images"]] == [
        ("train", "anna"),
        ("train", "anna"),
        ("test", "ben"),
    ]

    monkeypatch.setattr("stagetune.data.sources.image_folder.Settings.published", True)
    published = check(*folder(root))
    assert published.code == 0
    assert published.images("leaks") == leaking.images("leaks")


@pytest.mark.slow
def test_small_long_and_moving_ones(check: Checking, tmp_path: Path) -> None:
    root = textures(tmp_path / "odd", {"anna": 8, "ben": 8})
    first = Image.open(root / "anna/0.png")
    first.resize((15, 15)).save(root / "anna/small.png")
    first.resize((130, 40)).save(root / "ben/long.png")
    Image.open(root / "ben/1.png").rotate(90).save(root / "ben/moving.gif", save_all=True, append_images=[first])
    found = check(*folder(root))
    kinds = {kind: found.json["found"][kind][0]["text"] for kind in ("small", "long", "frames")}
    assert kinds == {"small": "15 x 15 for 32 px", "long": "130 x 40", "frames": "2 pictures"}
    assert {"small.png"} == found.each("small")
    assert {"long.png"} == found.each("long")


@pytest.mark.slow
def test_pairs_have_no_labels_to_doubt(check: Checking, tmp_path: Path) -> None:
    root = textures(tmp_path / "images", {"a": 24})
    parts = ["train"] * 4 + ["val"] * 4 + ["test"] * 4
    rows = [f"a/{2 * i}.png,a/{2 * i + 1}.png,{i % 2},{part}" for i, part in enumerate(parts)]
    table = root / "pairs.csv"
    table.write_text("\n".join(["a,b,is_same,split", *rows]))
    pairs = ["task=siamese", "loss=contrastive", "data=pairs", f"data.pairs={table}"]
    found = check(*[word for word in folder(root) if not word.startswith("data=") and "root" not in word], *pairs)
    assert found.code == 0
    assert "classes" not in found.said
    assert "classes" not in found.json["parts"]["train"]
    assert not found.json["found"]["conflicts"]


@pytest.mark.slow
def test_names_are_escaped_and_the_page_needs_no_network(check: Checking, tmp_path: Path) -> None:
    root = textures(tmp_path / "names", {"<i>anna": 6, 'b"e&n': 6, "c\x1b[31m\u202e\udcff": 6})
    Image.new("RGB", (40, 40)).save(root / "<i>anna" / 'a"><b>.png')
    assert check(*folder(root)).code == 0
    page = (tmp_path / "page.html").read_text()
    assert "&lt;i&gt;anna" in page
    assert r"c\x1b[31m\u202e\udcff" in page
    assert not set("\x1b\u202e\udcff") & set(page)
    assert "&quot;&gt;&lt;b&gt;.png" in page
    assert "<i>" not in page
    assert "<b>" not in page
    assert "http" not in page
    assert "<script" not in page
    assert page.count("<img") == page.count('src="data:image/webp;base64,') == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resume=outputs/mine"], "outputs/mine"),
        (["--page=/proc/none/page.html"], "page /proc/none/page.html: cannot be written in /proc/none"),
        (["--page=/proc"], "page /proc: is a folder; give a file in it"),
        (["data=image_folder", "data.root=nowhere"], "data.root=nowhere: is not there"),
    ],
)
def test_a_check_that_cannot_be_made_is_one_message(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["data", "check", *words])
    assert ended.value.code == 1
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_drawings_that_are_alike_are_no_copies() -> None:
    """Of 1,797 digits of 8 pixels, brought to 32, many look the same; few are so alike and so unlike all others."""
    drawn = (load_digits().images * 15).astype(np.uint8)
    small = np.stack([np.asarray(Image.fromarray(one).resize((32, 32), Image.Resampling.BICUBIC)) for one in drawn])
    names = [str(i) for i in range(len(small))]
    shorter = np.full(len(small), 32)
    assert len(near_copies(small, names, shorter)) <= 30
    brighter = np.concatenate([small, (small[:100] * 1.1).clip(0, 255).astype(np.uint8)])
    found = near_copies(brighter, [str(i) for i in range(len(brighter))], np.full(len(brighter), 32))
    assert sum({i, len(small) + i} <= set(one.images) for i in range(100) for one in found) >= 98
    assert near_copies(small, names, np.full(len(small), 8)) == []  # too little in them to tell


def test_what_one_camera_sees_is_no_copy_and_a_copy_of_it_is_found() -> None:
    """Sixty parts before one background, all of them alike by 0.97 and more; one is there again, saved as JPEG."""
    rng = np.random.default_rng(0)
    scene = np.asarray(Image.fromarray(rng.integers(60, 200, (12, 12), dtype=np.uint8)).resize((160, 160)))
    seen = np.repeat(scene[None].astype(float), 60, axis=0)
    for one, x, y, length in zip(seen, *rng.integers(0, 120, (2, 60)), rng.integers(8, 40, 60), strict=True):
        one[y : y + length // 2, x : x + length] += rng.choice([-80, 80])
    parts = [Image.fromarray(one.clip(0, 255).astype(np.uint8)) for one in seen]

    def copies(images: list[Image.Image]) -> list[tuple[int, ...]]:
        small = np.stack([np.asarray(one.resize((32, 32), Image.Resampling.BOX)) for one in images])
        return [
            one.images for one in near_copies(small, [str(i) for i in range(len(images))], np.full(len(images), 160))
        ]

    assert sum(map(len, copies(parts))) <= 8  # the rest of sixty are told apart
    again = [saved(part, 60).convert("L") for part in parts[:5]]
    assert sum((i, 60 + i) in copies([*parts, *again]) for i in range(5)) >= 4


def test_exact_copies_stand_together_and_one_is_compared_for_all() -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (5, 32, 32), dtype=np.uint8)
    small[3], small[4] = small[1], small[1] - small[1] // 20
    contents = ["a", "b", "c", "b", "d"]
    assert [one.images for one in exact_copies(contents)] == [(1, 3)]
    assert [one.images for one in near_copies(small, contents, np.full(5, 32))] == [(1, 4)]


def noisy(seed: int) -> Probed:
    """Probabilities of a model that is right about most images, of which a fifth have another label."""
    rng = np.random.default_rng(seed)
    classes, images = int(rng.integers(2, 8)), int(rng.integers(20, 400))
    true = rng.integers(0, classes, images)
    labels = np.where(rng.random(images) < 0.2, rng.integers(0, classes, images), true)
    labels[:classes] = np.arange(classes)
    odds = np.exp(rng.normal(size=(images, classes)) + 3 * np.eye(classes)[true] * rng.random((images, 1)))
    return Probed(np.arange(images), np.arange(classes), labels, odds / odds.sum(axis=1, keepdims=True))


@pytest.mark.slow
def test_doubts_are_those_of_cleanlab() -> None:
    issues = pytest.importorskip("cleanlab.filter").find_label_issues
    ranked = {"filter_by": "confident_learning", "return_indices_ranked_by": "normalized_margin", "n_jobs": 1}
    found = [[doubt.image for doubt in doubts(noisy(seed))] for seed in range(20)]
    assert sum(map(len, found)) > 200
    assert found == [issues(noisy(seed).labels, noisy(seed).probabilities, **ranked).tolist() for seed in range(20)]


def test_a_label_is_doubted_where_another_class_is_likely() -> None:
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.45, 0.55], [0.1, 0.9], [0.6, 0.4]])
    probed = Probed(np.arange(10, 16), np.array([3, 7]), np.array([0, 0, 0, 0, 1, 1]), probabilities)
    # the mean of class 3 is 0.5625, that of class 7 is 0.65: image 13 is likely neither
    assert [(one.image, one.guess, round(one.margin, 3)) for one in doubts(probed)] == [(12, 7, -0.6), (15, 3, -0.2)]


def clusters(counts: list[int], apart: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of classes around centres that lie so far apart."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    centres = rng.normal(size=(len(counts), 16)) * apart
    return centres[labels] + rng.normal(size=(len(labels), 16)), labels


@pytest.mark.parametrize("count", [4, 30])
def test_one_identity_twice_looks_alike(count: int) -> None:
    """By the cosine where there are few images, by the probe where there are ten."""
    features, labels = clusters([2 * count, count, count, count], apart=3.0)
    labels = np.where(labels == 0, np.arange(len(labels)) % 2 * 4, labels)  # class 0 in two folders: 0 and 4
    probed = cross_validated(features, labels)
    found = alike(features, labels, probed)
    assert [(one.first, one.second) for one in found] == [(0, 4)]
    assert found[0].told_apart <= 0.6
    assert alike(*clusters([count] * 4, apart=3.0), None) == []


def test_swapped_labels_of_clear_classes_are_doubted_and_no_other() -> None:
    features, labels = clusters([30, 30, 30, 2], apart=3.0)
    labels[:5], labels[30:35] = 1, 0
    probed = cross_validated(features, labels)
    assert len(probed.images) == 90  # of two images of a class nothing can be said
    assert {one.image for one in doubts(probed)} == {*range(5), *range(30, 35)}


def test_a_probe_that_is_seldom_right_is_not_heard() -> None:
    labels = np.arange(200) % 5
    chance, sure = (
        cross_validated(clusters([200], 1.0)[0] + shift * labels[:, None], labels) for shift in (0.1, 9.0)
    )
    assert len(doubts(chance)) > 50  # a flood
    assert [is_heard(probed) for probed in (chance, sure)] == [False, True]


def test_images_of_a_group_are_judged_without_it() -> None:
    features, labels = clusters([20, 20, 4], apart=2.0)
    groups = np.concatenate([np.arange(40) % 8, np.full(4, 8)])
    probed = cross_validated(features, labels, groups)
    assert probed.images.tolist() == list(range(40))  # the third class is of one group


@pytest.mark.parametrize(
    ("labels", "groups", "message"),
    [
        ([0] * 10, None, "there are no two classes of at least 3 images"),
        ([0, 1] * 5, [0] * 10, "all images are of one group"),
        ([0] * 5 + [1] * 5, [0] * 5 + [1] * 5, "each class is of one group"),
    ],
)
def test_what_cannot_be_probed(labels: list[int], groups: list[int] | None, message: str) -> None:
    features = np.random.default_rng(0).normal(size=(10, 4))
    with pytest.raises(ValueError, match=message):
        cross_validated(features, np.array(labels), None if groups is None else np.array(groups))
