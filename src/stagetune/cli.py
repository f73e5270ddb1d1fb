"""The `stagetune` command."""

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING

from stagetune import __version__
from stagetune.config.compose import compose
from stagetune.errors import ConfigError, StagetuneError, shown
from stagetune.inference import commands as using
from stagetune.inference.export import command as exporting
from stagetune.interrupts import heard
from stagetune.report import commands as reporting
from stagetune.streams import drop_output, open_streams
from stagetune.visible import visible, visible_name

if TYPE_CHECKING:
    pass

FEWEST_STEPS = 50  # of a learning-rate test
PICTURES = (".png", ".pdf", ".svg")


def main(arguments: Sequence[str] | None = None) -> None:
    """What the words of a command line ask for; without them those that the process was given.

    Ends the process where its exit code is not 0 (docs/using.md lists them).
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    open_streams()
    with suppress(OSError):  # a folder that was removed
        sys.path.append(os.getcwd())  # where a network of one's own lies
    trains = given[:1] == ["train"] and "--version" not in given  # Hydra reads these words, and has its own --help
    run = partial(_train, given[1:]) if trains else _chosen(given)
    code = 0
    with heard(), shown("interrupted"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # of files, of which what matters is said by name
        try:
            code = run() or 0
            sys.stdout.flush()
        except BrokenPipeError:  # whoever reads it (head, a pager) has seen enough
            drop_output()
        except OSError as error:  # a full disk, what may not be read or written, a name that is too long
            drop_output()
            where = os.fspath(error.filename) if error.filename else "what is printed or read"
            raise StagetuneError(f"{where}: {error.strerror or error}") from error
    if code:
        sys.exit(code)


def _train(words: Sequence[str]) -> None:
    from stagetune.train import train

    train(words)


def _chosen(given: Sequence[str]) -> Callable[[], int | None]:
    chosen = understood(given)
    return partial(chosen.run, chosen)


def understood(given: Sequence[str]) -> argparse.Namespace:
    """The words, as values; `run` does what they ask for. Ends the process with exit code 2 where they are none."""
    parser = argparse.ArgumentParser(prog="stagetune", description="Staged fine-tuning: look before, run, compare.")
    parser.add_argument("--version", action="version", version=f"stagetune {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("train", help="run an experiment, or with -m a sweep; as python train.py, --help lists all")
    plan = commands.add_parser(
        "plan", help="show what a run would open when, at which rate; nothing is read or trained"
    )
    plan.add_argument("overrides", nargs="*", help="as for train.py: +experiment=siamese_staged schedule=gradual ...")
    plan.add_argument("--picture", type=Path, help="where to draw it (default: outputs/plans/<schedule>.png)")
    plan.set_defaults(run=lambda given: show_plan(given.overrides, given.picture))
    lr = commands.add_parser(
        "lr", help="propose learning rates: each stage trains for a while as they rise; nothing is kept"
    )
    lr.add_argument("overrides", nargs="*", help="as for train.py: +experiment=siamese_staged model=resnet18 ...")
    lr.add_argument("--steps", type=_steps, default=100, help="of each stage's test, at most (default: 100)")
    lr.add_argument("--picture", type=Path, help="where to draw it (default: outputs/lr/<name>.png)")
    lr.set_defaults(run=lambda given: show_lr(given.overrides, given.steps, given.picture))
    data = commands.add_parser(
        "data", help="check the images of an experiment before training: copies, leaks, labels, what cannot be read"
    )
    data.add_argument("action", choices=("check",))
    data.add_argument("overrides", nargs="*", help="as for train.py: +experiment=people data.root=images ...")
    data.add_argument("--json", action="store_true", help="all that was found, as one JSON object")
    data.add_argument("--page", type=Path, help="where its pictures go (default: outputs/checks/<name>.html)")
    data.set_defaults(run=lambda given: show_check(given.overrides, given.page, as_json=given.json))
    cache = commands.add_parser("cache", help="list or clear the files of the feature cache")
    cache.add_argument("action", choices=("list", "clear"))
    cache.set_defaults(run=lambda given: show_cache(clear=given.action == "clear"))
    oneshot = commands.add_parser(
        "oneshot",
        help="score a checkpoint by Omniglot's official one-shot runs, or by all pairs of an alphabet's drawers",
        usage="stagetune oneshot CKPT RUNS [--views N], or: stagetune oneshot RUNS --baseline hausdorff",
    )
    oneshot.add_argument(
        "paths", nargs="+", type=Path, help="a checkpoint of a siamese run, and the folder of the runs"
    )
    oneshot.add_argument("--baseline", choices=("hausdorff",), help="without a model: modified Hausdorff distances")
    oneshot.add_argument(
        "--views",
        type=int,
        choices=(1, 5, 9),
        default=1,
        help="embed each as a mean of 5 shifts, or of 9 shifts and turns",
    )
    using.add_trust(oneshot)
    oneshot.set_defaults(run=lambda given: show_oneshot(given, oneshot))
    prune = commands.add_parser(
        "prune", help="leave channels of a trained network out, and fine-tune what is left as a run of its own"
    )
    prune.add_argument("checkpoint", metavar="CKPT", help="a checkpoint, or a run's directory")
    prune.add_argument("overrides", nargs="*", help="what is other than in that run: schedule=full name=small ...")
    prune.add_argument("--ratio", type=float, required=True, help="the share of channels that is left out: 0.3")
    using.add_trust(prune)
    prune.set_defaults(run=show_prune)
    reporting.add_commands(commands)
    using.add_commands(commands)
    exporting.add_command(commands)
    chosen, more = parser.parse_known_args(["--version"] if given[:1] == ["train"] else given)
    if "overrides" in chosen and not any(word.startswith("-") for word in more):
        chosen.overrides += more  # argparse takes those before an option alone
    elif more:
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    return chosen


def _steps(text: str) -> int:
    """The steps of a learning-rate test; raises argparse's error for too few."""
    steps = int(text)
    if steps < FEWEST_STEPS:
        raise argparse.ArgumentTypeError(f"{steps}: a curve needs at least {FEWEST_STEPS} steps")
    return steps


