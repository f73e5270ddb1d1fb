"""The documentation is true: commands compose, files are read, programs compile, what is marked runs, links lead on.

What stands in a block is told by its language; where that does not say it, by an HTML comment in the line before:

- `<!-- run -->`: run, at a tiny size.
- `<!-- output -->`: what is seen on screen, not checked.
- `<!-- files -->`: a tree of our files, which are there, and all that lie directly in src/stagetune.
- `<!-- conf/experiment/NAME.yaml -->`: the file of that path in a folder of somebody's own.
- `<!-- lines of a stage -->`: settings of a stage, each line by itself.

A block that is none of what is known here is an error.
"""

import importlib.util
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from markdown_it import MarkdownIt
from markdown_it.token import Token
from PIL import Image

import stagetune
from commands import start
from conftest import TINY
from stagetune import cli
from stagetune.config.compose import compose
from stagetune.config.schema import Config
from stagetune.errors import ConfigError
from stagetune.inference.commands import DIFFERENT
from stagetune.schedule.load import load_schedule
from stagetune.sweep.combinations import combinations

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = ("python ", "stagetune ", "make ", "torchrun ", "pip ")  # as inline code begins
SHELL = ("", "sh", "bash", "console")

# what stands for something in a command that is written down, and what it stands for here
PLACEHOLDERS = {
    "schedule=NAME": "schedule=gradual",
    "resume=outputs/<experiment>/<date_time>": "resume=outputs/run",
    "data.val_groups=[...]": "data.val_groups=[Greek]",
    "data.test_groups=[...]": "data.test_groups=[Latin]",
}
WORDS_ON_OVERRIDES = {"group=option", "group.key=value", "loss="}  # not overrides themselves

CHECKPOINT = Path("outputs/sweeps/omniglot_small1/as-it-is/seed-0/checkpoints/best.ckpt")  # of docs/omniglot.md

# A setting that is named alone has to be right beside one of these.
BESIDE = (
    ["+experiment=siamese_staged"],
    ["+experiment=omniglot_small1"],
    ["+experiment=siamese_staged", "data=image_folder", "data.root=images", "data.split=identities"],
    ["data=cifar10"],
    ["data=sop", "data.root=images", "task=siamese", "loss=triplet"],
    ["+experiment=siamese_staged", "trainer=ddp"],
    ["model=own", "model.network._target_=my_package.MyNetwork", "model.blocks=[conv1,layer1]", "schedule=full"],
)


@dataclass(frozen=True)
class Piece:
    """Something in a page that can be checked."""

    kind: str  # fence | code | link
    page: str
    line: int
    text: str
    language: str = ""
    mark: str = ""  # the comment before a fence

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


def pieces_of(path: Path) -> Iterator[Piece]:
    """All fences, inline code and links of a page, in order."""
    page = path.relative_to(ROOT).as_posix()
    before: Token | None = None
    for token in MarkdownIt("commonmark").enable("table").parse(path.read_text()):
        if token.type == "fence" and token.map:
            comment = re.fullmatch(r"<!--\s*(.*?)\s*-->", before.content.strip()) if before else None
            mark = comment[1] if comment else ""
            yield Piece("fence", page, token.map[0] + 1, token.content, token.info.strip(), mark)
        elif token.type == "inline" and token.map:
            line = token.map[0] + 1
            for child in token.children or []:
                if child.type == "softbreak":
                    line += 1
                elif child.type == "code_inline":
                    yield Piece("code", page, line, child.content)
                elif child.type in ("link_open", "image"):
                    yield Piece("link", page, line, str(child.attrGet("href") or child.attrGet("src")))
        before = token if token.type == "html_block" else None


PIECES = [piece for path in PAGES for piece in pieces_of(path)]


