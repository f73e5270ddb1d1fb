"""Somebody's own network."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stagetune.config.schema import Input, ModelSettings
from stagetune.errors import ConfigError
from stagetune.models.families import normal_of
from stagetune.typed import choice

if TYPE_CHECKING:
    from stagetune.models.backbone import Backbone


@dataclass
class Settings(ModelSettings):
    """Blocks: as they are given."""

    name: str = "own"
    network: dict[str, Any] | None = None
    blocks: Any = None  # names of layers, or lists of them by block
    layout: str | None = choice(None, "channels_first", "channels_last", "tokens", "class_token")

    def input(self) -> Input:
        return Input()

    def build(self, image_size: int) -> "Backbone":
        """The backbone with the weights that its class gives it.

        Raises:
            ConfigError: for a network or blocks that are missing, that cannot be made, or that do not fit.
        """
        from stagetune.models.own import own_backbone
        from stagetune.targets import build

        if not self.network or not self.network.get("_target_"):
            raise ConfigError(
                ["model.network._target_: is missing; name the class of your network, my_package.MyNetwork"]
            )
        return own_backbone(
            build(self.network)(),
            self.blocks,
            image_size,
            normal=normal_of(self),
            layout=self.layout,
            arguments=self.network,
        )
