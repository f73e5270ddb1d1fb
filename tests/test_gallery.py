"""Galleries: what is found in them, what is kept, and that no crash, neighbour or stranger harms them."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import stagetune.inference.gallery_files as files
from stagetune.errors import DataError, ResultError
from stagetune.inference.gallery import Gallery, Match
from stagetune.inference.search import Float32

DISTANCES = ("euclidean", "squared", "cosine", "weighted_l1")


def unit(*shape: int, seed: int = 0) -> Float32:
    vectors = np.random.default_rng(seed).standard_normal(shape)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def gallery_of(folder: Path, names: str, distance: str = "euclidean", dimensions: int = 4) -> Gallery:
    """An image of each name, saved."""
    gallery = Gallery.create(folder, model="7f2c", distance=distance, dimensions=dimensions)
    images = [f"{name}/{number}.png" for number, name in enumerate(names)]
    gallery.add(list(names), unit(len(names), dimensions), images)
    gallery.save()
    return gallery


def content(gallery: Gallery) -> list[tuple[str, str, list[float]]]:
    rows = gallery._rows
    return list(zip(rows.identities, rows.images, rows.vectors.tolist(), strict=True))


def measured(difference: np.ndarray[Any, Any], distance: str) -> np.ndarray[Any, Any]:
    if distance == "weighted_l1":
        return np.abs(difference).sum(-1)
    squared = (difference**2).sum(-1)
    return {"euclidean": np.sqrt(squared), "squared": squared, "cosine": squared / 2}[distance]


@pytest.mark.parametrize("per_identity", ["nearest", "mean"])
@pytest.mark.parametrize("distance", DISTANCES)
def test_each_identity_is_found_once_as_by_brute_force(tmp_path: Path, distance: str, per_identity: Any) -> None:
    rng = np.random.default_rng(1)
    owners = [f"person {number:02}" for number in rng.permutation(np.repeat(np.arange(50), rng.integers(1, 9, 50)))]
    vectors = unit(len(owners), 16)
    gallery = Gallery.create(tmp_path / "g", model="7f2c", distance=distance, dimensions=16)
    gallery.add(owners, vectors, [f"{place}.png" for place in range(len(owners))])
    gallery.save()
    queries = unit(7, 16, seed=2)
    found = Gallery.open(tmp_path / "g").search(queries, 60, per_identity=per_identity)
    for query, matches in zip(queries.astype(np.float64), found, strict=True):
        expected = {}
        for owner in dict.fromkeys(owners):
            places = [place for place, name in enumerate(owners) if name == owner]
            own = vectors[places].astype(np.float64)
            if per_identity == "mean":
                own, places = own.mean(axis=0, keepdims=True), places[:1]
                if distance != "weighted_l1":
                    own /= np.linalg.norm(own)
            apart = measured(own - query, distance)
            expected[owner] = (apart.min(), f"{places[apart.argmin()]}.png")
        order = sorted(expected, key=lambda owner: expected[owner][0])
        assert [(match.identity, match.image) for match in matches] == [(name, expected[name][1]) for name in order]
        assert [match.distance for match in matches] == pytest.approx([expected[name][0] for name in order], rel=1e-5)


@pytest.mark.parametrize("per_identity", ["nearest", "mean"])
def test_of_equal_distances_the_identity_that_came_first_is_first(tmp_path: Path, per_identity: Any) -> None:
    gallery = Gallery.create(tmp_path, model="7f2c", distance="euclidean", dimensions=2)
    gallery.add(["bob", "cy", "ada", "bob"], [[1, 0]] * 4, ["1", "2", "3", "4"])
    assert gallery.search([[1, 0]], 2, per_identity=per_identity) == [[Match("bob", 0.0, "1"), Match("cy", 0.0, "2")]]


def test_what_is_added_and_removed_is_kept_and_all_else_stays_as_it_was(tmp_path: Path) -> None:
    gallery = gallery_of(tmp_path / "g", "abca")
    before = content(gallery)
    gallery = Gallery.open(tmp_path / "g")
    assert gallery.identities() == {"a": 2, "b": 1, "c": 1}
    new = unit(2, 4, seed=5)
    assert gallery.add(["c", "d"], new, ["9.png", "9.png"]) == []
    assert gallery.remove(["b", "a/3.png"]) == 2
    gallery.save()
    kept = Gallery.open(tmp_path / "g")
    assert content(kept) == [before[0], before[2], ("c", "9.png", new[0].tolist()), ("d", "9.png", new[1].tolist())]
    assert len(kept) == 4
    assert kept.search(new[:1], 1)[0][0] == Match("c", 0.0, "9.png")
    assert sorted(path.suffix for path in (tmp_path / "g").iterdir()) == [".json", ".lock", ".safetensors"]


def test_an_image_that_its_identity_has_already_is_replaced(tmp_path: Path) -> None:
    gallery = gallery_of(tmp_path, "ab")
    new = unit(3, 4, seed=5)
    assert gallery.add(["a", "b", "a"], new, ["a/0.png", "a/0.png", "a/0.png"]) == ["a/0.png", "a/0.png"]
    assert [row[:2] for row in content(gallery)] == [("a", "a/0.png"), ("b", "b/1.png"), ("b", "a/0.png")]
    assert content(gallery)[0][2] == new[2].tolist()


def test_a_gallery_may_become_empty_and_be_filled_again(tmp_path: Path) -> None:
    gallery = gallery_of(tmp_path / "g", "ab")
    gallery.remove(["a", "b"])
    gallery.save()
    gallery = Gallery.open(tmp_path / "g")
    assert [gallery.search(unit(2, 4), 3, per_identity=which) for which in ("nearest", "mean")] == [[[], []]] * 2
    with pytest.raises(DataError, match=r"^a: no identity or image of the gallery .* is called so; it is empty$"):
        gallery.remove(["a"])
    gallery.add(["a"], unit(1, 4), ["1"])
    gallery.save()
    assert len(Gallery.open(tmp_path / "g")) == 1


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"vectors": [[0, 1], [np.nan, 0]]}, "two.png: its vector is not finite; look at the image and at"),
        ({"vectors": [[np.inf, 1], [np.nan, 0]]}, "one.png: its vector is not finite, and 1 more are not; look"),
        ({"vectors": [[1e39, 1], [1, 0]]}, "one.png: its vector is not finite"),
        ({"vectors": [[0, 1]]}, r"vectors of shape \[1, 2\] were given, needed are \[2, 2\]"),
        ({"vectors": [[0, 1, 0], [1, 0, 0]]}, r"vectors of shape \[2, 3\] were given, needed are \[2, 2\]"),
        ({"identities": ["a"]}, "1 identities for 2 images; give one for each"),
        ({"identities": ["a", " "]}, "the identity ' ' is an empty name"),
        ({"identities": ["a", "\x1b[2J"]}, "has a character that cannot be shown; rename it"),
        ({"images": ["one.png", "/home/ada/two.png"]}, "the image '/home/ada/two.png' leads out of the folder"),
        ({"images": ["one.png", r"C:\two.png"]}, "leads out of the folder; give a path relative to it"),
        ({"images": ["one.png", "a/../../two.png"]}, "leads out of the folder"),
    ],
)
def test_what_cannot_be_kept_is_refused_and_nothing_is_added(
    tmp_path: Path, wrong: dict[str, Any], text: str
) -> None:
    gallery = Gallery.create(tmp_path, model="7f2c", distance="cosine", dimensions=2)
    right = {"identities": ["a", "b"], "vectors": [[0, 1], [1, 0]], "images": ["one.png", "two.png"]}
    with pytest.raises(DataError, match=text):
        gallery.add(**{**right, **wrong})
    assert len(gallery) == 0


def test_mistakes_are_answered_by_a_sentence(tmp_path: Path) -> None:
    gallery = gallery_of(tmp_path / "g", "ab")
    gallery.add(["Ada Lovelace"], unit(1, 4), ["x.png"])
    for call, text in [
        (lambda: gallery.remove(["a", "Ada Lovelac"]), r"Ada Lovelac: no identity .* did you mean Ada Lovelace\?"),
        (lambda: gallery.search([[0, 1, 0, np.nan]], 1), "query 0: its vector is not finite"),
        (lambda: gallery.search([[0, 1]], 1), r"vectors of shape \[1, 2\] were given, needed are \[1, 4\]"),
        (lambda: gallery.search(unit(1, 4), 0), "k=0: give 1 or more"),
        (lambda: Gallery.open(tmp_path / "g" / "gallery.json"), "gallery.json: holds no gallery, since there is no"),
        (lambda: gallery.search(unit(1, 4), 1, per_identity="median"), "per_identity=median: choose nearest or mean"),
        (lambda: gallery.check_model("abcd", "run/best.ckpt"), r"another model \(7f2c\) than run/best.ckpt \(abcd\)"),
        (lambda: Gallery.create(tmp_path / "g", model="7f2c", distance="cosine", dimensions=4),
         "g: already holds gallery.json; give a new folder, or add to the gallery in it"),
        (lambda: Gallery.create(tmp_path / "h", model="7f2c", distance="cosin", dimensions=4),
         r"distance=cosin: did you mean cosine\?"),
    ]:  # fmt: skip
        with pytest.raises(DataError, match=text):
            call()
    gallery.check_model("7f2c", "run/best.ckpt")
    assert len(gallery) == 3


def _breaks_at(number: int, after: bool) -> Callable[..., None]:
    """`os.replace` that raises at one call, before or after it has replaced."""
    honest, calls = os.replace, []

    def replace(*args: Any) -> None:
        calls.append(args)
        if len(calls) == number and not after:
            raise OSError(28, "No space left on device")
        honest(*args)
        if len(calls) == number:
            raise OSError(28, "No space left on device")

    return replace


@pytest.mark.parametrize(("number", "after", "kept"), [(1, False, 2), (1, True, 2), (2, False, 2), (2, True, 3)])
def test_a_crash_while_saving_leaves_the_old_or_the_new_gallery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, after: bool, kept: int
) -> None:
    gallery_of(tmp_path / "g", "ab")
    gallery = Gallery.open(tmp_path / "g")
    gallery.add(["c"], unit(1, 4, seed=3), ["c.png"])
    with monkeypatch.context() as patch:
        patch.setattr("stagetune.artifacts.os.replace", _breaks_at(number, after))
        with pytest.raises(ResultError, match=r"g: cannot be written to \(No space left on device\)"):
            gallery.save()
    assert len(Gallery.open(tmp_path / "g")) == kept
    gallery.save()
    assert len(Gallery.open(tmp_path / "g")) == 3
    assert len(list((tmp_path / "g").glob("*.safetensors"))) == 1


def test_what_a_first_save_that_crashed_has_left_is_no_gallery_and_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("stagetune.artifacts.os.replace", _breaks_at(2, False))
        with pytest.raises(ResultError):
            gallery_of(tmp_path, "ab")
    assert list(tmp_path.glob("*.safetensors"))
    with pytest.raises(
        DataError, match=r"holds no gallery, since there is no gallery.json; `stagetune gallery build`"
    ):
        Gallery.open(tmp_path)
    gallery_of(tmp_path, "abc")
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


def test_what_others_save_in_the_meantime_is_not_lost(tmp_path: Path) -> None:
    gallery_of(tmp_path / "g", "ab")
    first, second = Gallery.open(tmp_path / "g"), Gallery.open(tmp_path / "g")
    first.add(["c"], unit(1, 4), ["1"])
    first.remove(["a"])
    second.add(["d", "c"], unit(2, 4, seed=3), ["2", "1"])
    second.remove(["a", "b"])
    first.save()
    second.save()
    assert [row[:2] for row in content(Gallery.open(tmp_path / "g"))] == [("c", "1"), ("d", "2")]
    second.add(["a"], unit(1, 4), ["1"])
    second.save()
    first.save()  # its changes were made long ago
    assert first.identities() == {"c": 1, "d": 1, "a": 1}


def test_a_gallery_that_became_another_is_left_alone(tmp_path: Path) -> None:
    gallery = gallery_of(tmp_path / "g", "ab")
    late = Gallery.create(tmp_path / "h", model="7f2c", distance="euclidean", dimensions=4)
    shutil.rmtree(tmp_path / "g")
    gallery_of(tmp_path / "g", "a", distance="cosine")
    gallery_of(tmp_path / "h", "a")
    for other in (gallery, late):
        with pytest.raises(DataError, match="holds another gallery by now; open that one, or give another folder"):
            other.save()


@pytest.mark.slow
def test_processes_that_add_at_once_lose_nothing_and_disturb_no_reader(tmp_path: Path) -> None:
    gallery_of(tmp_path / "g", "a")
    code = """if True:
        import sys
        from stagetune.inference.gallery import Gallery
        for number in range(15):
            gallery = Gallery.open(sys.argv[1])
            gallery.add([sys.argv[2]], [[number, 1, 2, 3]], [f"{number}.png"])
            gallery.save()
    """
    adding = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "g"), name], stderr=subprocess.PIPE, text=True)
        for name in "bc"
    ]
    sizes = [1]
    while any(process.poll() is None for process in adding):
        sizes.append(len(Gallery.open(tmp_path / "g")))
    assert [process.communicate()[1] for process in adding] == ["", ""]
    assert sizes == sorted(sizes)
    assert Gallery.open(tmp_path / "g").identities() == {"a": 1, "b": 15, "c": 15}


def _edited(**entries: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "gallery.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))

    return edit


def _vectors(change: Callable[[Float32], Any], name: str = "vectors", hashed: bool = False) -> Callable[[Path], None]:
    """Other vectors in the file; `hashed`, as if they were those that were saved."""

    def edit(folder: Path) -> None:
        (path,) = folder.glob("*.safetensors")
        array = change(load_file(path)["vectors"])
        if hashed:
            path = folder / f"gallery-{hashlib.sha256(array.data).hexdigest()[:16]}.safetensors"
            _edited(vectors=path.name)(folder)
        save_file({name: array}, path)

    return edit


def _linked(pattern: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        (path,) = folder.glob(pattern)
        path.rename(folder.parent / "elsewhere")
        path.symlink_to(folder.parent / "elsewhere")

    return edit


def _with_nan(array: Float32) -> Float32:
    array[1, 0] = np.nan
    return array


DAMAGES: list[tuple[Callable[[Path], Any], str]] = [
    (lambda folder: (folder / "gallery.json").unlink(), "holds no gallery, since there is no gallery.json"),
    (shutil.rmtree, "holds no gallery"),
    (lambda folder: (folder / "gallery.json").write_text('{"version": 1, "ro'), "is no JSON"),
    (lambda folder: (folder / "gallery.json").write_bytes(b"\xff\xfe\x00"), "is no JSON"),
    (lambda folder: (folder / "gallery.json").write_text("[" * 100_000), "is no JSON"),
    (lambda folder: (folder / "gallery.json").write_text("[1]"), "is not that of a gallery, as it says no version"),
    (_edited(version=True), "is not that of a gallery, as it says no version"),
    (_edited(version=2), r"is of version 2, this stagetune reads up to 1; update stagetune"),
    (_edited(model=None), "has None as the key of its model"),
    (_edited(model="\x1b[2J"), "as the key of its model"),
    (_edited(distance="manhattan"), "has the distance 'manhattan', which is none of euclidean, squared"),
    (_edited(dimensions=0), "has 0 dimensions"),
    (_edited(dimensions=5), r"holds vectors of shape \[3, 4\], gallery.json says \[3, 5\]"),
    (_edited(rows={"a": "b"}), "lists no rows"),
    (_edited(rows=[["a", "1"], ["a"], ["b", "2"]]), "row 1 is not an identity and an image"),
    (_edited(rows=[["a", "1"], ["a", 2], ["b", "2"]]), "row 1 is not an identity and an image"),
    (_edited(rows=[["a", "1"], ["a", "1"], ["b", "2"]]), "lists an image of an identity twice"),
    (_edited(rows=[["a", "1"], ["a", "../../2"], ["b", "2"]]), "has a name that leads out of the folder"),
    (_edited(rows=[["a", "1"], ["\ud800", "2"], ["b", "2"]]), "has a name that has a character that cannot be shown"),
    (_edited(rows=[["a", "1"], ["b", "2"]]), r"holds vectors of shape \[3, 4\], gallery.json says \[2, 4\]"),
    (_edited(vectors="../elsewhere.safetensors"), r"names '../elsewhere.safetensors' as the file of its vectors"),
    (_edited(vectors=None), "names None as the file of its vectors"),
    (_edited(vectors="gallery-0123456789abcdef.safetensors"), "gallery-0123456789abcdef.safetensors: is missing"),
    (lambda folder: os.truncate(next(folder.glob("*.safetensors")), 60), "cannot be read"),
    (lambda folder: next(folder.glob("*.safetensors")).write_bytes(b"PK\x03\x04" * 9), "cannot be read"),
    (_vectors(lambda array: array, name="weight"), "holds other things than vectors"),
    (_vectors(lambda array: array.astype(np.float64)), "holds numbers of type F64 instead of F32"),
    (_vectors(lambda array: array[:2].copy()), r"holds vectors of shape \[2, 4\], gallery.json says \[3, 4\]"),
    (_vectors(_with_nan, hashed=True), "vector 1 is not finite"),
    (_vectors(lambda array: array[::-1].copy()), "its vectors are not those that gallery.json was written for"),
    (_linked("gallery.json"), "gallery.json: is a link"),
    (_linked("*.safetensors"), "safetensors: is a link"),
]


@pytest.mark.parametrize(("damage", "text"), DAMAGES)
def test_each_damage_is_one_sentence(tmp_path: Path, damage: Callable[[Path], Any], text: str) -> None:
    gallery_of(tmp_path / "g", "aab")
    damage(tmp_path / "g")
    with pytest.raises(DataError, match=text) as raised:
        Gallery.open(tmp_path / "g")
    assert str(raised.value).startswith(str(tmp_path / "g"))
    assert ";" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_saving_touches_nothing_outside_the_folder_and_nothing_of_others_in_it(tmp_path: Path) -> None:
    gallery = gallery_of(tmp_path / "g", "ab")
    (tmp_path / "g" / "notes-0123456789abcdef.safetensors").write_text("theirs")
    (tmp_path / "elsewhere").write_text("theirs")
    (tmp_path / "g" / "gallery.lock").unlink()
    (tmp_path / "g" / "gallery.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"gallery.lock: is a link"):
        gallery.save()
    (tmp_path / "g" / "gallery.lock").unlink()
    gallery.remove(["a"])
    gallery.save()
    assert (tmp_path / "elsewhere").read_text() == "theirs"
    assert (tmp_path / "g" / "notes-0123456789abcdef.safetensors").read_text() == "theirs"


def test_nothing_of_the_machine_is_in_the_files(tmp_path: Path) -> None:
    gallery_of(tmp_path / "g", "ab")
    kept = json.loads((tmp_path / "g" / "gallery.json").read_text())
    assert list(kept) == ["version", "stagetune", "model", "distance", "dimensions", "vectors", "rows"]
    assert re.fullmatch(files.VECTORS, kept["vectors"])
    assert kept["rows"] == [["a", "a/0.png"], ["b", "b/1.png"]]
    assert all(str(tmp_path).encode() not in path.read_bytes() for path in (tmp_path / "g").iterdir())
