"""An ONNX file of `stagetune export`, computed by OpenVINO on the CPU."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stagetune.artifacts import METADATA
from stagetune.inference.needs import need
from stagetune.inference.runtimes.files import check_input, unreadable

FloatOutputs = dict[str, npt.NDArray[np.float32]]
PRECISIONS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoRuntime:
    """Outputs by name, of uint8 images [n, 3, size, size].

    Args:
        file: as `stagetune export --to onnx` writes it.
        threads: None for as many as there are cores.
        precision: fp32 or bf16, of what is not in integers. OpenVINO's own choice is bf16 where the CPU can.

    Attributes:
        metadata: what the file says of the model, as JSON.
        size: pixels per side.

    Raises:
        ExportError: for a file that is damaged, or of somebody else's, or where openvino is missing.
    """

    def __init__(self, file: Path, *, threads: int | None = None, precision: str = "fp32") -> None:
        library = need("openvino", what="runtime=openvino", extra="export")
        hints: dict[str, Any] = {"INFERENCE_PRECISION_HINT": PRECISIONS[precision]}
        if threads:
            hints["INFERENCE_NUM_THREADS"] = threads
        try:
            core = library.Core()
            network = core.read_model(file)
            place = ["framework", METADATA]  # where it puts what the file says of itself
            self.metadata = str(network.get_rt_info(place).value) if network.has_rt_info(place) else ""
            self._model = core.compile_model(network, "CPU", hints)
        except Exception as error:  # each failure is a RuntimeError of several lines
            raise unreadable(file, error) from error
        given = [(one.any_name, [str(side) for side in one.partial_shape]) for one in network.inputs]
        self.size = check_input(file, self.metadata, given)
        self._names = [one.any_name for one in self._model.outputs]

    def __call__(self, images: npt.NDArray[np.uint8]) -> FloatOutputs:
        found = self._model(np.ascontiguousarray(images))
        return {name: found[i] for i, name in enumerate(self._names)}