def show_cache(*, clear: bool) -> None:
    """Print size and age of each stored table, and how many images are known; with `clear` remove them all."""
    from stagetune.cache.store import GB, Store
    from stagetune.run.data import known_files
    from stagetune.run.pretrained import cache_folder

    store = Store(cache_folder() / "tables", memory_gb=0, disk_gb=0, say=print)
    files = store.files()
    for key, size, used in files:
        print(f"{key}  {size / GB:8.3f} GB  used {datetime.fromtimestamp(used):%Y-%m-%d %H:%M}")
        if clear:
            store.remove(key)
    if clear:
        store.remove_abandoned()
    known, removed = known_files(print), ", removed" if clear else ""
    count, size = known.count()
    if clear:
        known.clear()
    known.close()
    print(f"{count} known images, {size / GB:.3f} GB in {known.folder}{removed}")
    total = sum(size for _, size, _ in files) / GB
    print(f"{len(files)} tables, {total:.3f} GB in {store.folder}{removed}")


def show_check(overrides: Sequence[str], page: Path | None, *, as_json: bool) -> int:
    """Look at the images of a run, print what is wrong with them, and draw a page; returns the exit code."""
    config = compose(overrides)
    if config.resume:
        raise ConfigError([f"resume={config.resume}: data are checked before a run; leave resume out"])
    from stagetune.inspection import page as pages
    from stagetune.inspection import telling
    from stagetune.inspection.check import check
    from stagetune.run.screen import Screen

    path = _writable(page or Path("outputs") / "checks" / f"{config.name}.html", "page")
    screen = Screen(quiet=as_json)
    checked = check(config, screen)
    pages.write_page(checked, path)
    for about, text in telling.summary(checked):
        screen.line(about, text)
    screen.line("page", str(path))
    if as_json:
        print(json.dumps({**telling.as_json(checked), "page": str(path)}, indent=1))
    return telling.exit_code(checked)


