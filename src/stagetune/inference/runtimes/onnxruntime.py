"""An ONNX file of `stagetune export`, computed by onnxruntime on the CPU."""

from pathlib import Path
from typing import Any

import numpy as np

from stagetune.artifacts import METADATA
from stagetune.inference.needs import need
from stagetune.inference.runtimes import Images, Outputs
from stagetune.inference.runtimes.files import INPUT, described, unreadable


class OnnxRuntime:
    """A file with its session.

    Args:
        file: as `stagetune export --to onnx` writes it.
        threads: None for as many as there are cores.

    Attributes:
        description: what the file says of the model.

    Raises:
        MissingError: where onnxruntime is not installed.
        WeightsError: for a file that is damaged, or none of ours.
    """

    name = "onnxruntime"

    def __init__(self, file: Path, *, threads: int | None = None) -> None:
        library = need("onnxruntime", what="an .onnx file", extra="export")
        options = library.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 4
        try:
            self._session = library.InferenceSession(file, options, providers=["CPUExecutionProvider"])
            said: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
            given = [(one.name, one.shape) for one in self._session.get_inputs()]
            self._names = [one.name for one in self._session.get_outputs()]
        except Exception as error:  # of one of many kinds, each of onnxruntime's own
            raise unreadable(file, error) from error
        self.description = described(file, said.get(METADATA, ""), given, self._names)
        self.about: dict[str, Any] = {"onnxruntime": library.__version__, "device": "cpu", "threads": threads}

    def __call__(self, images: Images) -> Outputs:
        found = self._session.run(None, {INPUT: np.ascontiguousarray(images)})
        return dict(zip(self._names, found, strict=True))
