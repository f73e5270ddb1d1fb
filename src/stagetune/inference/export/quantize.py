"""An ONNX model in 8-bit integers, its ranges measured on training images."""

import contextlib
import io
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from stagetune.inference.needs import need
from stagetune.inference.runtimes.files import INPUT

IMAGES = 128  # that the ranges are measured on; more change nothing
LAYERS = ("Conv", "Gemm", "MatMul")


def int8_model(model: Any, images: Iterable[npt.NDArray[np.uint8]]) -> Any:
    """A model of `onnx_model` with weights by channel and activations in 8 bits.

    What comes after the last layer with weights stays in float32, and so does what that layer gives: 256 values would
    make ties of scores, and of the distances of near neighbours.

    Args:
        model: an `onnx.ModelProto` in float32.
        images: batches [n, 3, size, size], about `IMAGES` in all.

    Returns:
        Another one.

    Raises:
        ExportError: where the libraries are missing.
    """
    onnx = need("onnx", what="an int8 export", extra="export")
    quantization = need("onnxruntime.quantization", what="an int8 export", extra="export")
    shapes = need("onnxruntime.quantization.shape_inference", what="an int8 export", extra="export")
    with TemporaryDirectory() as folder, _quiet():
        given, plain, found = (Path(folder) / f"{name}.onnx" for name in ("given", "plain", "int8"))
        given.write_bytes(model.SerializeToString())  # of a model in memory it would write the weights elsewhere
        shapes.quant_pre_process(given, plain, skip_symbolic_shape=True)
        quantization.quantize_static(
            plain,
            found,
            _reader(quantization, images),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            activation_type=quantization.QuantType.QUInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
            nodes_to_exclude=_after_layers(onnx.load(plain).graph),
        )
        return onnx.load(found)


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
def _quiet() -> Iterator[None]:
    """Without the quantiser's advice, which is about what was done here."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)
