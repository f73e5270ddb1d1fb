"""A network as one ONNX file that says what it is, and nothing of the machine that wrote it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from stagetune.artifacts import write_whole
from stagetune.errors import ExportError
from stagetune.inference.export.program import exported
from stagetune.inference.needs import need
from stagetune.inference.network import Network
from stagetune.inference.runtimes.files import INPUT

OPSET = 18  # the lowest that the exporter honours
IR_VERSION = 8  # what onnxruntime reads from 1.16 on, where the exporter writes 10
LARGEST = 2**31 - 1  # bytes of one protobuf message


def onnx_model(network: Network, size: int) -> Any:
    """The network as an `onnx.ModelProto` for any number of images.

    Args:
        network: on the CPU.
        size: pixels per side.

    Raises:
        ExportError: where the libraries are missing, and for a network that cannot be exported.
    """
    need("onnxscript", what="an ONNX export", extra="export")
    program = exported(network, size)
    try:
        found = torch.onnx.export(
            program,
            input_names=[INPUT],
            output_names=list(network.outputs),
            dynamic_shapes=({0: "batch"},),
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    except Exception as error:  # an operation that ONNX does not have
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ExportError(f"the network has what ONNX lacks ({reason[:300]}); use --to torch-export") from error
    assert found is not None  # the exporter before dynamo gave nothing
    return found.model_proto


def write_onnx(model: Any, file: Path, metadata: Mapping[str, str]) -> None:
    """Write an `onnx.ModelProto` whole, with this metadata and none of the exporter's.

    The exporter leaves source lines and absolute paths of this machine with every node.

    Args:
        model: changed in place.
        file: where to.
        metadata: text by key, which any reader of ONNX finds in the file.

    Raises:
        ExportError: for a model of another opset, or one too large for a file of its own.
    """
    graph = model.graph
    nodes = [*graph.node, *(node for function in model.functions for node in function.node)]
    values = (*graph.value_info, *graph.input, *graph.output, *graph.initializer)
    for part in (model, graph, *model.functions, *nodes, *values):
        del part.metadata_props[:]
        part.ClearField("doc_string")
    used = {node.domain for node in nodes}
    domains = [one for one in model.opset_import if one.domain in used]
    del model.opset_import[:]  # the quantiser names all that it knows, also those that an older reader does not
    model.opset_import.extend(domains)
    if found := [one.version for one in domains if one.domain == "" and one.version != OPSET]:
        raise ExportError(
            f"the exporter wrote opset {found[0]}, not {OPSET}; install onnxscript as in constraints.txt"
        )
    model.ir_version = IR_VERSION
    for key, text in metadata.items():
        model.metadata_props.add(key=key, value=text)
    if model.ByteSize() > LARGEST:
        raise ExportError("the model has more than 2 GB, which one ONNX file cannot hold; use --to torch-export")
    with write_whole(file) as stream:
        stream.write(model.SerializeToString())
