"""How the cost of runs over a frozen backbone grows: with images, with epochs, and with the runs of a sweep.

`python -m benchmarks.scaling` writes benchmarks/results/<machine>-scaling.json and prints it as a table. Every
measurement begins with an empty cache; each is taken once.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.job import configure, write_images
from benchmarks.peers import RESULTS, machine, slug, weights_file
from stagetune.cache.store import forget
from stagetune.config.schema import Config
from stagetune.report.result import RunResult
from stagetune.run import run_experiment
from stagetune.schedule.spec import Schedule, Stage

IMAGES, EPOCHS, RUNS = (256, 1024, 4096), (1, 8, 64), (1, 4, 16)
BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=224)
    size = parser.parse_args().size
    weights = str(weights_file())
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        roots = {images: Path(folder) / str(images) for images in IMAGES}
        for images, root in roots.items():
            write_images(root, size, images, images // 4)
            with empty_cache():
                rows.append({"images": images, "epochs": 8, "runs": 1, **run(head_only(root, size, weights, 8))})
        for epochs in EPOCHS:
            with empty_cache():
                row = run(head_only(roots[1024], size, weights, epochs))
                rows.append({"images": 1024, "epochs": epochs, "runs": 1, **row})
        for runs in RUNS:
            with empty_cache():
                each = [run(head_only(roots[4096], size, weights, 8, seed=seed)) for seed in range(runs)]
                summed = {key: sum(row[key] for row in each) for key in each[0]}
                rows.append({"images": 4096, "epochs": 8, "runs": runs, **summed})
    content = {"machine": machine(), "date": str(date.today()), "size": size, "rows": rows}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{slug(machine())}-scaling.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(table(content))
    print(f"\nwritten to {path}")


def head_only(root: Path, size: int, weights: str, epochs: int, seed: int = 0) -> Config:
    config = configure(root, size, BATCH, weights, "auto")
    stage = Stage("head", ["head"], epochs=epochs, lr=1e-3)
    config.schedule = Schedule(name="head_only", leave_frozen=True, stages=[stage])
    config.seed = seed
    return config


def run(config: Config) -> dict[str, float]:
    """Seconds of one run: all of it, of the pass over the frozen blocks, of its stage, and of all else."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        result: RunResult = run_experiment(config, Path(folder) / "run")
        total = time.monotonic() - start
    first_pass, stage = result.timing["cache_seconds"], result.stages[0]["seconds"]
    return {"total": total, "first_pass": first_pass, "stage": stage, "rest": total - first_pass - stage}


@contextmanager
def empty_cache() -> Iterator[None]:
    forget()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["STAGETUNE_CACHE"] = folder
        yield


def table(content: dict[str, Any]) -> str:
    lines = [
        f"{content['machine']}; {content['size']} px, batches of {BATCH}; {content['date']}",
        "",
        "| training images | epochs | runs | whole, s | first pass, s | stage, s | all else, s |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in content["rows"]:
        seconds = " | ".join(f"{row[key]:.1f}" for key in ("total", "first_pass", "stage", "rest"))
        lines.append(f"| {row['images']:,} | {row['epochs']} | {row['runs']} | {seconds} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