def show_oneshot(given: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Print the error of each official run and their mean, or the mean over all pairs of an alphabet's drawers."""
    if len(given.paths) != (1 if given.baseline else 2):
        parser.error("give CKPT and RUNS, or RUNS with --baseline hausdorff")
    from stagetune.evaluation import oneshot_runs
    from stagetune.inference.oneshot import distances_of

    folder = given.paths[-1]
    is_official = any(folder.expanduser().glob("run*/class_labels.txt"))
    runs = oneshot_runs.read_runs(folder) if is_official else oneshot_runs.drawer_runs(folder)
    checkpoint = None if given.baseline else given.paths[0]
    views, trust = given.views, given.trust
    distances = distances_of(checkpoint, views=views, trust=trust) if checkpoint else oneshot_runs.hausdorff
    found = oneshot_runs.errors(runs, distances)
    if is_official:
        for name, error in found.items():
            print(f"{visible_name(name)}  {100 * error:5.1f}% error")
        mean, low, high = oneshot_runs.mean_and_interval(list(found.values()))
    else:
        mean, low, high = oneshot_runs.interval_over_drawers(found)
    over = "runs" if is_official else "drawers"
    print(
        f"{len(runs)} runs: {100 * mean:.1f}% error (95% interval over {over}: {100 * low:.1f} to {100 * high:.1f})"
    )


def show_plan(overrides: Sequence[str], picture: Path | None) -> None:
    """Print the plan of a run and draw blocks against epochs; raises what composing and resolving raise."""
    config = compose(overrides)
    # only now: a mistake above is answered without torch
    from stagetune.report.figures import draw_plan
    from stagetune.run.planning import plan_of
    from stagetune.schedule.lr_schedulers import simulate
    from stagetune.schedule.table import plan_text
    from stagetune.schedule.timeline import rate_timeline

    plan = plan_of(config)
    path = _place_of(picture or Path("outputs") / "plans" / f"{plan.name}.png")
    timeline = rate_timeline(plan, simulate)
    draw_plan(timeline.blocks, timeline.rates, timeline.stages, path)
    print(visible(plan_text(plan)))
    if config.model.prune.ratio is not None:
        print(f"counts are before model.prune.ratio={config.model.prune.ratio}; plan.txt of the run has both")
    elif _was_pruned(config.model.weights):
        print(f"counts are of the whole network; {config.model.weights} is of one that was pruned")
    print(visible_name(str(path)))


def _was_pruned(weights: str) -> bool:
    """Whether a file, or a run, holds the weights of a pruned network."""
    from stagetune.models.weights import file_weights

    try:
        return bool(Path(weights).expanduser().exists() and file_weights(weights).pruning)
    except StagetuneError:
        return False


def show_prune(given: argparse.Namespace) -> None:
    """Run the fine-tuning of a pruned network; its screen says what came of it."""
    from stagetune.inference.prune import prune_run

    prune_run(given.checkpoint, given.ratio, given.overrides, trust=given.trust)


def show_lr(overrides: Sequence[str], steps: int, picture: Path | None) -> None:
    """Print and draw what a learning-rate range test of each stage proposes, and how it is said to a run."""
    config = compose(overrides)
    if config.resume:
        raise ConfigError([f"resume={config.resume}: rates are tested before a run; leave resume out"])
    from stagetune.report.lr_figure import draw_rate_tests
    from stagetune.run.lr_test import rate_notes, rate_overrides, rate_table, rate_tests
    from stagetune.run.screen import Screen

    path = _place_of(picture or Path("outputs") / "lr" / f"{config.name}.png")  # before what takes its time
    tests = rate_tests(config, steps, Screen())
    print(visible(rate_table(tests)))
    words = list(rate_overrides(tests))
    try:
        compose([*overrides, *words])
    except ConfigError:  # a schedule file, or a recipe, says the stages
        words = [f"{word} (where the schedule's stages are said)" for word in words]
    for line in [*([" ".join(words)] if words else []), *rate_notes(tests)]:
        print(visible(line))
    panels = [
        {**vars(test.curve), "name": test.stage.name, "scheduled": test.scheduled, "proposed": test.proposed}
        for test in tests
    ]
    draw_rate_tests(panels, path)
    print(visible_name(str(path)))


def _place_of(picture: Path) -> Path:
    """The same, in a folder that is there; raises `ConfigError` where it cannot be written."""
    if picture.suffix not in PICTURES:
        raise ConfigError([f"picture {picture}: of this kind none can be drawn; let its name end in .png"])
    return _writable(picture, "picture")


def _writable(path: Path, option: str) -> Path:
    """The same, in a folder that is there; raises `ConfigError` where it cannot be written."""
    if path.is_dir():
        raise ConfigError([f"{option} {path}: is a folder; give a file in it"])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        where = f"cannot be written in {path.parent}: {error.strerror}"
        raise ConfigError([f"{option} {path}: {where}; say another place with --{option}"]) from error
    return path


if __name__ == "__main__":
    main()
