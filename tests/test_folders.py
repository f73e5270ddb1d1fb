"""Folders and tables as people have them: what is taken, what is not and why, and which split that gives."""

import os
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stagetune.config.compose import compose
from stagetune.config.schema import Config
from stagetune.config.validate import read_config
from stagetune.data.folders import Left, walk
from stagetune.data.sources.cub import cub
from stagetune.data.sources.identity_csv import Columns, identity_csv
from stagetune.data.sources.image_folder import image_folder
from stagetune.data.sources.lfw import lfw
from stagetune.data.sources.omniglot import omniglot
from stagetune.data.sources.pairs import pairs_csv
from stagetune.data.sources.sop import sop
from stagetune.data.splits import make_split
from stagetune.errors import ConfigError, DataError
from stagetune.run.data import build_data

SHARES = {"val": 0.2, "test": 0.2, "seed": 0}


def pictures(root: Path, *names: str) -> Path:
    """A small PNG of its own at each path."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        seed = sum(ord(letter) * (i + 1) for i, letter in enumerate(str(name)))
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(
            root / name, "PNG"
        )
    return root


def several(*folders: str, count: int = 4) -> list[str]:
    return [f"{folder}/{i}.png" for folder in folders for i in range(count)]


def sizes(source: object, **how: object) -> dict[str, int]:
    split = make_split(source, **{"by": "images", **SHARES, **how})  # type: ignore[arg-type]
    return {part: len(indices) for part, indices in split.parts().items()}


# -------------------------------------------------------------------------------------------------- what is not taken


def test_what_is_not_taken_is_counted_and_named_once_with_the_reason(tmp_path: Path) -> None:
    pictures(tmp_path, *several("a", "b"), "loose.png", "a/old/1.png", "a/old/2.png", "only_below/x/1.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "words" / "inner").mkdir(parents=True)
    for name in ("words/1.txt", "words/2.txt", "a/3.txt", "a/4.txt", "b/5.txt", "b/6.txt", "README"):
        (tmp_path / name).write_text("not an image")
    for silent in (".DS_Store", "Thumbs.db", ".git/x.png", "__MACOSX/a/1.png", "a/._0.png", "b/desktop.ini"):
        (tmp_path / silent).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / silent).write_bytes((tmp_path / "a" / "0.png").read_bytes())
    (tmp_path / "a" / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a" / "self")
    (tmp_path / "b" / "up").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "a" / "pipe.png")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.relpath(tmp_path / "b" / "socket.png"))
        source = image_folder(tmp_path)
    assert (len(source), source.classes) == (8, ["a", "b"])
    assert source.notes == [
        "files that are no images are not used (7): README, a/3.txt, a/4.txt, b/5.txt, b/6.txt, ...",
        "folders without images of their own are left out (3): empty, only_below, words",
        "images below a class folder are not used (3): a/old/1.png, a/old/2.png, only_below/x/1.png",
        "images beside the class folders are not used (1): loose.png",
        "links that lead nowhere are not used (2): a/gone, a/self",
        "links to a folder that they lie in are not used (1): b/up",
        "pipes, sockets or devices are not used (2): a/pipe.png, b/socket.png",
    ]


def test_nothing_is_said_of_a_folder_of_which_all_is_taken(folder: Path) -> None:
    assert image_folder(folder).notes == []


def test_a_folder_of_a_split_without_images_and_one_beside_the_splits_are_named(tmp_path: Path) -> None:
    pictures(tmp_path, *several("train/a", "train/b", "test/a", "test/b"), "more/a/1.png", "train/loose.png")
    (tmp_path / "test" / "c").mkdir()
    (tmp_path / "val").mkdir()
    assert image_folder(tmp_path).notes == [
        "folders without images of their own are left out (2): test/c, val",
        "images beside the class folders are not used (2): more/a/1.png, train/loose.png",
    ]


def test_class_folders_and_images_that_are_links_are_followed_and_counted_right(tmp_path: Path) -> None:
    pool = pictures(tmp_path / "pool", *several("a", "b", count=6), "b/deeper/1.png")
    (tmp_path / "links" / "c").mkdir(parents=True)
    for name in "ab":
        (tmp_path / "links" / name).symlink_to(pool / name)
    pictures(tmp_path / "elsewhere", "1.png")
    (tmp_path / "links" / "c" / "1.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    source = image_folder(tmp_path / "links")
    assert Counter(source.classes[label] for label in source.labels) == {"a": 6, "b": 6, "c": 1}
    assert source.notes == ["images below a class folder are not used (1): b/deeper/1.png"]


def test_an_image_that_is_a_link_to_nowhere_is_one_that_cannot_be_read(folder: Path) -> None:
    (folder / "red" / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "red" / "self.png").symlink_to(folder / "red" / "self.png")
    with pytest.raises(DataError, match=r"^2 of 32 images cannot be read: .*/red/gone.png \(.*, .*/red/self.png \("):
        image_folder(folder)
    assert len(image_folder(folder, on_error="skip")) == 30


def test_folders_that_link_to_each_other_are_walked_in_time(tmp_path: Path) -> None:
    """Each of eight has links to all: without an end there would be as many ways through them as orders of eight."""
    for i in range(8):
        pictures(tmp_path, f"{i}/x.png")
    for i in range(8):
        for j in range(8):
            (tmp_path / str(i) / f"to{j}").symlink_to(tmp_path / str(j))
    tree = walk(tmp_path)
    assert sum(len(path.parts) == 2 for path in tree.images) == 8
    assert len(tree.images) <= 8 * 8 * 8
    assert Left(Path("3/to3"), "links to a folder that they lie in") in tree.left


def test_one_file_that_two_classes_link_to_is_noticed_by_its_contents(tmp_path: Path) -> None:
    pictures(tmp_path / "x", *several("a", "b", count=8))
    for i in range(8):
        (tmp_path / "x" / "b" / f"{i}.png").unlink()
        (tmp_path / "x" / "b" / f"{i}.png").symlink_to(tmp_path / "x" / "a" / f"{i}.png")
    with pytest.raises(DataError, match="the same picture stands in"):
        make_split(image_folder(tmp_path / "x"), by="images", **SHARES)  # type: ignore[arg-type]


def test_classes_that_differ_in_case_or_blanks_are_pointed_out(tmp_path: Path) -> None:
    pictures(tmp_path, *several("Anna", "anna ", "Zoe\u0301", "Zo\u00e9", "ben"))
    assert image_folder(tmp_path).notes == [
        "classes 'Anna' and 'anna ' differ in case or blanks alone; name them alike if they are one",
        "classes 'Zoe\u0301' and 'Zo\u00e9' differ in case or blanks alone; name them alike if they are one",
    ]


def test_omniglot_says_what_is_not_of_a_character(tmp_path: Path) -> None:
    pictures(tmp_path / "images_background", *several("Greek/1", "Greek/2"), "Greek/loose.png")
    assert omniglot(tmp_path).notes == [
        "of images_background",
        "images beside the class folders are not used (1): Greek/loose.png",
    ]


# --------------------------------------------------------------------------------------------------- train, val, test


@pytest.mark.parametrize(
    ("names", "expected", "said"),
    [
        (("train", "val"), {"train": 16, "val": 8, "test": 8}, []),
        (("train", "test"), {"train": 12, "val": 4, "test": 16}, []),
        (("Train", "TEST"), {"train": 12, "val": 4, "test": 16}, ["of its folders Train is train and TEST is test"]),
        (
            ("training", "validation", "testing"),
            {"train": 16, "val": 16, "test": 16},
            ["of its folders training is train and validation is val and testing is test"],
        ),
        (("train", "valid"), {"train": 16, "val": 8, "test": 8}, ["of its folders valid is val"]),
    ],
)
def test_splits_are_known_by_their_usual_names_and_may_lack_one(
    names: Sequence[str], expected: dict[str, int], said: list[str], tmp_path: Path
) -> None:
    source = image_folder(pictures(tmp_path, *several(*(f"{name}/{kind}" for name in names for kind in "abcd"))))
    assert sizes(source) == expected
    assert source.notes == said


@pytest.mark.slow
def test_val_is_divided_by_class_and_seed_with_copies_together_and_that_is_said(
    tmp_path: Path, tiny: Callable[..., Config]
) -> None:
    pictures(tmp_path, *several("train/a", "train/b", count=8), *several("val/a", "val/b", count=6))
    for i in range(3):
        (tmp_path / "val" / "a" / f"copy{i}.png").write_bytes((tmp_path / "val" / "a" / "0.png").read_bytes())
    found = []
    for seed in range(6):
        data = build_data(
            tiny("data=image_folder", f"data.root={tmp_path}", f"data.seed={seed}", "data.num_workers=0")
        )
        source, split = data.source, data.split
        assert f"half of val, drawn by data.seed={seed}, is the test: the data brings none of its own" in source.notes
        assert sorted([*split.val, *split.test]) == np.flatnonzero(np.array(source.split) == "val").tolist()
        assert not {source.contents[i] for i in split.val} & {source.contents[i] for i in split.test}
        pictures_of = [{(source.labels[i], source.contents[i]) for i in part} for part in (split.val, split.test)]
        assert [Counter(label for label, _ in part) for part in pictures_of] == [{0: 3, 1: 3}] * 2
        found.append(tuple(split.test))
    assert len(set(found)) > 2


@pytest.mark.parametrize("by", ["identities", "groups"])
def test_val_is_divided_by_what_is_kept_apart(by: str, tmp_path: Path) -> None:
    kinds = {"train": "abcdef", "val": "uvwxyz"} if by == "identities" else {"train": "ab", "val": "ab"}
    pictures(
        tmp_path, *(f"{part}/{k}/{part}{i % 4}-{i}.png" for part in kinds for k in kinds[part] for i in range(8))
    )
    source = image_folder(tmp_path, group_pattern=r"(\w+)-")
    split = make_split(source, by=by, **SHARES)  # type: ignore[arg-type]
    key = source.labels if by == "identities" else np.array(source.image_groups)
    val, test = set(key[split.val].tolist()), set(key[split.test].tolist())
    assert (len(val), len(test)) == ((3, 3) if by == "identities" else (2, 2))
    assert not val & test


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("val", "test"), "has val and test but no train folder; give train and test (without val, "),
        (("train",),
            "has train but no test folder; give train and test (without val, validation is drawn from train; "
            "without test, it is drawn from val), or train alone, which is divided by data.val and data.test, "
            "data.root={root}/train, or data.depth=2 if train is a group of classes"),
        (("dev",), "has dev but no train folder; give train and test"),
        (("train", "val", "Validation"), "Validation and val are both val; leave one of them"),
    ],
)  # fmt: skip
def test_a_split_that_is_none_is_refused_with_what_to_do(names: Sequence[str], message: str, tmp_path: Path) -> None:
    pictures(tmp_path, *several(*(f"{name}/{kind}" for name in names for kind in "ab")))
    with pytest.raises(DataError) as caught:
        image_folder(tmp_path)
    assert str(caught.value).startswith(f"data.root={tmp_path}: {message.format(root=tmp_path)}")


def test_a_class_may_be_called_as_a_part_is(tmp_path: Path) -> None:
    source = image_folder(pictures(tmp_path, *several("train", "bus", "test"), "train/old/1.png"))
    assert (source.split, source.classes) == (None, ["bus", "test", "train"])
    groups = image_folder(pictures(tmp_path / "deep", *several("test/a", "test/b", "more/c")), depth="2")
    assert (groups.split, groups.classes) == (None, ["more/c", "test/a", "test/b"])


def test_classes_that_one_part_alone_has_are_said(tmp_path: Path) -> None:
    pictures(tmp_path, *several("train/a", "train/b", "val/a", "val/b", "test/a", "test/b"), "test/new/1.png")
    with pytest.raises(DataError, match=r"^new of test are not in train; add images of them there"):
        make_split(image_folder(tmp_path), by="images", **SHARES)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------------- the depth


def test_the_depth_is_that_at_which_all_images_lie(tmp_path: Path) -> None:
    pictures(tmp_path / "one", *several("red", "green"))
    pictures(tmp_path / "two", *several("x/red", "x/green", "y/red"))
    pictures(tmp_path / "parts", *several("train/x/a", "train/x/b", "test/x/a", "test/x/b"))
    found = image_folder(tmp_path / "two")
    assert (found.classes, found.groups) == (["x/green", "x/red", "y/red"], ["x", "x", "y"])
    assert found.notes == [
        "classes lie two folders deep, <group>/<class>, such as x/green; where the first folder is the class, say "
        "data.group_level=2"
    ]
    assert image_folder(tmp_path / "two", depth="2").notes == []
    assert image_folder(tmp_path / "one").classes == ["green", "red"]
    parts = image_folder(tmp_path / "parts")
    assert (parts.classes, sorted(set(parts.split or []))) == (["x/a", "x/b"], ["test", "train"])
    assert image_folder(tmp_path / "two", group_level=2).classes == ["x", "y"]


@pytest.mark.parametrize(
    ("names", "how", "message"),
    [
        (("a/1.png", "a/left/1.png", "b/left/1.png", "b/right/1.png"), {},
            "1 images lie one folder deep, such as a/1.png, and 3 deeper, such as a/left/1.png; say which folder is "
            "the class, data.depth=1 or data.depth=2 (the images of other depths are left out), or move them"),
        (("a/b/c/1.png", "a/b/d/1.png"), {},
            "2 images lie more than two folders deep, such as a/b/c/1.png; give a folder of <class>/*.png"),
        (("1.png", "2.png"), {},
            "holds no images; expected root/<class>/*.png or root/{train,val,test}/<class>/*.png, or another format "
            "that Pillow reads; images beside the class folders are not used (2): 1.png, 2.png"),
        (("a/b/1.png",), {"depth": "1"},
            "holds no images; expected root/<class>/*.png or root/{train,val,test}/<class>/*.png, or another format "
            "that Pillow reads; images below a class folder are not used (1): a/b/1.png"),
    ],
)  # fmt: skip
def test_where_the_class_cannot_be_told_it_is_asked_for(
    names: Sequence[str], how: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        image_folder(pictures(tmp_path, *names), **how)  # type: ignore[arg-type]
    assert str(caught.value).startswith(f"data.root={tmp_path}: {message}")


@pytest.mark.slow
def test_the_depth_is_said_as_a_number_and_by_its_earlier_name(folder: Path) -> None:
    words = ["data=image_folder", f"data.root={folder}"]
    assert compose([*words, "data.depth=2"]).data == compose([*words, "data.identity_depth=2"]).data
    stored = asdict(compose(words))
    del stored["data"]["depth"]
    stored["data"]["identity_depth"] = 1
    assert asdict(read_config(stored).data)["depth"] == "1"
    with pytest.raises(ConfigError, match=r"data.depth=3: no such choice; valid: auto, 1, 2"):
        compose([*words, "data.depth=3"])
    with pytest.raises(ConfigError, match=r"data.group_level and data.depth=1: both say what the two folders"):
        compose([*words, "data.depth=1", "data.group_level=1"])


# ------------------------------------------------------------------------------------------------------------- tables


def written(folder: Path, text: str, encoding: str = "utf-8", name: str = "table.csv") -> Path:
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


ROWS = ("path,identity", "red/0.png,Zoë", "red/1.png,Müller; Anna")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_table_is_read_in_any_encoding_that_it_names_and_with_any_delimiter(
    encoding: str, delimiter: str, end: str, folder: Path
) -> None:
    lines = [delimiter.join(f'"{cell}"' for cell in row.split(",")) for row in ROWS]
    lines[0] = lines[0].replace('"', " ")
    for top in ([], [f"sep={delimiter}"] if end != "\r" else []):
        source = identity_csv(written(folder, end.join([*top, *lines, ""]), encoding))
        assert source.classes == ["Müller; Anna", "Zoë"]


@pytest.mark.slow
def test_other_encodings_are_declared(folder: Path) -> None:
    for encoding in ("latin-1", "cp1252", "utf-16-le"):
        assert identity_csv(written(folder, "\n".join(ROWS), encoding), encoding=encoding).classes[1] == "Zoë"
    words = ["data=identity_csv", f"data.csv={written(folder, chr(10).join(ROWS), 'latin-1')}"]
    source, _ = compose([*words, "data.encoding=latin-1"]).data.build(32)
    assert source.classes[1] == "Zoë"
    with pytest.raises(ConfigError, match=r"data.encoding=latn: no such encoding; give one such as utf-8, latin-1"):
        compose([*words, "data.encoding=latn"])
    with pytest.raises(ConfigError, match=r"data.encoding=base64: no such encoding"):
        compose([*words, "data.encoding=base64"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,identity\nred/0.png,Zoë\n".encode("latin-1"),
            "line 2 is not utf-8: its byte 0xeb cannot be read; say how it is written, data.encoding=latin-1, cp1252 "
            "or utf-16, or save it as UTF-8"),
        ("path,identity\n".encode("utf-16-le"), "line 1 holds a NUL byte, so that it is no text in utf-8; say how"),
        (b"path,identity\nred/0.png,Smith, Anna\nred/1.png\nred/2.png,x,\n",
            "2 lines are wrong: line 2: has 3 cells for 2 columns; quote what has a comma in it; line 3: has 1 cells "
            "for 2 columns"),
        (b"path;identity\nred/0.png;a;b\n", "1 lines are wrong: line 2: has 3 cells for 2 columns; quote what has a "
            "semicolon in it"),
        (b'path,identity\nred/0.png,a\n"red/1.png,a\nred/2.png,b\nred/3.png,b\n',
            "line 3 cannot be read (unexpected end of data); is a quote not closed, or not doubled within quotes?"),
        (b"path,identity\nred/0.png," + b"x" * 200_000 + b"\n",
            "line 2 cannot be read (field larger than field limit (131072)); is a quote not closed"),
        (b"sep=;\npath;identity\nred/0.png;a\nred/1.png;\n", "1 lines are wrong: line 4: identity is empty"),
        (b'path,identity\nred/0.png,"a\nb"\nred/1.png,a\x07\n',
            "2 lines are wrong: line 2: identity has a line break or control character in it, 'a\\nb'; line 4: "
            "identity has a line break or control character in it, 'a\\x07'"),
        (b"path,path,identity\nred/0.png,red/1.png,a\n", "has 2 columns path; leave one of them"),
        (b"Path,species\nred/0.png,a\n", "has no column path and no column identity; did you mean Path?; say what a "
            "column is called with data.columns.identity=NAME (path, label, split, group)"),
        (b"path,identity\nred/0.png,a\nred/../red/0.png,a\n",
            "1 lines are wrong: line 3: red/../red/0.png of line 2 is there already"),
        (b"path,identity\n../images/red/0.png,a\n../x.png,b\n/etc/x.png,c\n",
            "2 lines are wrong: line 3: ../x.png lies outside of {folder} (data.allow_outside=true takes it all the "
            "same); line 4: /etc/x.png lies outside of {folder} (data.allow_outside"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_table_is_one_message(content: bytes, message: str, folder: Path) -> None:
    (folder / "table.csv").write_bytes(content)
    with pytest.raises(DataError) as caught:
        identity_csv(folder / "table.csv")
    assert str(caught.value).startswith(f"{folder / 'table.csv'}: {message.format(folder=folder)}")


def test_a_place_that_is_no_table_is_said(folder: Path) -> None:
    os.mkfifo(folder / "pipe.csv")
    with pytest.raises(DataError, match=r"images: is a folder; give a CSV with columns path, identity"):
        identity_csv(folder)
    for name in ("pipe.csv", "gone.csv"):
        with pytest.raises(DataError, match=rf"{name}: no such file; give a CSV with columns path, identity"):
            identity_csv(folder / name)


def test_empty_lines_and_empty_cells_at_the_end_are_nothing(folder: Path) -> None:
    text = "path,identity,note\nred/0.png,a\n\n , ,\nred/1.png,b,,\n"
    assert identity_csv(written(folder, text)).classes == ["a", "b"]


@pytest.mark.slow
def test_columns_are_read_by_their_names(folder: Path) -> None:
    file = written(folder, "species,width,filename\ncat,9,red/0.png\ndog,9,red/1.png\n")
    words = ["data=identity_csv", f"data.csv={file}"]
    source, _ = compose([*words, "data.columns={path: filename, label: species}"]).data.build(32)
    assert source.classes == ["cat", "dog"]
    assert identity_csv(file, columns=Columns(path="filename", identity="species")).classes == ["cat", "dog"]
    with pytest.raises(ConfigError, match=r"data.columns.identity and data.columns.label: are two words for one"):
        compose([*words, "data.columns={label: species, identity: species}"])
    with pytest.raises(DataError, match="has no column path and no column kind; valid: species, width, filename"):
        identity_csv(file, columns=Columns(label="kind"))


def test_the_splits_of_a_table_have_their_usual_names_and_it_may_bring_no_test(folder: Path) -> None:
    rows = [
        f"{kind}/{i}.png,{kind},{'Training' if i < 6 else 'valid'}" for kind in ("red", "blue") for i in range(10)
    ]
    source = identity_csv(written(folder, "path,identity,split\n" + "\n".join(rows)))
    assert sizes(source) == {"train": 12, "val": 4, "test": 4}


@pytest.mark.slow
def test_paths_as_windows_writes_them_and_below_another_folder(folder: Path, tmp_path: Path) -> None:
    rows = "path,identity\nred\\0.png,a\n.\\red\\1.png,b\n"
    assert identity_csv(written(folder, rows)).classes == ["a", "b"]
    table = written(tmp_path, rows, name="elsewhere.csv")
    with pytest.raises(DataError, match=r"line 2: red/0.png does not exist in "):
        identity_csv(table)
    source, _ = compose(["data=identity_csv", f"data.csv={table}", f"data.root={folder}"]).data.build(32)
    assert source.describe(0) == str(folder / "red" / "0.png")
    with pytest.raises(
        ConfigError, match=r"data.root=gone: is not there, seen from .*; give the folder of the table"
    ):
        compose(["data=identity_csv", f"data.csv={table}", "data.root=gone"])
    with pytest.raises(ConfigError, match=r"data.root=: is not there"):
        compose(["data=identity_csv", f"data.csv={table}", "data.root="])


@pytest.mark.slow
def test_what_lies_outside_is_read_where_that_is_said_and_links_of_the_folder_are_followed(
    folder: Path, tmp_path: Path
) -> None:
    pictures(tmp_path, "other/1.png", "other/2.png")
    rows = f"../other/1.png,a\n{tmp_path}/other/2.png,b\n{folder}/red/0.png,c\n"
    file = written(folder, "path,identity\n" + rows)
    with pytest.raises(DataError, match=r"2 lines are wrong: line 2: \.\./other/1.png lies outside of .*; line 3: /"):
        identity_csv(file)
    words = ["data=identity_csv", f"data.csv={file}"]
    source, _ = compose([*words, "data.allow_outside=true"]).data.build(32)
    assert source.classes == ["a", "b", "c"]
    (folder / "link").symlink_to(tmp_path / "other")
    assert identity_csv(written(folder, "path,identity\nlink/1.png,a\nlink/2.png,b\n")).classes == ["a", "b"]
    pairs = "a,b,is_same\nred/0.png,../other/1.png,1\n"
    with pytest.raises(DataError, match=r"1 lines are wrong: line 2: \.\./other/1.png lies outside of .* takes it"):
        pairs_csv(written(folder, pairs))
    assert len(pairs_csv(written(folder, pairs), allow_outside=True)[0]) == 2


@pytest.mark.slow
def test_a_table_of_pairs_is_read_as_one_of_images(folder: Path, tmp_path: Path) -> None:
    table = written(tmp_path, "a;b;is_same;split\nred\\0.png;.\\red\\1.png;1;Train\nred/0.png;red/2.png;0;training\n",
                    "utf-16", "pairs.csv")  # fmt: skip
    words = ["task=siamese", "loss=contrastive", "data=pairs", f"data.pairs={table}", f"data.root={folder}"]
    source, pairs = compose(words).data.build(32)
    assert (len(source), source.split) == (3, ["train"] * 3)
    assert pairs is not None
    assert pairs.is_same.tolist() == [1, 0]
    with pytest.raises(DataError, match="line 2 is not utf-8: its byte 0xe9 cannot be read; say how it is written"):
        pairs_csv(written(folder, "a,b,is_same\nred/é.png,red/1.png,1\n", "latin-1"))


# ---------------------------------------------------------------------------------------------------- published lists


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; take it as its authors publish it"),
        (b"3\t2\nZo\xeb\t1\t2\n", "line 2 is not utf-8: its byte 0xeb cannot be read; take it as its authors"),
        (b"3\t2\n\0\n", "line 2 holds a NUL byte, so that it is no text in utf-8; take it as"),
        (b"3\t" + b"9" * 5000 + b"\n", "line 1 is 3 9"),
        ("3\t\u00b2\n".encode(), "line 1 is 3 \u00b2; expected the number of folds"),
        (b"3\t0\n", "line 1 is 3 0; expected the number of folds"),
        (b"3\t1\nA\t1\t2\nA\t1\n\nB\t1\tx\n../A\t1\t2\nA\t1\t..\t2\nA\t1\t2\t3\t4\n",
            "5 lines are wrong: line 3: expected a name and two numbers, or a name and a number twice; line 5: "
            "expected a name and two numbers, or a name and a number twice; line 6: ../A is no name of a folder in "
            "{root}/lfw-py/lfw; line 7: .. is no name of a folder in {root}/lfw-py/lfw; line 8: expected a name"),
        (b"3\t1\n" + b"A\t1\t1\nA\t1\tA\t2\n" + b"A\t1\t2\n" * 4,
            "2 lines are wrong: line 2: A_0001.jpg is paired with itself; line 3: A is paired with A as if "),
    ],
)  # fmt: skip
def test_damaged_pairs_of_faces_are_one_message(content: bytes, message: str, tmp_path: Path) -> None:
    pictures(tmp_path / "lfw-py" / "lfw", "A/A_0001.jpg", "A/A_0002.jpg")
    (tmp_path / "lfw-py" / "pairs.txt").write_bytes(content)
    with pytest.raises(DataError) as caught:
        lfw(tmp_path)
    expected = message.format(root=tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/lfw-py/pairs.txt: {expected}")


def test_lists_of_birds_and_products_name_no_file_elsewhere(tmp_path: Path) -> None:
    birds = tmp_path / "CUB_200_2011"
    birds.mkdir()
    (birds / "classes.txt").write_text(f"1 a\n{'9' * 5000} b\n")
    with pytest.raises(DataError, match=r"classes.txt: 1 lines are wrong: line 2: 9+ is no number$"):
        cub(tmp_path, by="images")
    (birds / "classes.txt").write_text("1 a\n2 b\n")
    (birds / "images.txt").write_text("1 a/1.jpg\n2 ../../x.jpg\n3 /etc/x.jpg\n")
    with pytest.raises(
        DataError, match=r"images.txt: 2 lines are wrong: line 2: ../../x.jpg lies outside of .*images; "
    ):
        cub(tmp_path, by="images")
    products = tmp_path / "Stanford_Online_Products"
    products.mkdir()
    header = "image_id class_id super_class_id path\n"
    (products / "Ebay_train.txt").write_text(header + "1 1 1 ../x.jpg\n")
    with pytest.raises(DataError, match=r"Ebay_train.txt: 1 lines are wrong: line 2: ../x.jpg lies outside of "):
        sop(tmp_path)
    (products / "Ebay_train.txt").write_text(header)
    with pytest.raises(DataError, match=r"Ebay_train.txt: has no line below its first; take it as its authors"):
        sop(tmp_path)
