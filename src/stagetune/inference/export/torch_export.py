"""A network as a program of torch.export (.pt2), which runs without its Python code."""

import io
import warnings
from pathlib import Path

import torch
from torch import nn

from stagetune.artifacts import METADATA, write_whole
from stagetune.inference.export.onnx import exported

OF_THIS_MACHINE = ("stack_trace", "nn_module_stack", "source_fn_stack", "fwd_source_fn_stack", "from_node")


def write_torch_export(network: nn.Module, file: Path, *, size: int, metadata: str) -> None:
    """Write a network whose batch is as large as whoever calls it wants.

    Args:
        network: takes uint8 [n, 3, size, size], gives a tuple of tensors; on the CPU.
        file: where to.
        size: pixels per side.
        metadata: text, which the archive keeps as a file of its own.

    Raises:
        ExportError: for a network that torch.export cannot follow.
    """
    program = exported(network, size)
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                for key in OF_THIS_MACHINE:  # source lines, with the paths of this machine
                    node.meta.pop(key, None)
    stream = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):  # of weights in channels_last, which are written right
        torch.export.save(program, stream, extra_files={METADATA: metadata})
    with write_whole(file) as whole:
        whole.write(stream.getbuffer())
