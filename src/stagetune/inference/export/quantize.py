"""An ONNX file in 8-bit integers, its ranges measured on training images."""

import contextlib
import io
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from stagetune.inference.export.onnx import INPUT, save_model
from stagetune.inference.needs import need

IMAGES = 128  # that the ranges are measured on; more change nothing
LAYERS = ("Conv", "Gemm", "MatMul")


def write_int8(
    source: Path, file: Path, images: Iterable[npt.NDArray[np.uint8]], *, metadata: Mapping[str, str]
) -> None:
    """Write a file of `write_onnx` with weights by channel and activations in 8 bits.

    What comes after the last layer with weights stays in float32: the length of an embedding and the weights of a
    weighted distance would lose the digits that tell near neighbours apart.

    Args:
        source: in float32.
        file: where to.
        images: batches [n, 3, size, size], about `IMAGES` in all.
        metadata: see `write_onnx`.

    Raises:
        ExportError: where the libraries are missing.
    """
    onnx = need("onnx", what="an int8 export", extra="export")
    quantization = need("onnxruntime.quantization", what="an int8 export", extra="export")
    shapes = need("onnxruntime.quantization.shape_inference", what="an int8 export", extra="export")
    with TemporaryDirectory() as folder, _quiet():
        plain, found = Path(folder) / "plain.onnx", Path(folder) / "int8.onnx"
        shapes.quant_pre_process(source, plain, skip_symbolic_shape=True)
        quantization.quantize_static(
            plain,
            found,
            _reader(quantization, images),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            activation_type=quantization.QuantType.QUInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},  # 256 scores would have many ties
            nodes_to_exclude=_after_layers(onnx.load(plain, load_external_data=False).graph),
        )
        save_model(onnx.load(found), file, metadata)


def _reader(quantization: Any, images: Iterable[npt.NDArray[np.uint8]]) -> Any:
    """The images as the quantiser takes them."""

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        batches = iter(images)

        def get_next(self) -> dict[str, npt.NDArray[np.uint8]] | None:
            return next(({INPUT: batch} for batch in self.batches), None)

    return Reader()


def _after_layers(graph: Any) -> list[str]:
    """The names of the nodes after the last layer with weights; nodes stand in the order of computing."""
    last = max((place for place, node in enumerate(graph.node) if node.op_type in LAYERS), default=-1)
    return [node.name for node in graph.node[last + 1 :]]


@contextlib.contextmanager
def _quiet() -> Any:
    """Without the quantiser's advice, which is about what was done here."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)
