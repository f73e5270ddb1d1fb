"""The tables of a benchmark's file: `python -m benchmarks.table benchmarks/results/<machine>.json`."""

import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

STAGES = ("head", "layer4", "all")
Run = dict[str, Any]


def tables(content: dict[str, Any]) -> str:
    """Ratios to stagetune, and what they are ratios of, in Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    lines = [f"{content['machine']}; {versions}; {content['date']}", "", *ratio_table(content)]
    for size, job in content["jobs"].items():
        lines += ["", *figures_table(size, job), "", *limit_lines(size, job)]
    return "\n".join(lines)


def ratio_table(content: dict[str, Any]) -> list[str]:
    """How many times faster stagetune is: median over the rounds, lowest and highest."""
    jobs = content["jobs"]
    peers = [variant for variant in content["variants"] if not variant.startswith("stagetune")]
    lines = [f"| times faster than | {' | '.join(peers)} |", "| --- |" + " --- |" * len(peers)]
    whats: list[tuple[str, Callable[[Run], float]]] = [
        ("head stage, after its first pass", lambda run: run["seconds"]["head"]),
        ("layer4 stage", lambda run: run["seconds"]["layer4"]),
        ("last stage, everything trains", lambda run: run["seconds"]["all"]),
        ("the whole job", lambda run: run["total"]),
    ]
    for size, job in jobs.items():
        for what, seconds in whats:
            cells = [ratio([seconds(r[p]) / seconds(r["stagetune"]) for r in job["rounds"]]) for p in peers]
            lines.append(f"| {what}, {size} px | {' | '.join(cells)} |")
    return lines


def ratio(values: list[float]) -> str:
    digits = 0 if min(values) >= 20 else 1 if min(values) >= 3 else 2
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return f"**{middle}** ({low} to {high})"


def figures_table(size: str, job: dict[str, Any]) -> list[str]:
    """Medians of seconds, of what autograd keeps and of peak memory, and the last validation."""
    lines = [
        f"{size} px, {job['train_images']} images in batches of {job['batch']}; head for 8 epochs, layer4 for 4, "
        f"all for 2; {len(job['rounds'])} rounds",
        "",
        "| | first pass, s | head, s | layer4, s | all, s | whole job, s | kept for backward, MiB | peak memory, MiB "
        "| val/accuracy | val/loss |",
        "| --- |" + " ---: |" * 9,
    ]
    for variant in job["rounds"][0]:
        runs = [round_[variant] for round_ in job["rounds"]]
        first = middle(runs, lambda run: run["first_pass"])
        seconds = [f"{middle(runs, lambda run, s=stage: run['seconds'][s]):.2f}" for stage in STAGES]
        kept = " / ".join(f"{middle(runs, lambda run, s=stage: run['kept_mib'][s]):.1f}" for stage in STAGES)
        peak = " / ".join(f"{middle(runs, lambda run, s=stage: run['peak_mib'][s]):.0f}" for stage in STAGES)
        val = [f"{middle(runs, lambda run, n=name: run['val'][n]):.3f}" for name in ("val/accuracy", "val/loss")]
        total = f"{middle(runs, lambda run: run['total']):.1f}"
        cells = [f"{first:.2f}" if first else "", *seconds, total, kept, peak, *val]
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return lines


def limit_lines(size: str, job: dict[str, Any]) -> list[str]:
    """Images per second beside what the hardware's rate of operations would allow, and the wait for data."""
    runs = [round_["stagetune"] for round_ in job["rounds"]]
    parts = []
    for stage, epochs in (("layer4", 4), ("all", 2)):
        reached = job["train_images"] * epochs / middle(runs, lambda run, s=stage: run["seconds"][s])
        parts.append(f"{stage} {reached:,.0f} of {job['limit_images_per_second'][stage]:,.0f}")
    waited = middle(runs, lambda run: run["waited"] / sum(run["seconds"].values()))
    return [
        f"stagetune at {size} px, images per second, validation included, of what one large bf16 matrix product "
        f"would allow: {', '.join(parts)}; {100 * waited:.1f}% of the time is spent waiting for data."
    ]


def middle(runs: list[Run], figure: Callable[..., float]) -> float:
    return statistics.median(figure(run) for run in runs)


if __name__ == "__main__":
    print(tables(json.loads(Path(sys.argv[1]).read_text())))
