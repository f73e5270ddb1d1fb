"""What a plan has to know of a model: its blocks in forward order and its parameters. No torch."""

from dataclasses import dataclass
from functools import cached_property

from stagetune.schedule.spec import ALL, HEAD

BACKBONE = "backbone."  # before the names of all that belongs to it, wherever the module keeps it


def block_label(name: str) -> str:
    """What a block is called: by the name of its layer, and `backbone.head` where that name is one of our words."""
    return f"{BACKBONE}{name}" if name in (HEAD, ALL) else name


@dataclass(frozen=True)
class Parameter:
    """One parameter of the model as the plan sees it.

    Attributes:
        name: `backbone.` and its name within the backbone, or its name within the module.
        block: a block of the backbone, or the head.
        numel: how many numbers it holds.
        ndim: of its shape; what has fewer than two dimensions never decays.
        norm: whether it belongs to a BatchNorm layer.
        held: whether no stage opens it, since it came frozen.
    """

    name: str
    block: str
    numel: int
    ndim: int
    norm: bool = False
    held: bool = False

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
        return tuple(dict.fromkeys(p.layer for p in self.parameters if p.name.startswith(BACKBONE)))

    @property
    def ordered_blocks(self) -> tuple[str, ...]:
        """The blocks, then the head."""
        return (*self.blocks, HEAD)

    @cached_property
    def held(self) -> frozenset[str]:
        """The names of what came frozen and stays so."""
        return frozenset(p.name for p in self.parameters if p.held)

    @cached_property
    def came_frozen(self) -> dict[str, frozenset[str]]:
        """Blocks, and the head, of which every parameter is held, with its parameters."""
        members = {block: [p for p in self.parameters if p.block == block] for block in self.ordered_blocks}
        return {
            block: frozenset(p.name for p in inside)
            for block, inside in members.items()
            if inside and all(p.held for p in inside)
        }
