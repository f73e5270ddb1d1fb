"""A network as one ONNX file that says what it is, and nothing of the machine that wrote it."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stagetune.artifacts import write_whole
from stagetune.errors import ExportError
from stagetune.inference.needs import need

INPUT = "images"
OPSET = 18  # the lowest that the exporter honours
IR_VERSION = 8  # what onnxruntime reads from 1.16 on, where the exporter writes 10
LARGEST = 2**31 - 1  # bytes of one protobuf message


def write_onnx(
    network: nn.Module, file: Path, *, size: int, outputs: Sequence[str], metadata: Mapping[str, str]
) -> None:
    """Write a network whose batch is as large as whoever calls it wants.

    Args:
        network: takes uint8 [n, 3, size, size], gives a tuple of tensors; on the CPU.
        file: where to.
        size: pixels per side.
        outputs: the names of what it gives.
        metadata: text by key, which any reader of ONNX finds in the file.

    Raises:
        ExportError: where the libraries are missing, and for a network that the exporter cannot follow.
    """
    need("onnxscript", what="an ONNX export", extra="export")
    program = torch.onnx.export(
        exported(network, size),
        input_names=[INPUT],
        output_names=list(outputs),
        dynamic_shapes=({0: "batch"},),
        opset_version=OPSET,
        external_data=False,
        verbose=False,
    )
    assert program is not None  # it is None of the exporter before dynamo
    save_model(program.model_proto, file, metadata)


def exported(network: nn.Module, size: int) -> torch.export.ExportedProgram:
    """The network in eval mode as a program for any number of images.

    Raises:
        ExportError: with the reason, for one that cannot be followed or that fixes the number of images.
    """
    images = torch.zeros(2, 3, size, size, dtype=torch.uint8)  # one image alone would be taken for a constant
    modes = [(module, module.training) for module in network.modules()]
    try:
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            return torch.export.export(network.eval(), (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    except Exception as error:  # somebody's code may do what the exporter cannot follow, in many ways
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ExportError(
            f"{type(network).__name__}: cannot be exported for batches of any size ({reason[:300]}); in its forward, "
            "leave out what depends on the values of tensors or on how many images there are"
        ) from error
    finally:
        for module, mode in modes:
            module.training = mode


def save_model(model: Any, file: Path, metadata: Mapping[str, str]) -> None:
    """Write an `onnx.ModelProto` whole, with this metadata and none of the exporter's.

    The exporter leaves source lines and absolute paths of this machine with every node.

    Raises:
        ExportError: for a model of another opset, or one too large for a file of its own.
    """
    opset = next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
    if opset != OPSET:
        raise ExportError(f"the exporter wrote opset {opset} where {OPSET} was asked for; use the tested version of onnx")
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
    model.ir_version = IR_VERSION
    for key, text in metadata.items():
        model.metadata_props.add(key=key, value=text)
    if model.ByteSize() > LARGEST:
        raise ExportError(f"{file}: the model has more than 2 GB, which one ONNX file cannot hold; use --to torch-export")
    with write_whole(file) as stream:
        stream.write(model.SerializeToString())
