"""Somebody's own network."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stagetune.config.schema import Config
from stagetune.config.settings import Input, ModelSettings
from stagetune.models.families import normal_of
from stagetune.schedule.model import block_label
from stagetune.targets import build, check_target
from stagetune.typed import choice

if TYPE_CHECKING:
    from stagetune.models.backbone import Backbone
    from stagetune.models.weights import Weights


@dataclass
class Settings(ModelSettings):
    """Blocks: as they are given."""

    name: str = "own"
    network: dict[str, Any] | None = None
    blocks: Any = None  # names of layers, or lists of them by block
    layout: str | None = choice(None, "channels_first", "channels_last", "tokens", "class_token")

    may_come_frozen = True

    def problems(self, config: Config) -> Iterator[str]:
        yield from ModelSettings.problems(self, config)
        if not self.network or not self.network.get("_target_"):
            yield "model.network._target_: is missing; name the class of your network, my_package.MyNetwork"
        if not self.blocks or not isinstance(self.blocks, list | Mapping):
            yield "model.blocks: is missing; list the network's layers in forward order, model.blocks=[conv1,layer1]"
        if self.weights == "imagenet":
            yield "model.weights=imagenet: an own network loads its own; use auto (as its class builds it), or a file"

    def target_problems(self, config: Config) -> list[str]:
        return check_target("model.network", self.network)

    def title(self) -> str:
        return str((self.network or {}).get("_target_"))

    def labels(self) -> list[str]:
        return [block_label(str(name)) for name in self.blocks or []]

    def input(self) -> Input:
        return Input()

    def build(self, image_size: int) -> "Backbone":
        """The backbone with the weights that its class gives it.

        Raises:
            ConfigError: for a network that cannot be made, or blocks that do not fit.
        """
        from stagetune.models.own import own_backbone

        settings = self.network or {}
        return own_backbone(
            build(settings)(),
            self.blocks,
            image_size,
            normal=normal_of(self),
            layout=self.layout,
            arguments=settings,
        )

    def as_built(self) -> "Weights":
        """Those that its class gives it, whatever they are."""
        from stagetune.models.weights import Weights

        return Weights(f"as {self.title()} builds them", None)

    def pretrained(self, image_size: int) -> "Weights":
        return self.as_built()
