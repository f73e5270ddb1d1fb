"""temporary"""

from dataclasses import dataclass
from typing import Any

from stagetune.config.schema import Input, ModelSettings
from stagetune.schedule.model import block_label


@dataclass
class Settings(ModelSettings):
    name: str = "own"
    network: dict[str, Any] | None = None
    blocks: Any = None
    may_come_frozen = True

    def problems(self, config):
        yield from ModelSettings.problems(self, config)
        if not self.network or not self.network.get("_target_"):
            yield "model.network._target_: is missing; name the class of your network, my_package.MyNetwork"
        if not self.blocks or not isinstance(self.blocks, (list, dict)):
            yield "model.blocks: is missing; list the network's layers in forward order, model.blocks=[conv1,layer1]"
        if self.weights == "imagenet":
            yield "model.weights=imagenet: an own network loads its own; use auto (as its class builds it), or a file"

    def labels(self):
        return [block_label(str(b)) for b in self.blocks or []]

    def input(self):
        return Input()

    def build(self, image_size: int) -> Any:
        from stagetune.models.own import own_backbone
        from stagetune.targets import build

        return own_backbone(build(self.network)(), self.blocks, image_size)

    def pretrained(self) -> Any:
        from stagetune.models.weights import Weights

        return Weights(f"as {self.network['_target_']} builds them", None)
