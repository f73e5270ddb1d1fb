"""The same staged job under stagetune, Lightning's callback and finetuning-scheduler: `make bench`.

Each run is a process of its own, all of them in turn in each round, so that a machine that changes speed changes it
for all. Writes benchmarks/results/<machine>.json; `python -m benchmarks.table FILE` prints it again.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks import limits
from benchmarks.job import VARIANTS, write_images
from benchmarks.table import tables
from stagetune.config.compose import compose
from stagetune.run import run_experiment
from stagetune.run.pretrained import find_weights
from stagetune.run.screen import Screen

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "torchvision", "lightning", "finetuning-scheduler")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 224])
    parser.add_argument("--scale", type=float, default=16.0 if torch.cuda.is_available() else 1.0,
                        help="so many times the images and the batch (default: 16 on a GPU)")  # fmt: skip
    asked = parser.parse_args()
    weights = weights_file()
    content: dict[str, Any] = {
        "machine": machine(),
        "date": str(date.today()),
        "versions": {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
        "variants": VARIANTS,
        "jobs": {},
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{slug(machine())}.json"
    with tempfile.TemporaryDirectory() as folder:
        for size in asked.sizes:
            train = round({64: 512, 224: 128}.get(size, 128) * asked.scale)
            batch, root = round(16 * asked.scale), Path(folder) / str(size)
            write_images(root, size, train, train // 4)
            rounds = []
            for number in range(asked.rounds):
                rounds.append({variant: run(variant, root, size, batch, weights) for variant in VARIANTS})
                print(f"{size} px, round {number + 1} of {asked.rounds} done", flush=True)
            content["jobs"][str(size)] = {
                "train_images": train,
                "batch": batch,
                "rounds": rounds,
                "limit_images_per_second": limits.images_per_second(size),
            }
            path.write_text(json.dumps(content, indent=1) + "\n")
    print(tables(content))
    print(f"\nwritten to {path}")


def run(variant: str, root: Path, size: int, batch: int, weights: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [
            sys.executable, "-m", "benchmarks.job", variant, "--root", str(root), "--size", str(size),
            "--batch", str(batch), "--weights", str(weights), "--out", str(out),
        ]  # fmt: skip
        done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{variant} failed:\n{done.stderr[-3000:]}")
        result: dict[str, Any] = json.loads(out.read_text())
    return result


def weights_file() -> Path:
    """The backbone that a run without ImageNet weights starts from, made if need be."""
    weights = find_weights(compose(["model.weights=auto"]), Screen(), run_experiment)
    assert weights.state is not None
    path = Path(tempfile.mkdtemp()) / "weights.pt"
    state = {f"backbone.{name}": value for name, value in weights.state.items()}
    torch.save({"state_dict": state}, path)
    return path


def machine() -> str:
    """The processor or GPU, and how many cores."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        (name,) = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)[:1]
    except (OSError, ValueError):
        name = platform.processor() or platform.machine()
    return f"{re.sub(r'[(]R[)]|[(]TM[)]|@.*', '', name).strip()}, {os.cpu_count()} cores"


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


if __name__ == "__main__":
    main()
