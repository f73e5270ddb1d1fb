"""A start reads each image once, a later start those alone that it does not know; what changed is noticed."""

import os
import shutil
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

from commands import call
from stagetune.cache.store import Store, forget
from stagetune.cli import main
from stagetune.config.schema import Config
from stagetune.data import image_files, known, reading
from stagetune.data.datamodule import StagedData
from stagetune.data.decoding import look, read_image
from stagetune.data.facts import Facts
from stagetune.data.image_files import Entry, ImageFiles, Row
from stagetune.data.known import KnownFiles, Stamp
from stagetune.data.reading import Reading
from stagetune.report.result import read_result
from stagetune.run import run_experiment
from stagetune.run import screen as run_screen
from stagetune.run.data import build_data, build_store, decode_once, reading_of
from stagetune.run.screen import Screen

FACTS = Facts("abc", "PNG", "RGB", 24, 20)


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cache of the test's own, for which the test's files are old enough."""
    monkeypatch.setenv("STAGETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(known, "GRAIN", 0)
    forget()
    yield
    forget()


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file was decoded."""
    seen: Counter[str] = Counter()

    def counted(decode: Callable[..., Any]) -> Callable[..., Any]:
        def called(path: Path, **settings: Any) -> Any:
            seen[path.relative_to(path.parents[1]).as_posix()] += 1
            return decode(path, **settings)

        return called

    monkeypatch.setattr(image_files, "look", counted(look))
    monkeypatch.setattr(image_files, "read_image", counted(read_image))
    return seen


@pytest.fixture
def config(tiny: Callable[..., Config], folder: Path) -> Callable[..., Config]:
    def configure(*words: str, **settings: Any) -> Config:
        return tiny("+experiment=classifier_staged", "data=image_folder", f"data.root={folder}", *words, **settings)

    return configure


def start(config: Config, store: Store | None = None) -> tuple[StagedData, Reading]:
    """What a new process does with a run's data."""
    forget()
    screen = Screen()
    once = config.cache.images == "auto"
    with reading_of(config, screen, decodes_once=once) as how:
        data = build_data(config, reading=how)
        if once:
            decode_once(data, store or build_store(config, lambda text: screen.line("cache", text), writes=True), how)
    return data, how


@pytest.mark.parametrize("words", [[], ["data.resize=pad"], ["task=siamese", "loss=triplet", "data.turned=true"]])
def test_the_first_start_decodes_each_file_once_and_the_second_none(
    words: list[str], config: Callable[..., Config], decoded: Counter[str]
) -> None:
    """And both have the table that images have one by one. Turned drawings are made of the file again."""
    first, how = start(config(*words))
    turned = "data.turned=true" in words
    assert set(decoded.values()) == {4 if turned else 1}
    assert (len(decoded), how.looked, how.known_before) == (30, 30, 0)
    assert how.read == sum(decoded.values())
    decoded.clear()
    second, how = start(config(*words))
    assert not decoded
    assert (how.read, how.known_before) == (0, 30)
    assert first.source.contents == second.source.contents
    for data in (first, second):
        table = data.parts["val"].decoded
        assert table is not None
        rows = [data.parts["val"].prepared(i) for i in range(len(data.source))]
        assert torch.equal(table, torch.stack(rows))


def test_a_table_that_was_lost_is_made_with_one_decode_of_each_known_file(
    config: Callable[..., Config], decoded: Counter[str], tmp_path: Path
) -> None:
    start(config())
    decoded.clear()
    shutil.rmtree(tmp_path / "cache" / "tables")
    _, how = start(config())
    assert set(decoded.values()) == {1}
    assert (how.read, how.known_before) == (30, 30)


