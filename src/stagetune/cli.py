"""The `stagetune` command."""

import argparse
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from stagetune.config.compose import load
from stagetune.errors import shown


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="stagetune", description="Staged fine-tuning: look before and after a run.")
    commands = parser.add_subparsers(dest="command", required=True)
    plan = commands.add_parser(
        "plan", help="show what a run would open when, at which rate; nothing is read or trained"
    )
    plan.add_argument("overrides", nargs="*", help="as for train.py: +experiment=siamese_staged schedule=gradual ...")
    plan.add_argument("--picture", type=Path, help="where to draw it (default: outputs/plans/<schedule>.png)")
    cache = commands.add_parser("cache", help="list or clear the files of the feature cache")
    cache.add_argument("action", choices=("list", "clear"))
    oneshot = commands.add_parser(
        "oneshot",
        help="score a checkpoint by Omniglot's official one-shot runs",
        usage="stagetune oneshot CKPT RUNS, or: stagetune oneshot RUNS --baseline hausdorff",
    )
    oneshot.add_argument(
        "paths", nargs="+", type=Path, help="a checkpoint of a siamese run, and the folder of the runs"
    )
    oneshot.add_argument("--baseline", choices=("hausdorff",), help="without a model: modified Hausdorff distances")
    chosen = parser.parse_args(arguments)
    with shown():
        if chosen.command == "plan":
            show_plan(chosen.overrides, chosen.picture)
        elif chosen.command == "oneshot":
            if len(chosen.paths) != (1 if chosen.baseline else 2):
                parser.error("oneshot: give CKPT and RUNS, or RUNS with --baseline hausdorff")
            show_oneshot(chosen.paths[-1], None if chosen.baseline else chosen.paths[0])
        else:
            show_cache(clear=chosen.action == "clear")


def show_cache(*, clear: bool) -> None:
    """Print size and age of each stored table; with `clear` remove them all."""
    from stagetune.cache.store import GB, Store
    from stagetune.run.pretrained import cache_folder

    store = Store(cache_folder() / "tables", memory_gb=0, disk_gb=0, say=print)
    files = store.files()
    for key, size, used in files:
        print(f"{key}  {size / GB:8.3f} GB  used {datetime.fromtimestamp(used):%Y-%m-%d %H:%M}")
        if clear:
            store.remove(key)
    if clear:
        store.remove_abandoned()
    total = sum(size for _, size, _ in files) / GB
    print(f"{len(files)} tables, {total:.3f} GB in {store.folder}{', removed' if clear else ''}")


def show_oneshot(folder: Path, checkpoint: Path | None) -> None:
    """Print the error of each run and their mean, of a checkpoint or of the baseline that needs none."""
    from stagetune.evaluation.oneshot_runs import errors, hausdorff, mean_and_interval, read_runs
    from stagetune.run.embed import distances_of

    runs = read_runs(folder)
    found = errors(runs, distances_of(checkpoint) if checkpoint else hausdorff)
    for name, error in found.items():
        print(f"{name}  {100 * error:5.1f}% error")
    mean, low, high = mean_and_interval(list(found.values()))
    print(f"{len(runs)} runs: {100 * mean:.1f}% error (95% interval over runs: {100 * low:.1f} to {100 * high:.1f})")


def show_plan(overrides: Sequence[str], picture: Path | None) -> None:
    """Print the plan of a run and draw blocks against epochs; raises what composing and resolving raise."""
    config = load(overrides)
    # only now: a mistake above is answered without torch
    from stagetune.report.figures import draw_plan
    from stagetune.run.planning import plan_of
    from stagetune.schedule.lr_schedulers import simulate
    from stagetune.schedule.table import plan_text
    from stagetune.schedule.timeline import rate_timeline

    plan = plan_of(config)
    print(plan_text(plan))
    path = picture or Path("outputs") / "plans" / f"{plan.name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    timeline = rate_timeline(plan, simulate)
    draw_plan(timeline.blocks, timeline.rates, timeline.stages, path)
    print(path)


if __name__ == "__main__":
    main()
