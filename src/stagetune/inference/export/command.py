"""`stagetune export`. Torch comes where it begins."""

import shlex
from argparse import Namespace
from pathlib import Path
from typing import Any

from stagetune.inference.commands import add_trust
from stagetune.shipped import stagetune_command

FORMATS = ("onnx", "torch-export", "torchvision", "safetensors")
MB = 1e6


def add_command(commands: Any) -> None:
    """Add it to argparse's commands; it sets `run`, which takes what was given."""
    parser = commands.add_parser(
        "export", help="write a model for other programs, compared with the original on the run's validation images"
    )
    parser.add_argument("model", type=Path, metavar="CKPT", help="a checkpoint, or a run's directory")
    parser.add_argument("overrides", nargs="*", help="where the data is today: data.root=FOLDER")
    parser.add_argument("--to", choices=FORMATS, required=True, help="the format")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="where to (default: RUN/exports/<checkpoint>.<suffix>)"
    )
    parser.add_argument("--int8", action="store_true", help="of onnx: in 8-bit integers, smaller and faster on a CPU")
    add_trust(parser)
    parser.set_defaults(run=show_export)


def show_export(given: Namespace) -> None:
    """Write a model in another format, and print how it compares."""
    from stagetune.inference.export.export import export

    done = export(
        given.model, to=given.to, file=given.output, int8=given.int8, trust=given.trust, words=given.overrides
    )
    found, said = done.comparison, done.description
    print(f"exported   {done.file} ({done.file.stat().st_size / MB:.1f} MB), with {', '.join(map(str, done.beside))}")
    print(
        f"compared   on {found.images} validation images: largest difference {found.max_difference:.1e} of the "
        f"largest output, {100 * found.agreement:.2f}% of decisions the same"
    )
    print(f"{found.measure:<10} {found.before:.4f} before, {found.after:.4f} after")
    name = "threshold" if said.task == "siamese" else "temperature"
    before, after = ((one.calibration or {}).get(name) for one in (done.before, said))
    print(f"{name:<10} {_number(before)} before, {_number(after)} fitted on the exported model")
    if times := said.provenance["export"].get("latency_ms"):
        eight = [times[when]["8"] for when in ("before", "after")]
        print(
            f"speed      {eight[0]:.2f} ms an image in PyTorch, {eight[1]:.2f} in onnxruntime; 8 at once, one thread"
        )
    if given.to != "torchvision":
        needs_trust = given.to == "torch-export" or (
            given.to == "safetensors" and given.trust
        )  # which builds by code
        trust = " --trust" if needs_trust else ""
        verb = "predict" if said.task == "classifier" else "verify"
        print(f"use it     {stagetune_command()} {verb} {shlex.quote(str(done.file))}{trust} ...")


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"