@pytest.mark.parametrize("words", [["cache=off"], ["cache.memory_gb=0", "cache.disk_gb=1e-6"]])
def test_where_no_table_is_made_nothing_is_decoded_or_resized_for_it(
    words: list[str], config: Callable[..., Config], decoded: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    honest = Reading._keep

    def kept(self: Reading, *image: Any) -> None:
        honest(self, *image)
        made.append(sum(map(len, self._kept.values())))

    monkeypatch.setattr(Reading, "_keep", kept)
    data, _ = start(config(*words))
    assert data.parts["train"].decoded is None
    assert set(decoded.values()) == {1}
    assert set(made) <= {0}
    decoded.clear()
    start(config(*words))
    assert not decoded


def test_what_is_kept_for_the_table_is_bounded_and_let_go_of(
    config: Callable[..., Config], decoded: Counter[str]
) -> None:
    squares = 7.5 * 3 * 32 * 32 / 1e9
    _, how = start(config(f"cache.memory_gb={squares}", "cache.disk_gb=1"))
    assert Counter(decoded.values()) == {1: 7, 2: 23}
    assert not how._kept


def test_copies_of_a_picture_are_each_decoded_once(folder: Path, decoded: Counter[str], config: Any) -> None:
    shutil.copy(folder / "red" / "0.png", folder / "red" / "copy.png")
    data, _ = start(config())
    assert len(set(data.source.contents)) == 30
    assert set(decoded.values()) == {1}
    assert len(decoded) == 31


def _rewrite(path: Path) -> None:
    Image.new("RGB", (24, 20), (9, 8, 7)).save(path, "BMP")


def _rewrite_and_put_back(path: Path) -> None:
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 255  # of the last pixel; the size stays
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _replace_by_one_as_old(path: Path) -> None:
    stat, other = path.stat(), path.with_name("draft")
    shutil.copy(path, other)
    _rewrite_and_put_back(other)
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(path)


def _exchange(path: Path) -> None:
    other, draft = path.with_name("1.png"), path.with_name("draft")
    path.rename(draft)
    other.rename(path)
    draft.rename(other)


def _point_elsewhere(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("1.png"))


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        (_rewrite, 1), (_rewrite_and_put_back, 1), (_replace_by_one_as_old, 1), (_exchange, 2), (_point_elsewhere, 1),
    ],
)  # fmt: skip
def test_a_file_that_is_another_now_is_read_again_and_no_other(
    change: Callable[[Path], None], changed: int, folder: Path, config: Any, decoded: Counter[str]
) -> None:
    """Whatever of it was put back: size, time, name."""
    for path in folder.rglob("*.png"):  # in a format of which any byte may be changed
        Image.open(path).save(path, "BMP")
    before, _ = start(config("cache=off"))
    change(folder / "green" / "0.png")
    decoded.clear()
    after, how = start(config("cache=off"))
    assert (sum(decoded.values()), how.known_before) == (changed, 30 - changed)
    places = [i for i in range(30) if before.source.contents[i] != after.source.contents[i]]
    assert [after.source.describe(i) for i in places] == [str(folder / "green" / f"{i}.png") for i in range(changed)]
    for i in range(30):
        assert after.source.contents[i] == look(Path(after.source.describe(i)))[0].content


def test_a_file_that_moved_is_read_again_and_the_table_is_found_by_its_contents(
    folder: Path, config: Any, decoded: Counter[str], tmp_path: Path
) -> None:
    start(config())
    decoded.clear()
    folder.rename(folder.with_name("elsewhere"))
    data, how = start(config(f"data.root={folder.with_name('elsewhere')}"))
    assert set(decoded.values()) == {1}
    assert how.known_before == 0
    assert data.parts["train"].decoded is not None
    assert len(list((tmp_path / "cache" / "tables").glob("*.bin"))) == 1


