"""A network as a program of torch.export, which runs without its Python code."""

import io
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch

from stagetune.artifacts import write_whole
from stagetune.errors import ExportError
from stagetune.inference.network import Network
from stagetune.models.whole import Plain, Whole

OF_THIS_MACHINE = ("stack_trace", "nn_module_stack", "source_fn_stack", "fwd_source_fn_stack", "from_node")


def exported(network: Network, size: int) -> torch.export.ExportedProgram:
    """The network as a program for any number of images.

    Args:
        network: on the CPU, in eval mode.
        size: pixels per side.

    Raises:
        ExportError: with the reason, for one that cannot be followed or that fixes the number of images.
    """
    if isinstance(network.backbone, Whole):
        network = Network(Plain(network.backbone), network.head, network.outputs)
    images = torch.zeros(2, 3, size, size, dtype=torch.uint8)  # one image alone would be taken for a constant
    try:
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            return torch.export.export(network, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    except Exception as error:  # somebody's code may do what the exporter cannot follow, in many ways
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ExportError(
            f"the network cannot be exported for batches of any size ({reason[:300]}); leave out of its forward what "
            "depends on the values of tensors or on how many images there are, or use --to safetensors"
        ) from error


def write_program(program: torch.export.ExportedProgram, file: Path, metadata: Mapping[str, str]) -> None:
    """Write a program as .pt2, with none of the source lines and paths of this machine that it has at every node.

    Args:
        program: changed in place.
        file: where to.
        metadata: text by key, which the archive keeps in a file each.
    """
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                for key in OF_THIS_MACHINE:
                    node.meta.pop(key, None)
    stream = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):  # of weights in channels_last, which are written right
        torch.export.save(program, stream, extra_files=dict(metadata))
    with write_whole(file) as whole:
        whole.write(stream.getbuffer())
