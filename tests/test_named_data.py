"""Data sets by name, written here as their authors publish them, since they are not at hand: lists at full length,
images at a few. What torchvision reads itself is the oracle, where it reads them."""

import hashlib
import json
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from stagetune.config.compose import compose
from stagetune.config.schema import Config
from stagetune.data.decoding import read_image
from stagetune.data.sources import hf, torchvision
from stagetune.data.sources.cub import cub
from stagetune.data.sources.image_folder import image_folder
from stagetune.data.sources.sop import sop
from stagetune.data.splits import make_split
from stagetune.errors import ConfigError, DataError
from stagetune.models.weights import Weights
from stagetune.report.result import read_result
from stagetune.run import run_experiment
from stagetune.run.data import build_data, check_unseen

SHARES = {"val": 0.2, "test": 0.2, "seed": 0}
LAND = {
    "AnnualCrop": 3000, "Forest": 3000, "HerbaceousVegetation": 3000, "Highway": 2500, "Industrial": 2500,
    "Pasture": 2000, "PermanentCrop": 2500, "Residential": 3000, "River": 2500, "SeaLake": 3000,
}  # fmt: skip

# of each data set the images of each part and the classes, as its authors count them
PUBLISHED = {
    "CIFAR10": ({"train": 50_000, "test": 10_000}, 10),
    "CIFAR100": ({"train": 50_000, "test": 10_000}, 100),
    "EuroSAT": ({None: 27_000}, 10),
    "FashionMNIST": ({"train": 60_000, "test": 10_000}, 10),
    "Flowers102": ({"train": 1_020, "val": 1_020, "test": 6_149}, 102),
    "Food101": ({"train": 75_750, "test": 25_250}, 101),
    "OxfordIIITPet": ({"train": 3_680, "test": 3_669}, 37),
    "STL10": ({"train": 5_000, "test": 8_000}, 10),
}

Labels = Mapping[str | None, Sequence[int]]


# -------------------------------------------------------------------------------- how the authors lay out their files


