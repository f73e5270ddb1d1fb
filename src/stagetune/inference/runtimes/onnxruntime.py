"""An ONNX file of `stagetune export`, computed by onnxruntime on the CPU."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from stagetune.artifacts import METADATA
from stagetune.errors import ExportError
from stagetune.inference.export.onnx import INPUT
from stagetune.inference.needs import need
from stagetune.inference.runtimes.files import check_input, unreadable

FloatOutputs = dict[str, npt.NDArray[np.float32]]


class OnnxRuntime:
    """Outputs by name, of uint8 images [n, 3, size, size].

    Args:
        file: as `stagetune export --to onnx` writes it.
        threads: None for as many as there are cores.

    Attributes:
        metadata: what the file says of the model, as JSON.
        size: pixels per side.

    Raises:
        ExportError: for a file that is damaged, or of somebody else's, or where onnxruntime is missing.
    """

    def __init__(self, file: Path, *, threads: int | None = None) -> None:
        library = need("onnxruntime", what="an .onnx file", extra="export")
        options = library.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 4
        try:
            self._session = library.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # of one of many kinds, each of onnxruntime's own
            raise unreadable(file, error) from error
        said: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        self.metadata = said.get(METADATA, "")
        given = self._session.get_inputs()
        self.size = check_input(file, self.metadata, [(one.name, one.shape) for one in given])
        self._names = [one.name for one in self._session.get_outputs()]

    def __call__(self, images: npt.NDArray[np.uint8]) -> FloatOutputs:
        found = self._session.run(None, {INPUT: np.ascontiguousarray(images)})
        return dict(zip(self._names, found, strict=True))
