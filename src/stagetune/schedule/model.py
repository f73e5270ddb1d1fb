"""What a plan has to know of a model: its blocks in forward order and its parameters. No torch."""

from dataclasses import dataclass
from functools import cached_property

from stagetune.config.schema import HEAD


@dataclass(frozen=True)
class Parameter:
    """One parameter of the model as the plan sees it."""

    name: str
    block: str  # a backbone block, or the head
    numel: int
    ndim: int
    norm: bool = False  # whether it belongs to a BatchNorm layer

    @property
    def layer(self) -> str:
        """The leaf module that owns it."""
        return self.name.rpartition(".")[0]


@dataclass(frozen=True)
class Model:
    """The named blocks of a backbone in forward order, without the head, and every parameter of the module."""

    blocks: tuple[str, ...]
    parameters: tuple[Parameter, ...]

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """The backbone's leaf modules with parameters, in forward order."""
        return tuple(dict.fromkeys(p.layer for p in self.parameters if p.block != HEAD))

    @property
    def ordered_blocks(self) -> tuple[str, ...]:
        """The blocks, then the head."""
        return (*self.blocks, HEAD)