class Blank:
    """Black images that take no room in a pickle."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape

    def __reduce__(self) -> tuple[Any, ...]:
        return np.zeros, (self.shape, np.uint8)


def noise(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, size: int = 12) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = int(hashlib.md5(str(path).encode()).hexdigest()[:8], 16)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)


def flat(path: Path, header: bytes, shape: tuple[int, ...], *, blank: bool) -> None:
    """A file of bytes; a blank one takes no room on the disk."""
    with path.open("wb") as file:
        file.write(header)
        if blank:
            file.truncate(len(header) + int(np.prod(shape)))
        else:
            file.write(noise(*shape).tobytes())


def cifar(root: Path, labels: Labels, names: Sequence[str], *, blank: bool) -> None:
    hundred = len(names) == 100
    folder = root / ("cifar-100-python" if hundred else "cifar-10-batches-py")
    folder.mkdir(parents=True)
    batches = {"train": labels["train"], "test": labels["test"]}
    if not hundred:
        fifth = -(-len(labels["train"]) // 5)
        batches = {f"data_batch_{i + 1}": labels["train"][i * fifth : (i + 1) * fifth] for i in range(5)}
        batches["test_batch"] = labels["test"]
    for number, (name, given) in enumerate(batches.items()):
        data = Blank(len(given), 3072) if blank else noise(len(given) + number, 3072)[number:]
        content = {"data": data, "fine_labels" if hundred else "labels": list(given)}
        (folder / name).write_bytes(pickle.dumps(content))
    meta = {"fine_label_names": names} if hundred else {"label_names": names}
    (folder / ("meta" if hundred else "batches.meta")).write_bytes(pickle.dumps(meta))


def write(dataset: str, root: Path, labels: Labels, *, blank: bool = False) -> None:
    """A data set with such labels in each part; a blank one has black images, or the names of files alone."""
    count = PUBLISHED[dataset][1]
    names = [f"class_{i:03}" for i in range(count)]
    match dataset:
        case "CIFAR10" | "CIFAR100":
            cifar(root, labels, names, blank=blank)
        case "EuroSAT":
            folders = [root / "eurosat" / "2750" / land for land in LAND]
            for folder in folders:
                folder.mkdir(parents=True)
            for i, label in enumerate(labels[None]):
                path = f"{folders[label]}/{folders[label].name}_{i}.jpg"
                open(path, "wb").close() if blank else save(Path(path))
        case "FashionMNIST":
            folder = root / "FashionMNIST" / "raw"
            folder.mkdir(parents=True)
            for part, prefix in (("train", "train"), ("test", "t10k")):
                n = len(labels[part])
                sizes = b"".join(size.to_bytes(4, "big") for size in (n, 28, 28))
                images = folder / f"{prefix}-images-idx3-ubyte"
                flat(images, b"\0\0\x08\x03" + sizes, (n, 28, 28), blank=blank)
                content = b"\0\0\x08\x01" + n.to_bytes(4, "big") + bytes(labels[part])
                (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(content)
        case "Flowers102":
            folder = root / "flowers-102"
            (folder / "jpg").mkdir(parents=True)
            every = [(part, label) for part in ("test", "train", "val") for label in labels[part]]
            ids = {part: [i for i, (of, _) in enumerate(every, 1) if of == part] for part in labels}
            savemat(folder / "setid.mat", {"trnid": ids["train"], "valid": ids["val"], "tstid": ids["test"]})
            savemat(folder / "imagelabels.mat", {"labels": [label + 1 for _, label in every]})
            for i in range(1, 1 if blank else len(every) + 1):
                save(folder / "jpg" / f"image_{i:05d}.jpg")
        case "Food101":
            folder = root / "food-101"
            for inner in ("meta", "images"):
                (folder / inner).mkdir(parents=True)
            for part, given in labels.items():
                paths: dict[str, list[str]] = {name: [] for name in names}
                for i, label in enumerate(given):
                    paths[names[label]].append(f"{names[label]}/{part}{i}")
                (folder / "meta" / f"{part}.json").write_text(json.dumps(paths))
                for path in [] if blank else chain.from_iterable(paths.values()):
                    save(folder / "images" / f"{path}.jpg")
        case "OxfordIIITPet":
            folder = root / "oxford-iiit-pet"
            for inner in ("annotations", "images"):
                (folder / inner).mkdir(parents=True)
            for part, file in (("train", "trainval.txt"), ("test", "test.txt")):
                images = [f"{names[label]}_{part}{i}" for i, label in enumerate(labels[part])]
                lines = [f"{image} {label + 1} 1 1\n" for image, label in zip(images, labels[part], strict=True)]
                (folder / "annotations" / file).write_text("".join(lines))
                for image in [] if blank else images:
                    save(folder / "images" / f"{image}.jpg")
        case "STL10":
            folder = root / "stl10_binary"
            folder.mkdir(parents=True)
            (folder / "class_names.txt").write_text("\n".join(names))
            (folder / "unlabeled_X.bin").touch()
            for part in ("train", "test"):
                flat(folder / f"{part}_X.bin", b"", (len(labels[part]), 3, 96, 96), blank=blank)
                (folder / f"{part}_y.bin").write_bytes(bytes(label + 1 for label in labels[part]))


@pytest.fixture
def _made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision compares checksums, which those of made-up files cannot be: here it only looks for the files."""
    for module in ("cifar", "flowers102", "stl10"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", lambda path, *_: os.path.isfile(path))


# -------------------------------------------------------------------------------------------------------- torchvision


@pytest.mark.slow
@pytest.mark.usefixtures("_made_up")
@pytest.mark.parametrize("dataset", PUBLISHED)
def test_the_parts_are_as_large_as_published(dataset: str, tmp_path: Path) -> None:
    counts, classes = PUBLISHED[dataset]
    labels: dict[str | None, Any] = {part: np.arange(count) % classes for part, count in counts.items()}
    if dataset == "EuroSAT":
        labels[None] = np.repeat(np.arange(classes), list(LAND.values()))
    write(dataset, tmp_path, {part: given.tolist() for part, given in labels.items()}, blank=True)
    entries, names = torchvision.listed(dataset, tmp_path)
    assert {part: sum(entry.split == part for entry in entries) for part in counts} == counts
    assert len(entries) == torchvision.SETS[dataset].images == sum(counts.values())
    assert len(set(names)) == len({entry.identity for entry in entries}) == classes


@pytest.mark.slow
@pytest.mark.usefixtures("_made_up")
@pytest.mark.parametrize("dataset", PUBLISHED)
def test_images_and_labels_are_those_that_torchvision_reads(dataset: str, tmp_path: Path) -> None:
    counts, classes = PUBLISHED[dataset]
    write(dataset, tmp_path, {part: [*range(classes)] * (2 if part == "train" else 1) for part in counts})
    source, _ = torchvision.Settings(dataset=dataset, root=str(tmp_path)).build(32)
    at = 0
    for part, arguments in torchvision.SETS[dataset].parts.items():
        theirs = getattr(datasets, dataset)(str(tmp_path), **arguments)
        for image, label in (theirs[i] for i in range(len(theirs))):
            assert source.classes[source.labels[at]] == theirs.classes[label]
            np.testing.assert_array_equal(source.image(at).permute(1, 2, 0), image.convert("RGB"))
            assert (source.split[at] if source.split else "") == part
            at += 1
    assert at == len(source) == len(set(source.contents))
    assert source.notes == [f"{at:,} of the {torchvision.SETS[dataset].images:,} images that its authors published"]


@pytest.mark.usefixtures("_made_up")
def test_the_authors_split_holds_for_images_and_identities_are_divided_anew(tmp_path: Path) -> None:
    write("CIFAR10", tmp_path, {"train": [*range(10)] * 5, "test": [*range(10)] * 2})
    words = ["data=cifar10", f"data.root={tmp_path}", "model=resnet18"]
    data = build_data(compose(words))
    assert {part: len(found) for part, found in data.split.parts().items()} == {"train": 40, "val": 10, "test": 20}
    assert data.split.test.tolist() == list(range(50, 70))
    assert "validation is drawn from train by data.val=0.2: the data brings none" in data.source.notes
    apart = build_data(compose([*words, "data.split=identities", "task=siamese", "loss=triplet"]))
    assert {part: len(set(apart.source.labels[found])) for part, found in apart.split.parts().items()} == {
        "train": 6,
        "val": 2,
        "test": 2,
    }
    assert "its own split has the same classes in train and test, so that identities are divided anew" in (
        apart.source.notes
    )


def test_what_is_missing_or_damaged_is_said_with_its_place_and_the_way_to_have_it_fetched(tmp_path: Path) -> None:
    write("CIFAR10", tmp_path, {"train": [0, 1] * 5, "test": [0, 1]})  # its checksums are not the authors'
    with pytest.raises(DataError) as caught:
        torchvision.listed("CIFAR10", tmp_path)
    assert str(caught.value) == (
        f"data.root={tmp_path}: torchvision finds no whole CIFAR10 there; it looks for "
        f"{tmp_path}/cifar-10-batches-py, as its authors publish it, and compares the checksums that it knows: give "
        "the folder that holds it, or have it fetched with data.download=true"
    )
    for dataset in PUBLISHED:
        with pytest.raises(DataError, match=rf"no whole {dataset} there.* it looks for {tmp_path}/nowhere/"):
            torchvision.listed(dataset, tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"data.root=gone: is not there, seen from .*; give the folder that holds"):
        compose(["data=food101", "data.root=gone"])
    assert compose(["data=food101", "data.root=gone", "data.download=true"]).data.download


def test_a_set_is_fetched_once_and_a_failed_download_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("CIFAR10", tmp_path, {"train": [*range(10)] * 3, "test": [*range(10)]})
    with tarfile.open(tmp_path / "cifar.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "cifar-10-batches-py", "cifar-10-batches-py")
    # the tables of checksums are those of the made-up set
    md5 = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(
        "torchvision.datasets.utils._urlretrieve", lambda url, path: shutil.copy(url.removeprefix("file://"), path)
    )
    monkeypatch.setattr(datasets.CIFAR10, "url", (tmp_path / "cifar.tar.gz").as_uri())
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5["cifar.tar.gz"])
    for table in ("train_list", "test_list"):
        monkeypatch.setattr(
            datasets.CIFAR10, table, [[name, md5[name]] for name, _ in getattr(datasets.CIFAR10, table)]
        )
    monkeypatch.setattr(datasets.CIFAR10, "meta", datasets.CIFAR10.meta | {"md5": md5["batches.meta"]})
    elsewhere = tmp_path / "new" / "folder"
    assert len(torchvision.listed("CIFAR10", elsewhere, download=True)[0]) == 40

    def unreachable(*_: Any, **__: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    assert len(torchvision.listed("CIFAR10", elsewhere, download=True)[0]) == 40
    with pytest.raises(DataError) as caught:
        torchvision.listed("EuroSAT", elsewhere, download=True)
    assert str(caught.value) == (
        "data.download=true: torchvision could not fetch and read EuroSAT (URLError: <urlopen error no route to "
        f"host>); remove what is damaged in {elsewhere}/eurosat/2750 and try again, or put it there as its authors "
        "publish it"
    )


@pytest.mark.slow
@pytest.mark.usefixtures("_made_up", "_no_pictures")
def test_copies_across_a_published_split_stay_and_are_counted(tiny: Callable[..., Config], tmp_path: Path) -> None:
    write("CIFAR10", tmp_path, {"train": [*range(10)] * 6, "test": [*range(10)] * 3})
    test = tmp_path / "cifar-10-batches-py" / "test_batch"
    first = pickle.loads((tmp_path / "cifar-10-batches-py" / "data_batch_1").read_bytes())
    last = pickle.loads(test.read_bytes())
    last["data"][:2] = first["data"][:2]
    test.write_bytes(pickle.dumps(last))
    config = tiny("data=cifar10", f"data.root={tmp_path}", "data.num_workers=0", stages=1)
    assert run_experiment(config, tmp_path / "run").status == "completed"
    notes = read_result(tmp_path / "run").data["notes"]
    assert [note for note in notes if note.startswith("2 images have a copy in another part; they stay, since")]
    assert "CIFAR10 train[0] and CIFAR10 test[0]" in notes[-1] or "CIFAR10 train[1] and CIFAR10 test[1]" in notes[-1]

    # weights of that run are no weights that know the test by more than it does itself
    data = build_data(config)
    again = Weights("", {}, images=frozenset(_short_of(tmp_path / "run")))
    check_unseen(data, again, "images")
    with pytest.raises(
        DataError, match=r"the same picture stands in train and in (val|test): .*; remove one of them"
    ):
        make_split(data.source, by="images", **SHARES)


def _short_of(run: Path) -> list[str]:
    import torch

    from stagetune.artifacts import CheckpointMetadata

    return CheckpointMetadata.of(torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)).images


# ---------------------------------------------------------------------------------------------------------- the split


@pytest.mark.parametrize("by", ["images", "identities"])
def test_validation_is_drawn_from_train_where_the_data_brings_none(by: str) -> None:
    train = np.repeat(np.arange(10), 20)
    test = np.repeat(np.arange(10) + (10 if by == "identities" else 0), 5)
    contents = [str(i // 2) for i in range(200)] + [f"test {i}" for i in range(50)]  # each picture twice in train
    source: Any = SimpleNamespace(
        labels=np.concatenate([train, test]), contents=contents, split=["train"] * 200 + ["test"] * 50,
        classes=[str(i) for i in range(20)], groups=None, name="", describe=str,
    )  # fmt: skip
    split = make_split(source, by=by, val=0.3, test=0.2, seed=0)
    assert split.test.tolist() == list(range(200, 250))
    assert sorted([*split.train, *split.val]) == list(range(200))
    drawn = np.bincount(source.labels[split.val], minlength=10)
    assert sorted(drawn.tolist()) == ([0] * 7 + [20] * 3 if by == "identities" else [6] * 10)
    assert not {contents[i] for i in split.val} & {contents[i] for i in split.train}
    assert make_split(source, by=by, val=0.3, test=0.2, seed=0).val.tolist() == split.val.tolist()
    assert make_split(source, by=by, val=0.3, test=0.2, seed=1).val.tolist() != split.val.tolist()


def test_a_folder_of_train_and_test_is_enough(folder: Path) -> None:
    for part, picked in (("train", "01234567"), ("test", "89")):
        for name in ("red", "green", "blue"):
            (folder / part / name).mkdir(parents=True)
            for i in picked:
                (folder / name / f"{i}.png").rename(folder / part / name / f"{i}.png")
    source = image_folder(folder)
    split = make_split(source, by="images", **SHARES)
    assert {part: len(found) for part, found in split.parts().items()} == {"train": 18, "val": 6, "test": 6}
    assert all("/test/" in source.describe(i) for i in split.test)


# ---------------------------------------------------------------------------------------------------- birds, products


def write_cub(root: Path, images: Sequence[tuple[int, int]]) -> Path:
    """CUB_200_2011 with such images: class from 1 to 200, and 1 for those of the official training."""
    folder = root / "CUB_200_2011"
    folder.mkdir()
    names = {n: f"{n:03}.Bird_{n}" for n in range(1, 201)}
    (folder / "classes.txt").write_text("".join(f"{n} {name}\n" for n, name in names.items()))
    lines = [(i, names[kind], kind, train) for i, (kind, train) in enumerate(images, start=1)]
    (folder / "images.txt").write_text("".join(f"{i} {name}/Bird_{i:04}.jpg\n" for i, name, _, _ in lines))
    (folder / "image_class_labels.txt").write_text("".join(f"{i} {kind}\n" for i, _, kind, _ in lines))
    (folder / "train_test_split.txt").write_text("".join(f"{i} {train}\n" for i, _, _, train in lines))
    return folder


def counted(entries: Sequence[Any]) -> dict[str, tuple[int, int]]:
    """Of each part its images and classes."""
    parts = {part: [entry.identity for entry in entries if entry.split == part] for part in ("train", "test")}
    return {part: (len(found), len(set(found))) for part, found in parts.items()}


@pytest.mark.slow
def test_the_birds_are_divided_as_the_literature_does(tmp_path: Path) -> None:
    sizes = [59] * 64 + [58] * 36 + [60] * 24 + [59] * 76  # 5,864 of the first hundred classes, 5,924 of the others
    official = [30] * 194 + [29] * 6
    images = [(kind, int(i < official[kind - 1])) for kind, size in enumerate(sizes, start=1) for i in range(size)]
    folder = write_cub(tmp_path, images)
    assert counted(cub(tmp_path, by="identities")) == {"train": (5_864, 100), "test": (5_924, 100)}
    entries = cub(folder, by="images")
    assert counted(entries) == {"train": (5_994, 200), "test": (5_794, 200)}
    assert str(entries[59]) == f"{folder}/images/002.Bird_2/Bird_0060.jpg"


def test_what_is_wrong_in_the_lists_of_the_birds_is_said_by_line(tmp_path: Path) -> None:
    folder = write_cub(tmp_path, [(1, 1), (1, 0), (2, 1)])
    (folder / "image_class_labels.txt").write_text("1 1\n2 999\n4 1\n3\n")
    with pytest.raises(DataError, match=r"image_class_labels.txt: 1 lines are wrong: line 4: expected number class$"):
        cub(tmp_path, by="images")
    (folder / "image_class_labels.txt").write_text("1 1\n2 999\n4 1\n1 2\n")
    with pytest.raises(DataError, match=r"line 2: no class is 999; line 3: 4 is not known; line 4: 1 stands there"):
        cub(tmp_path, by="images")
    (folder / "image_class_labels.txt").write_text("1 1\n2 1\n")
    with pytest.raises(DataError, match=r"labels.txt: 1 of 3 images are missing, such as number 3$"):
        cub(tmp_path, by="images")
    for content, said in (
        (b"", "is empty; take it as"),
        (b"1 B\xe4r\n", "line 1 is not utf-8: its byte 0xe4 cannot be read; take it as"),
    ):
        (folder / "classes.txt").write_bytes(content)
        with pytest.raises(DataError, match=rf"classes.txt: {said}"):
            cub(tmp_path, by="images")
    (folder / "classes.txt").unlink()
    with pytest.raises(DataError, match=r"CUB_200_2011/classes.txt: no such file; give its folder as the authors"):
        cub(tmp_path, by="images")


@pytest.mark.slow
@pytest.mark.usefixtures("_no_pictures")
def test_unseen_birds_are_told_apart(tiny: Callable[..., Config], tmp_path: Path) -> None:
    birds = [kind for kind in (1, 2, 3, 4, 5, 100, 101, 102, 200) for _ in range(4)]
    folder = write_cub(tmp_path, [(kind, 1) for kind in birds])
    for i, kind in enumerate(birds, start=1):
        save(folder / "images" / f"{kind:03}.Bird_{kind}" / f"Bird_{i:04}.jpg", 20)
    settings = (
        "data=cub",
        f"data.root={tmp_path}",
        "data.split=identities",
        "data.num_workers=0",
        "data.batch_size=8",
    )
    result = run_experiment(tiny("+experiment=siamese_staged", *settings, stages=1), tmp_path / "run")
    assert {part: result.data[part] for part in ("train", "val", "test")} == {"train": 16, "val": 8, "test": 12}
    assert result.verification["pairs"] == {"same": 18, "different": 48}


def write_sop(root: Path, products: Mapping[str, Sequence[int]]) -> Path:
    """Stanford_Online_Products with a product for each image of both lists."""
    folder = root / "Stanford_Online_Products"
    folder.mkdir()
    kinds = ("bicycle", "cabinet", "chair", "coffee_maker", "fan", "kettle",
             "lamp", "mug", "sofa", "stapler", "table", "toaster")  # fmt: skip
    number = 0
    for part, given in products.items():
        lines = ["image_id class_id super_class_id path"]
        for product in given:
            number += 1
            lines.append(f"{number} {product} {product % 12 + 1} {kinds[product % 12]}_final/{product}_{number}.JPG")
        (folder / f"Ebay_{part}.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.slow
def test_the_products_are_divided_as_their_authors_do(tmp_path: Path) -> None:
    train = [i % 11_318 + 1 for i in range(59_551)]
    write_sop(tmp_path, {"train": train, "test": [i % 11_316 + 11_319 for i in range(60_502)]})
    entries = sop(tmp_path)
    assert counted(entries) == {"train": (59_551, 11_318), "test": (60_502, 11_316)}
    assert len({entry.group for entry in entries}) == 12


def test_products_are_read_with_their_kind_and_validation_is_drawn_from_those_to_train_on(tmp_path: Path) -> None:
    folder = write_sop(tmp_path, {"train": [1, 2, 3, 4, 5, 6] * 2, "test": [7, 8, 19] * 2})
    for entry in sop(folder):
        save(entry.path)
    source, _ = compose(["data=sop", f"data.root={tmp_path}", "task=siamese", "loss=triplet"]).data.build(32)
    assert source.classes == ["cabinet/1", "chair/2", "coffee_maker/3", "fan/4", "kettle/5", "lamp/6", *PRODUCTS]
    assert source.groups is not None
    assert source.groups == [name.split("/")[0] for name in source.classes]
    split = make_split(source, by="identities", **SHARES)
    found = {part: {source.classes[i] for i in source.labels[at]} for part, at in split.parts().items()}
    assert {part: len(names) for part, names in found.items()} == {"train": 4, "val": 2, "test": 3}
    assert found["test"] == set(PRODUCTS)
    (folder / "Ebay_test.txt").write_text("1 2 3 a/b.jpg\n")
    with pytest.raises(
        DataError, match=r"Ebay_test.txt: its first line is 1 2 3 a/b.jpg; expected image_id class_id"
    ):
        sop(tmp_path)
    (folder / "Ebay_train.txt").write_text("")
    with pytest.raises(DataError, match=r"Ebay_train.txt: is empty; take it as its authors publish it"):
        sop(tmp_path)
    (folder / "Ebay_train.txt").write_text(
        "\ufeffimage_id class_id super_class_id path\n1 2 3 a/b.jpg\n2 2 3 a/b.jpg\n"
    )
    with pytest.raises(DataError, match=r"Ebay_train.txt: 1 lines are wrong: line 3: a/b.jpg is in line 2, too"):
        sop(tmp_path)


PRODUCTS = ["mug/19", "mug/7", "sofa/8"]


# ------------------------------------------------------------------------------------------------------- Hugging Face


def pictures(folder: Path, count: int) -> list[str]:
    """Files of many kinds."""
    folder.mkdir(parents=True)
    found = []
    for i in range(count):
        image: Any = Image.fromarray(noise(8 + i, 10, 3))
        exif = Image.Exif()
        if i % 5 == 1:
            image, suffix = Image.fromarray(noise(8 + i, 20).view(np.uint16)), "png"  # 16 bits
        elif i % 5 == 2:
            image, suffix = image.convert("CMYK"), "jpg"
        elif i % 5 == 3:
            image, suffix = image.quantize(16), "png"
        elif i % 5 == 4:
            suffix = "jpg"
            exif[0x0112] = 6  # lies on its side
        else:
            suffix = "png"
        found.append(str(folder / f"{i}.{suffix}"))
        image.save(found[-1], exif=exif)
    return found


@pytest.fixture
def hub(tmp_path: Path) -> Callable[..., Any]:
    """Makes a data set of so many images with such labels."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()

    def make(name: str, labels: Sequence[Any], feature: Any, **more: Sequence[Any]) -> Any:
        files = pictures(tmp_path / name, len(labels))
        kinds = {"picture": datasets.Image(), "kind": feature}
        made = datasets.Dataset.from_dict({"picture": files, "kind": list(labels), **more})
        return made.cast(datasets.Features({**kinds, **{key: made.features[key] for key in more}}))

    return make


def saved(made: Any, folder: Path) -> str:
    made.save_to_disk(str(folder))
    return str(folder)


def test_the_images_and_names_of_a_saved_dict_are_read_as_those_of_files(hub: Any, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    kind = datasets.ClassLabel(names=["zebra", "ape"])  # in an order of their own
    labels = {"train": [0, 1] * 5, "test": [1, 0], "extra": [0]}
    parts = {name: hub(name, given, kind) for name, given in labels.items()}
    path = saved(datasets.DatasetDict(parts), tmp_path / "saved")
    files = [
        path for name in ("train", "test") for path in sorted((tmp_path / name).iterdir(), key=lambda p: int(p.stem))
    ]
    source, _ = compose(["data=hf", f"data.path={path}"]).data.build(32)
    assert source.classes == ["zebra", "ape"]
    assert source.labels.tolist() == [0, 1] * 5 + [1, 0]
    assert source.split == ["train"] * 10 + ["test"] * 2
    assert source.notes == ["of its splits extra are not used"]
    assert source.describe(10) == f"{path} test[0]"
    for i, file in enumerate(files):
        np.testing.assert_array_equal(source.image(i), read_image(file))
    split = make_split(source, by="images", published=True, **SHARES)
    assert {part: len(found) for part, found in split.parts().items()} == {"train": 8, "val": 2, "test": 2}
    assert len(pickle.loads(pickle.dumps(source)).image(3)) == 3  # as loader processes get it


@pytest.mark.parametrize(
    ("labels", "dtype", "classes"),
    [([10, 9, -1] * 3, "int64", ["-1", "9", "10"]), (["b", "a", "c"] * 3, "string", ["a", "b", "c"])],
)
def test_whole_numbers_and_text_are_labels_and_one_split_is_divided_by_share(
    hub: Any, tmp_path: Path, labels: list[Any], dtype: str, classes: list[str]
) -> None:
    datasets = pytest.importorskip("datasets")
    path = saved(hub("all", labels, datasets.Value(dtype), size=[0.5] * 9), tmp_path / "saved")
    source, _ = hf.Settings(path=path).build(32)
    assert source.classes == classes
    assert [source.classes[label] for label in source.labels] == [str(label) for label in labels]
    assert source.split is None
    many = saved(hub("two", labels, datasets.Value(dtype), id=[0] * 9), tmp_path / "many")
    with pytest.raises(DataError) as caught:
        hf.Settings(path=many).build(32)
    assert str(caught.value) == (
        f"data.path={many}: several columns can be the labels, kind, id; name one, data.label_column=NAME: its "
        "columns are picture (Image), kind (Value), id (Value)"
    )
    assert hf.Settings(path=many, label_column="kind").build(32)[0].classes == classes
    for given, said in (("size", "is no column"), ("picture", "holds no labels, as a column")):
        with pytest.raises(DataError, match=rf"data.label_column={given}: {said} of .*; its columns are picture"):
            hf.Settings(path=many, label_column=given).build(32)
    with pytest.raises(DataError, match=r"data.image_column=kind: holds no images, as a column of "):
        hf.Settings(path=many, image_column="kind").build(32)


def test_hidden_labels_and_columns_that_differ_are_refused(hub: Any, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    kind = datasets.ClassLabel(names=["a", "b"])
    hidden = datasets.DatasetDict(train=hub("train", [0, 1], kind), test=hub("test", [-1, -1, 0], kind))
    path = saved(hidden, tmp_path / "hidden")
    with pytest.raises(
        DataError, match=r"2 of 3 images of test have no kind; name another split, data.test_split=NAME"
    ):
        hf.Settings(path=path).build(32)
    other = hub("other", [0, 1], datasets.ClassLabel(names=["b", "a"]))
    path = saved(datasets.DatasetDict(train=hub("one", [0, 1], kind), test=other), tmp_path / "differ")
    with pytest.raises(DataError, match=r"the columns picture and kind are others in test"):
        hf.Settings(path=path).build(32)


@pytest.mark.parametrize(
    ("names", "given", "expected"),
    [
        (["train"], {}, {"": "train"}),
        (["train", "test"], {}, {"train": "train", "test": "test"}),
        (["test", "validation", "train"], {}, {"train": "train", "val": "validation", "test": "test"}),
        (["train", "valid"], {"test": "valid"}, {"train": "train", "test": "valid"}),
        (["a", "b", "dev"], {"train": "b", "test": "a"}, {"train": "b", "val": "dev", "test": "a"}),
    ],
)
def test_splits_are_known_by_their_usual_names(
    names: list[str], given: dict[str, str], expected: dict[str, str]
) -> None:
    assert hf.parts_of("x", names, {"train": None, "val": None, "test": None} | given) == expected


def test_the_only_split_is_no_part_and_a_blank_is_no_label(hub: Any, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    path = saved(hub("one", ["a", "b", ""], datasets.Value("string")), tmp_path / "one")
    with pytest.raises(DataError, match=r"data.test_split=train: .* has this split alone, which is divided by share"):
        hf.Settings(path=path, test_split="train").build(32)
    with pytest.raises(DataError, match=r"1 of 3 images of train have no kind; "):
        hf.Settings(path=path).build(32)


def test_splits_that_cannot_be_told_are_asked_for() -> None:
    nothing = {"train": None, "val": None, "test": None}
    with pytest.raises(DataError) as caught:
        hf.parts_of("a/b", ["train", "validation"], nothing)
    assert str(caught.value) == (
        "data.path=a/b: has the splits train, validation, and none of them is called test; say which it is, "
        "data.test_split=NAME (validation is drawn from train where there is none)"
    )
    with pytest.raises(DataError, match=r"data.test_split=tset: a/b has no such split; did you mean test\?"):
        hf.parts_of("a/b", ["train", "test"], {**nothing, "test": "tset"})
    with pytest.raises(ConfigError, match=r"data.path: is missing; give a name on the Hugging Face hub or a folder"):
        compose(["data=hf"])
    with pytest.raises(ConfigError, match=r"data.path=./gone: is not there, seen from .*; give a name on the"):
        compose(["data=hf", "data.path=./gone"])
    with pytest.raises(
        ConfigError, match=r"data.val_split and data.test_split: name one split twice; give each anoth"
    ):
        compose(["data=hf", "data.path=a/b", "data.val_split=x", "data.test_split=x"])


def test_without_the_library_or_the_hub_it_is_said_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = pytest.importorskip("datasets")
    monkeypatch.setattr(library.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        DataError, match=r"data.path=a/b: is no folder, seen from .*, and was not had from the Hugging"
    ):
        hf.Settings(path="a/b").build(32)
    with pytest.raises(DataError, match=r"this folder cannot be read as a data set \(EmptyDatasetError: "):
        hf.Settings(path=str(tmp_path)).build(32)
    (tmp_path / "state.json").touch()
    with pytest.raises(
        DataError, match=r"data.subset=x: the folder .* is one of save_to_disk, without subsets; leave"
    ):
        hf.Settings(path=str(tmp_path), subset="x").build(32)
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"data=hf: datasets is not installed; pip install 'stagetune\[hf\]'"):
        hf.Settings(path="a/b").build(32)
