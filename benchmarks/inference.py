"""One trained embedder under every runtime, side by side: `python -m benchmarks.inference` (half an hour, two cores).

ResNet50 learns handwritten digits at 64 px and, on its features, at 224 px; a share of its channels is left out and
it is tuned again. Each network is exported. All runtimes compute the same images in turn in each round, so that a
machine that changes speed changes it for all. Writes benchmarks/results/<machine>-inference.json.
"""

import argparse
import gc
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

import stagetune
from benchmarks.peers import RESULTS, machine, slug
from stagetune.artifacts import RunDir, stored_config
from stagetune.config.validate import read_config
from stagetune.evaluation.intervals import share
from stagetune.evaluation.retrieval import nearest_others
from stagetune.evaluation.verification import all_pairs
from stagetune.inference.export.export import export
from stagetune.inference.model import TrainedModel
from stagetune.inference.prune import prune_run
from stagetune.report.result import read_result
from stagetune.run.data import build_data

PACKAGES = ("torch", "torchvision", "onnx", "onnxruntime", "openvino", "torch-pruning")
BATCH = {224: 8, 64: 32}
PRUNED = 0.3  # of the channels
FASTEST = ("PyTorch fp32, eager", "PyTorch fp32, channels_last", "PyTorch fp32, compiled")
Compute = Callable[[np.ndarray[Any, Any]], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each runtime in each round")
    parser.add_argument("--folder", type=Path, help="where runs are kept, and taken from where they are there")
    asked = parser.parse_args()
    content: dict[str, Any] = {
        "machine": machine(),
        "instructions": instructions(),
        "date": str(date.today()),
        "versions": {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
        "sizes": {},
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        runs = trained(folder)
        for size, batch in BATCH.items():
            quality = {name: measured(name, runs, size) for name in names()}
            speed = {
                str(threads): rounds(runs, size, batch, threads, asked.rounds, asked.seconds)
                for threads in sorted({1, os.cpu_count() or 1})
            }
            content["sizes"][str(size)] = {"batch": batch, "quality": quality, "speed": speed}
        content["jpegs"] = [jpeg_share(runs["whole", 224], folder / "jpegs") for _ in range(asked.rounds)]
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{slug(machine())}-inference.json"
    path.write_text(json.dumps(content, indent=2) + "\n")
    print(table(content))
    print(path)


Runs = dict[tuple[str, int], RunDir]


def trained(folder: Path) -> Runs:
    """The networks, whole and pruned, by the size of their images; each exported as ONNX in fp32 and int8."""
    at = {(kind, size): RunDir(folder / f"{kind}-{size}") for size in (64, 224) for kind in ("whole", "pruned")}
    experiment = "+experiment=siamese_staged"
    if not is_done(at["whole", 64]):
        stagetune.run_experiment([experiment], at["whole", 64])
    if not is_done(at["pruned", 64]):
        prune_run(at["whole", 64], PRUNED, run_dir=at["pruned", 64])
    for kind in ("whole", "pruned"):
        if not is_done(at[kind, 224]):
            words = [
                "data.image_size=224",
                "data.augment=none",
                "schedule=head_only",
                f"model.weights={at[kind, 64]}",
            ]
            stagetune.run_experiment([experiment, *words], at[kind, 224])
    for run in at.values():
        for int8 in (False, True):
            if not exported(run, int8=int8).exists():
                export(run.path, to="onnx", int8=int8)
    return at


def is_done(run: RunDir) -> bool:
    return run.result.exists() and read_result(run).status == "completed"


def exported(run: RunDir, *, int8: bool) -> Path:
    return run.exports / f"best{'-int8' if int8 else ''}.onnx"


def names() -> list[str]:
    """The rows of the table: a network under a runtime."""
    each = ("PyTorch bf16", "onnxruntime fp32", "onnxruntime int8", "OpenVINO fp32", "OpenVINO bf16", "OpenVINO int8")
    return [*FASTEST, *each, *(f"pruned, {name}" for name in (FASTEST[1], *each))]


def model_of(name: str, runs: Runs, size: int, threads: int | None = None) -> TrainedModel:
    """The model under the runtime of a row."""
    kind, name = ("pruned", name.removeprefix("pruned, ")) if name.startswith("pruned") else ("whole", name)
    run = runs[kind, size]
    if name.startswith("PyTorch"):
        return stagetune.load(run, device="cpu", precision="bf16" if "bf16" in name else "fp32")
    runtime, precision = name.split()
    return stagetune.load(
        exported(run, int8=precision == "int8"),
        runtime=runtime.lower(),
        precision="bf16" if precision == "bf16" else "fp32",
        threads=threads,
    )


def compute_of(name: str, runs: Runs, size: int, threads: int) -> Compute:
    """What a row computes of images, alone."""
    model = model_of(name, runs, size, threads)
    if not name.endswith((FASTEST[0], FASTEST[2])):
        return model.runtime
    network = deepcopy(model.runtime.network)  # type: ignore[attr-defined]
    if name.endswith(FASTEST[0]):
        network = network.to(memory_format=torch.contiguous_format)
    else:
        network = torch.compile(network)

    def compute(images: np.ndarray[Any, Any]) -> Any:
        with torch.inference_mode():
            return network(torch.from_numpy(images))

    return compute


def rounds(runs: Runs, size: int, batch: int, threads: int, number: int, seconds: float) -> list[dict[str, float]]:
    """Images per second of each row, in each round."""
    torch.set_num_threads(threads)
    images = np.random.default_rng(0).integers(0, 256, (batch, 3, size, size), dtype=np.uint8)
    computes = {name: compute_of(name, runs, size, threads) for name in names()}
    for compute in computes.values():
        for _ in range(3):  # compiled, and what is allocated once
            compute(images)
    found = []
    for i in range(number):
        found.append({name: rate(compute, images, seconds) for name, compute in computes.items()})
        print(f"{size} px, {threads} threads, round {i + 1} of {number} done", flush=True)
    del computes
    gc.collect()
    return found


def rate(compute: Compute, images: np.ndarray[Any, Any], seconds: float) -> float:
    """Images per second, over about so many seconds."""
    done, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds or not done:
        compute(images)
        done += len(images)
    return done / spent


def measured(name: str, runs: Runs, size: int) -> dict[str, float]:
    """How well a row tells the images of the test apart."""
    model = model_of(name, runs, size)
    data = build_data(read_config(stored_config(runs["whole", size])))
    test = data.test_dataloader()[0]
    parts = [(model(batch.inputs), batch.target) for batch in test]
    embeddings, identity = (torch.cat(part) for part in zip(*parts, strict=True))
    place, _, _ = nearest_others(embeddings, identity, "euclidean")
    right = (identity[place] == identity).numpy()
    nearest = share(right)
    print(f"{size} px, {name}: measured", flush=True)
    return {
        "auc": all_pairs(embeddings, identity).auc,
        "nearest": float(right.mean()),
        "low": nearest.low,
        "high": nearest.high,
    }


def jpeg_share(run: RunDir, folder: Path) -> float:
    """The rate of `embed` on a folder of JPEGs, as a share of that of the network alone on prepared images."""
    torch.set_num_threads(os.cpu_count() or 1)
    if not folder.exists():
        folder.mkdir()
        for i in range(64):
            photograph = Image.fromarray(load_sample_images().images[i % 2])
            photograph.crop((i, i // 2, i + 500, i // 2 + 375)).save(folder / f"{i}.jpg", quality=90)
    model = stagetune.load(run, device="cpu")
    images = np.stack([model.transform(file).numpy() for file in sorted(folder.iterdir())])
    batches = np.split(images, len(images) // model.batch_size)

    def bare() -> None:
        for batch in batches:
            model.runtime(batch)

    def whole() -> None:
        model.embed(folder)

    bare()
    spent = [_seconds(each) for each in (bare, whole, bare)]
    return (spent[0] + spent[2]) / 2 / spent[1]


def _seconds(what: Callable[[], None]) -> float:
    start = time.perf_counter()
    what()
    return time.perf_counter() - start


def instructions() -> list[str]:
    """What of a CPU decides how fast small numbers are multiplied."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return []
    return [
        flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8") if flag in flags
    ]


def table(content: dict[str, Any]) -> str:
    """In Markdown: how many times as fast as the fastest of PyTorch's fp32 each is, and how well it tells apart."""
    versions = ", ".join(f"{name} {of}" for name, of in content["versions"].items())
    lines = [f"{content['machine']} ({', '.join(content['instructions'])}); {versions}; {content['date']}"]
    for size, found in content["sizes"].items():
        threads = list(found["speed"])
        heads = [f"{number} thread{'s' if number != '1' else ''}" for number in threads]
        columns = " | ".join(f"{head}, images/s | times PyTorch fp32" for head in heads)
        lines += [
            "",
            f"{size} px, batches of {found['batch']}",
            "",
            f"| | {columns} | AUC | 1-NN |",
            "| --- |" + " ---: | ---: |" * len(heads) + " ---: | ---: |",
        ]
        for name, quality in found["quality"].items():
            cells = [cell for number in threads for cell in _speeds(found["speed"][number], name)]
            near = f"{quality['nearest']:.3f} ({quality['low']:.3f} to {quality['high']:.3f})"
            lines.append(f"| {name} | {' | '.join(cells)} | {quality['auc']:.4f} | {near} |")
    shares = content["jpegs"]
    lines += [
        "",
        f"`model.embed` of a folder of JPEGs (500 x 375, to 224 px): {statistics.median(shares):.2f} "
        f"({min(shares):.2f} to {max(shares):.2f}) of the rate of the network alone.",
    ]
    return "\n".join(lines)


def _speeds(rounds_: Sequence[dict[str, float]], name: str) -> tuple[str, str]:
    """Images per second, and the ratio to the fastest of PyTorch's in the same round: median, lowest and highest."""
    ratios = [found[name] / max(found[one] for one in FASTEST) for found in rounds_]
    middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
    return f"{statistics.median(found[name] for found in rounds_):.1f}", f"**{middle:.2f}** ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
