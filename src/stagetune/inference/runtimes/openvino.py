"""An ONNX file of `stagetune export`, computed by OpenVINO on the CPU."""

from pathlib import Path
from typing import Any

import numpy as np

from stagetune.artifacts import METADATA
from stagetune.inference.needs import need
from stagetune.inference.runtimes import Images, Outputs
from stagetune.inference.runtimes.files import described, unreadable

PRECISIONS = {"fp32": "f32", "bf16": "bf16"}


class OpenVino:
    """A file, compiled for this machine.

    Args:
        file: as `stagetune export --to onnx` writes it.
        threads: None for as many as there are cores.
        precision: fp32 or bf16, of what is not in integers. OpenVINO's own choice is bf16 where the CPU can.

    Attributes:
        description: what the file says of the model.

    Raises:
        MissingError: where openvino is not installed.
        WeightsError: for a file that is damaged, or none of ours.
    """

    name = "openvino"

    def __init__(self, file: Path, *, threads: int | None = None, precision: str = "fp32") -> None:
        library = need("openvino", what="runtime=openvino", extra="export")
        frontends = need("openvino.frontend", what="runtime=openvino", extra="export")
        hints: dict[str, Any] = {"INFERENCE_PRECISION_HINT": PRECISIONS[precision]}
        if threads:
            hints["INFERENCE_NUM_THREADS"] = threads
        try:
            # read_model would try each format that it knows, whatever the name says, and print why each fails
            onnx = frontends.FrontEndManager().load_by_framework("onnx")
            network = onnx.convert(onnx.load(file))
            place = ["framework", METADATA]  # where it puts what the file says of itself
            said = str(network.get_rt_info(place).value) if network.has_rt_info(place) else ""
            given = [(one.any_name, list(one.partial_shape)) for one in network.inputs]
            self._names = [one.any_name for one in network.outputs]
        except Exception as error:  # each failure is a RuntimeError of several lines
            raise unreadable(file, error) from error
        self.description = described(file, said, given, self._names)
        self.about: dict[str, Any] = {
            "openvino": library.__version__, "device": "cpu", "threads": threads, "precision": precision,
        }  # fmt: skip
        self._model = library.Core().compile_model(network, "CPU", hints)

    def __call__(self, images: Images) -> Outputs:
        found = self._model(np.ascontiguousarray(images))
        return {name: found[i] for i, name in enumerate(self._names)}