def test_a_file_as_young_as_its_entry_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may change again within the same tick of its clock; once it is older, it is."""
    monkeypatch.setattr(known, "GRAIN", 2_000_000_000)
    path = tmp_path / "x.png"
    Image.new("RGB", (24, 20)).save(path)
    files = KnownFiles(tmp_path / "known", say=print)
    ((young, found),) = files.facts([path], "")
    assert young is not None
    assert found is None
    files.record([(path, young, FACTS)], "")
    assert files.facts([path], "")[0][1] is None
    later = Stamp(young.text, young.changed, young.changed + 2_000_000_001)
    files.record([(path, later, FACTS)], "")
    assert files.facts([path], "")[0][1] == FACTS


def test_facts_are_of_a_size_and_of_a_version_of_pillow(
    config: Any, decoded: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for words, version, count in (
        ((), "1.0", 30), (("data.image_size=48",), "1.0", 30), ((), "1.0", 0), (("data.image_size=48",), "1.0", 0),
        ((), "1.1", 30), ((), "1.1", 0),
    ):  # fmt: skip
        monkeypatch.setattr(PIL, "__version__", version)
        decoded.clear()
        start(config("cache=off", *words))
        assert sum(decoded.values()) == count, (words, version)


def test_what_cannot_be_decoded_is_tried_again_and_the_rest_is_known(
    folder: Path, config: Any, decoded: Counter[str]
) -> None:
    whole = (folder / "blue" / "3.png").read_bytes()
    (folder / "blue" / "3.png").write_bytes(whole[:100])
    for _ in range(2):
        decoded.clear()
        data, how = start(config("cache=off", "data.on_error=skip"))
        assert "1 of 30 images cannot be read" in data.source.notes[0]
    assert decoded == {"blue/3.png": 1}
    (folder / "blue" / "3.png").write_bytes(whole)
    data, how = start(config("cache=off"))
    assert (len(data.source), how.read, how.known_before) == (30, 1, 29)


def test_what_a_library_opens_is_decoded_once_in_each_start() -> None:
    opened: list[int] = []

    def image(index: int) -> Image.Image:
        opened.append(index)
        return Image.new("L", (8, 8), index)

    how = Reading(square=lambda pixels: pixels, keep_bytes=1e6, table_bytes=1e6)
    with how.applied():
        source = ImageFiles("some", "some", [Row(image, i, "some", "ab"[i % 2]) for i in range(4)])
    assert sorted(opened) == [0, 1, 2, 3]
    assert [(facts.mode, facts.width, facts.is_flat) for facts in source.facts] == [("L", 8, True)] * 4
    taken = [how.take(content) for content in source.contents]
    assert [int(pixels[0, 0, 0]) for pixels in taken if pixels is not None] == [0, 1, 2, 3]
    assert how.take(source.contents[0]) is None


def _one_start(folder: Path, cache: Path, told: Path) -> None:
    """A process that starts on the folder, and says how many images it has read itself."""
    os.environ["STAGETUNE_CACHE"] = str(cache)
    known.GRAIN = 0
    honest = image_files.look

    def slow(path: Path, **settings: Any) -> Any:
        time.sleep(0.02)
        return honest(path, **settings)

    image_files.look = slow
    from stagetune.config.compose import compose

    words = ["+experiment=classifier_staged", "data=image_folder", f"data.root={folder}", "data.image_size=32"]
    _, how = start(compose(words))
    told.write_text(f"{how.read} {how.known_before}")


@pytest.mark.slow
def test_of_processes_that_start_at_once_one_reads(folder: Path, tmp_path: Path) -> None:
    racers = [call(_one_start, folder, tmp_path / "cache", tmp_path / f"told{i}") for i in range(2)]
    for racer in racers:
        _, errors = racer.communicate(60)
        assert racer.returncode == 0, errors
    said = sorted((tmp_path / f"told{i}").read_text() for i in range(2))
    assert said == ["0 30", "30 0"]


def _stuck(folder: Path, cache: Path) -> None:
    """A process that has recorded some images and goes no further."""
    known.GRAIN, reading.EVERY = 0, 0.0
    honest = image_files.look

    def look_at_some(path: Path, **settings: Any) -> Any:
        if path.parent.name == "red":
            time.sleep(60)
        return honest(path, **settings)

    image_files.look = look_at_some
    how = Reading(known=KnownFiles(cache, say=print))
    with how.applied():
        ImageFiles("some", "some", [Entry(path, path.parent.name) for path in sorted(folder.rglob("*.png"))])


@pytest.mark.slow
def test_what_a_killed_start_has_read_is_known_to_the_next(folder: Path, tmp_path: Path) -> None:
    process = call(_stuck, folder, tmp_path / "known")
    files = KnownFiles(tmp_path / "known", say=print)
    deadline = time.monotonic() + 30
    while files.count()[0] < 20 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    how = Reading(known=files)
    with how.applied():
        ImageFiles("some", "some", [Entry(path, path.parent.name) for path in sorted(folder.rglob("*.png"))])
    assert (how.read, how.known_before) == (10, 20)


def test_a_damaged_list_is_made_anew_and_never_believed(tmp_path: Path) -> None:
    """Torn, or with other bytes, anywhere: facts are right or not known, and a new list works."""
    paths = [tmp_path / f"{i}.png" for i in range(20)]
    for path in paths:
        path.write_bytes(b"an image")
    facts = {path: Facts(f"{i:032}", "PNG", "RGB", i, 20) for i, path in enumerate(paths)}
    said: list[str] = []
    said_all: set[str] = set()
    files = KnownFiles(tmp_path / "known", say=said.append)
    stamps = [stamp for stamp, _ in files.facts(paths, "so")]
    rows = [(path, stamp, facts[path]) for path, stamp in zip(paths, stamps, strict=True) if stamp]
    files.record(rows, "so")
    files.close()
    whole = files.path.read_bytes()
    rng = np.random.default_rng(0)
    for position in [*range(0, 100, 9), *rng.integers(100, len(whole), 25).tolist()]:
        for damage in ("tear", "flip", "fill"):
            content = bytearray(whole)
            if damage == "tear":
                content = content[:position]
            elif damage == "flip":
                content[position] ^= 1 << int(rng.integers(8))
            else:
                content[position : position + 200] = rng.bytes(len(content[position : position + 200]))
            files.path.write_bytes(content)
            said.clear()
            damaged = KnownFiles(tmp_path / "known", say=said.append)
            for path, (_, found) in zip(paths, damaged.facts(paths, "so"), strict=True):
                assert found in (None, facts[path]), (damage, position)
            damaged.record(rows, "so")
            damaged.close()
            again = KnownFiles(tmp_path / "known", say=said.append)
            remembered = [found for _, found in again.facts(paths, "so")]
            again.close()
            said_all.update(line.replace(str(files.path), "it") for line in said)
            is_for_reading = any("readonly" in line for line in said)  # which a byte of its head says
            assert is_for_reading or remembered == list(facts.values()), (damage, position)
    assert said_all - {next((line for line in said_all if "readonly" in line), "")} == {
        "it, the list of known images, is damaged; it is made anew"
    }


def test_where_the_cache_cannot_be_used_all_is_read_and_that_is_said_once(
    config: Any, decoded: Counter[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "taken").write_text("a file, and no folder")
    monkeypatch.setenv("STAGETUNE_CACHE", str(tmp_path / "taken"))
    for _ in range(2):
        decoded.clear()
        data, how = start(config())
        assert set(decoded.values()) == {1}
        assert how.known_before == 0
        assert data.parts["val"].decoded is not None
        said = capsys.readouterr().out
        assert said.count("the list of known images, cannot be used (Not a directory); images are read again") == 1


def test_a_list_that_may_only_be_read_is_read(
    config: Any, decoded: Counter[str], monkeypatch: pytest.MonkeyPatch, folder: Path, capsys: Any
) -> None:
    start(config())
    honest = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, **how: honest(f"file:{path}?mode=ro", uri=True, **how))
    decoded.clear()
    _, how = start(config())
    assert (how.read, how.known_before) == (0, 30)
    assert "cannot be used" not in capsys.readouterr().out
    Image.new("RGB", (24, 20)).save(folder / "red" / "new.png")
    _, how = start(config("cache=off"))
    assert (how.read, how.known_before) == (1, 30)
    assert "cannot be used (attempt to write a readonly database)" in capsys.readouterr().out


def test_the_entries_that_were_used_least_recently_drop_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for path in paths:
        path.touch()
    day = 20_000
    monkeypatch.setattr(known, "_day", lambda: day)

    def opened() -> KnownFiles:
        return KnownFiles(tmp_path / "known", say=pytest.fail, most=3)

    for path in paths[:3]:
        files, day = opened(), day + 1
        ((stamp, _),) = files.facts([path], "so")
        assert stamp is not None
        files.record([(path, stamp, FACTS)], "so")
        files.close()
    files, day = opened(), day + 1
    assert files.facts(paths[:1], "so")[0][1] == FACTS  # the oldest is used again
    for path in paths[3:]:
        ((stamp, _),) = files.facts([path], "so")
        assert stamp is not None
        files.record([(path, stamp, FACTS)], "so")
    files.close()
    files = opened()
    assert [found is not None for _, found in files.facts(paths, "so")] == [True, False, False, True, True]


def test_the_command_lists_and_clears_what_is_known(config: Any, tmp_path: Path, capsys: Any) -> None:
    start(config())
    line = f"known images, 0.000 GB in {tmp_path / 'cache' / 'known'}"
    for action, count, removed in (("list", 30, ""), ("clear", 30, ", removed"), ("list", 0, "")):
        capsys.readouterr()
        main(["cache", action])
        assert f"{count} {line}{removed}" in capsys.readouterr().out.splitlines()


@pytest.mark.slow
@pytest.mark.usefixtures("_no_pictures", "_no_probe")
def test_a_run_says_what_it_read_and_how_long_it_took(
    config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(run_screen, "PATIENCE", -1.0)  # everything takes longer
    for name, line in (("first", "30 images in "), ("second", "0 images in ")):
        forget()
        run_experiment(config(stages=1), tmp_path / name)
        said = capsys.readouterr().out
        assert f"read      {line}" in said
        assert (" (0 known)" if name == "first" else " (30 known)") in said
        assert ("reading images: 1 of 30 so far" in said) == (name == "first")
        timing = read_result(tmp_path / name).timing
        assert timing["total_seconds"] > timing["data_seconds"] >= timing["reading_seconds"] >= 0