def each(pieces: Sequence[Piece]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("piece", [pytest.param(piece, id=piece.where) for piece in pieces])


def fences(*languages: str) -> list[Piece]:
    return [piece for piece in PIECES if piece.kind == "fence" and piece.language in languages]


def lines_of(text: str) -> list[str]:
    """The commands of a block, each in one line."""
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def is_override(text: str) -> bool:
    """Whether inline code begins as words of a command line do; `fused=False` is of Python."""
    first = re.match(r"[+~]?[a-z_][\w./]*=(\S*)", text)
    return first is not None and first[1] not in ("True", "False") and text not in WORDS_ON_OVERRIDES


# -------------------------------------------------------------------------------------------------- somebody's folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the commands of the pages read, and the files that the pages show."""
    folder = tmp_path_factory.mktemp("somebody")
    draw_people(folder / "images")
    people = sorted((folder / "images").glob("*/*.jpg"))
    (folder / "images.csv").write_text("path,identity\n" + "".join(f"{p},{p.parent.name}\n" for p in people))
    (folder / "pairs.csv").write_text(f"a,b,is_same\n{people[0]},{people[1]},1\n{people[0]},{people[-1]},0\n")
    (folder / "path.yaml").write_text("stages: [{name: all, open: [all], lr: 1e-3}]")
    for name in ("data", "parts", "outputs/run", CHECKPOINT.parent):
        (folder / name).mkdir(parents=True)
    (folder / CHECKPOINT).touch()
    run = compose(["+experiment=siamese_staged"])
    (folder / "outputs/run/config.yaml").write_text(yaml.safe_dump(asdict(run)))
    for piece in fences("yaml"):
        if piece.mark.endswith(".yaml"):
            path = folder / piece.mark
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(piece.text)
    return folder


@pytest.fixture
def somebody(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    return made


def draw_people(root: Path) -> None:
    """root/{anna,ben,carl}/1.jpg ... 10.jpg, every image another."""
    rng = np.random.default_rng(0)
    for channel, name in enumerate(("anna", "ben", "carl")):
        (root / name).mkdir(parents=True)
        for number in range(1, 11):
            pixels = rng.integers(0, 80, (40, 40, 3), dtype=np.uint8)
            pixels[..., channel] += 150
            Image.fromarray(pixels).save(root / name / f"{number}.jpg")


# ----------------------------------------------------------------------------------------------------------- commands


@cache  # many commands say the same; all are composed in the one folder of `made`
def composed(words: tuple[str, ...]) -> Config:
    return compose(words)


def configs_of(words: Sequence[str]) -> list[Config]:
    """What a run, or with -m each job of a sweep, would be told; raises `ConfigError` as the command does."""
    overrides = [PLACEHOLDERS.get(word, word) for word in words if word not in ("-m", "--multirun")]
    params = []
    for word in overrides:
        if word.startswith("+sweep="):
            content = yaml.safe_load((ROOT / "conf" / "sweep" / f"{word.partition('=')[2]}.yaml").read_text())
            params = [f"{key}={values}" for key, values in content["hydra"]["sweeper"]["params"].items()]
    parsed = OverridesParser.create().parse_overrides([*params, *overrides])
    if "hydra/sweeper=optuna" in overrides:
        parsed = [lowest(override) for override in parsed]
    jobs = combinations(parsed)
    assert len(jobs) == 1 or params or {"-m", "--multirun"} & set(words), "several values make a sweep: say -m"
    # jobs that differ in the seed alone are right or wrong together
    unlike = {tuple(word for word in job if not word.startswith("seed=")): tuple(job) for job in jobs}
    return [composed(job) for job in unlike.values()]


def lowest(override: Override) -> Override:
    """Of an interval that is searched the number where it begins."""
    value = override.value()
    if not isinstance(value, IntervalSweep):
        return override
    return OverridesParser.create().parse_override(f"{override.get_key_element()}={value.start}")


def check_command(words: Sequence[str]) -> None:
    """Check a command as far as can be told without running it."""
    match words:
        case ["python", "train.py", *rest] | ["stagetune", "train", *rest]:
            configs_of(rest)
        case ["torchrun", *options, "train.py", "…", override]:
            assert options == ["--nproc-per-node", "2"]
            configs_of(["+experiment=siamese_staged", override])
        case ["stagetune", "plan", *rest]:
            said(["plan", *rest])
            configs_of([word for word in rest if "=" in word])
        case ["stagetune", *rest]:
            said(rest)
        case ["make", *rest]:
            for recipe in recipes(rest):
                if "train.py" in recipe:
                    configs_of(recipe[recipe.index("train.py") + 1 :])
                elif recipe[0].endswith("stagetune"):
                    said(recipe[1 : recipe.index("&&") if "&&" in recipe else None])
        case ["pip", "install", "."]:
            assert (ROOT / "pyproject.toml").is_file()
        case ["pip", "install", wanted]:
            extra = re.fullmatch(r"stagetune\[(\w+)\]", wanted)
            project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
            assert extra, f"{wanted} is not ours"
            assert extra[1] in project["optional-dependencies"]
        case ["python", "-m", module]:
            assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file()
        case ["python", program, *_]:
            assert (ROOT / program).is_file()
        case ["curl", *_, address]:
            route = address.removeprefix("http://127.0.0.1:8000/")
            assert f"async def {route}(" in (ROOT / "examples" / "serve.py").read_text()
        case _:
            pytest.fail(f"{shlex.join(words)}: is no command that the test knows; mark the block, or teach the test")


def recipes(words: Sequence[str]) -> list[list[str]]:
    """What make would run; fails where it has no such target (of a folder's name make says that it is up to date)."""
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {word for word in words if "=" not in word} <= targets
    command = ["make", "--dry-run", "--silent", "--old-file=.venv/.ready", *words]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [shlex.split(part) for line in lines_of(shown) for part in line.split(";")]


def said(words: Sequence[str]) -> None:
    """Have the words of a `stagetune` command parsed, and nothing done."""
    try:
        cli.understood(words)
    except SystemExit as end:
        if end.code:  # else --version or --help have been said
            pytest.fail(f"stagetune {shlex.join(words)}: is not understood")


@each([piece for piece in fences(*SHELL) if piece.mark not in ("output", "files")])
def test_commands_of_a_block_are_right(piece: Piece, somebody: Path) -> None:
    assert piece.mark in ("", "run"), f"{piece.where}: no such mark, {piece.mark}"
    for line in lines_of(piece.text):
        check_command(shlex.split(line, comments=True))


@each([piece for piece in PIECES if piece.kind == "code" and piece.text.startswith(COMMANDS)])
def test_commands_in_the_text_are_right(piece: Piece, somebody: Path) -> None:
    check_command(shlex.split(piece.text))


@each([piece for piece in PIECES if piece.kind == "code" and is_override(piece.text)])
def test_settings_in_the_text_are_right(piece: Piece, somebody: Path) -> None:
    words = shlex.split(piece.text)
    if "hydra/launcher=ray" in words and not importlib.util.find_spec("hydra_plugins.hydra_ray_launcher"):
        pytest.skip("hydra-ray-launcher is not installed")
    problems = []
    for beside in ([],) if words[0].startswith("+experiment=") else BESIDE:
        try:
            configs_of(["-m", *beside, *words])
        except ConfigError as error:
            problems.append(f"{shlex.join([*beside, *words])}: {error}")
        else:
            return
    pytest.fail("\n".join(problems))


# ------------------------------------------------------------------------------------------------- files and programs


@each(fences("yaml"))
def test_configuration_files_are_read(piece: Piece, somebody: Path) -> None:
    content = yaml.safe_load(piece.text)
    if piece.mark.startswith(("conf/experiment/", "conf/schedule/")):  # made by the fixture
        group = Path(piece.mark).parent.name
        configs_of([f"{'+' if group == 'experiment' else ''}{group}={Path(piece.mark).stem}"])
    elif piece.mark == "lines of a stage":
        for line in lines_of(piece.text):
            load_schedule([{"name": "all", "open": ["all"], "lr": 1e-3, **yaml.safe_load(line)}])
    elif not piece.mark and ("stages" in content or all(str(key).isdecimal() for key in content)):
        (somebody / "shown.yaml").write_text(piece.text)
        assert load_schedule("shown.yaml").stages
    else:
        pytest.fail(f"{piece.where}: a file of which the test does not know what it is; mark it")


@each(fences("python"))
def test_programs_compile(piece: Piece) -> None:
    compile("\n" * piece.line + piece.text, piece.page, "exec")


@each([piece for piece in fences(*SHELL) if piece.mark == "files"])
def test_trees_of_files_are_whole(piece: Piece) -> None:
    package = ROOT / "src" / "stagetune"
    names = [
        (package if line.startswith("  ") else ROOT) / line.split()[0]
        for line in lines_of(piece.text)
        if line[:3] != "   "
    ]
    assert [str(path) for path in names if not path.exists()] == []
    modules = [path for path in package.iterdir() if path.suffix in ("", ".py") and not path.name.startswith("__")]
    assert sorted(path.name for path in modules if path not in names) == []


def test_every_block_is_of_a_known_kind() -> None:
    directives = ("{eval-rst}", "{toctree}")  # of Sphinx, which checks them
    known = fences(*SHELL, "yaml", "python", *directives)
    assert [piece.where for piece in PIECES if piece.kind == "fence" and piece not in known] == []
    assert {piece.mark for piece in fences("python", *directives)} <= {"", "run"}


# ------------------------------------------------------------------------------------------------- what is really run


def tiny(words: Sequence[str]) -> list[str]:
    """Overrides by which a run, or each job of a sweep, takes seconds: every stage is one epoch of two batches."""
    schedules = [config.schedule for config in configs_of(words)]
    stages = range(min(len(schedule.stages) for schedule in schedules))
    lengths = [f"schedule.stages.{stage}.epochs=1" for stage in stages]
    given = {word.partition("=")[0] for word in words}
    size = [word for word in TINY if not word.startswith(("schedule.", "+trainer."))]
    size = [word for word in size if word.partition("=")[0] not in given]
    return [*size, "+trainer.limit_train_batches=2", *lengths]


@pytest.fixture
def anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images and nothing else."""
    draw_people(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.usefixtures("_no_pictures")
@each([piece for piece in fences(*SHELL) if piece.mark == "run"])
def test_marked_commands_run(
    piece: Piece, anew: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, since starting one takes longer than a tiny run does."""
    monkeypatch.setattr(sys, "argv", ["stagetune"])  # which Hydra reads
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    for line in lines_of(piece.text):
        match shlex.split(line, comments=True):
            case ["python", "train.py", *rest] | ["stagetune", "train", *rest]:
                cli.main(["train", *rest, *tiny(rest)])
            case ["stagetune", *rest]:
                try:
                    cli.main(rest)
                except SystemExit as end:  # two images may be different
                    if (rest[0], end.code) != ("verify", DIFFERENT):
                        raise
            case ["python", program] if program.startswith("examples/"):
                runpy.run_path(str(ROOT / program), run_name="__main__")
            case _:
                pytest.fail(f"{piece.where}: {line}: cannot be run in a test")
        assert capsys.readouterr().out, line


@pytest.mark.slow
@pytest.mark.usefixtures("_no_pictures")
@each([piece for piece in fences("python") if piece.mark == "run"])
def test_marked_programs_run(piece: Piece, anew: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stagetune, "compose", lambda words: compose([*words, *tiny(words)]))
    exec(compile("\n" * piece.line + piece.text, piece.page, "exec"), {})


# ----------------------------------------------------------------------------------------------------------- the site


@each([piece for piece in PIECES if piece.kind == "link" and not piece.text.startswith(("http:", "https:"))])
def test_links_lead_to_files(piece: Piece) -> None:
    assert ((ROOT / piece.page).parent / piece.text.partition("#")[0]).exists(), piece.text


def test_every_public_name_is_in_the_api() -> None:
    api = (ROOT / "docs" / "api.md").read_text()
    assert [name for name in stagetune.__all__ if name != "__version__" and f":: {name}\n" not in api] == []


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    process = start("-m", "sphinx", "-W", "--keep-going", "-q", str(ROOT / "docs"), str(tmp_path), cwd=tmp_path)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    pages = {path.stem for path in tmp_path.glob("*.html")}
    assert {path.stem for path in PAGES[1:]} <= pages
    assert not re.search(r"(src|@import|url\()\W*https?:", (tmp_path / "index.html").read_text())
