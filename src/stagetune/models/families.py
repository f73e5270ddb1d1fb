"""What the families of backbones share: names of torchvision, what weights want of images, and how they refuse."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stagetune.config.settings import BLOCKS, Input, ModelSettings
from stagetune.errors import ConfigError

if TYPE_CHECKING:
    from stagetune.models.backbone import Backbone, Normal
    from stagetune.models.weights import Weights

LARGEST = 512  # pixels up to which a size that would do is looked for


def normal_of(settings: ModelSettings) -> "Normal":
    """Mean and std of images: as they are set, else as the weights want them."""
    wanted = settings.input()
    return tuple(settings.mean or wanted.mean), tuple(settings.std or wanted.std)


def pooled_problems(pooled: list[str] | None) -> Iterator[str]:
    """What is wrong with the blocks whose outputs are to be the features."""
    last = BLOCKS[-1]
    if pooled is not None and (last not in pooled or pooled != [block for block in BLOCKS if block in pooled]):
        yield f"model.pooled={pooled}: takes blocks in forward order up to {last}, of {', '.join(BLOCKS)}"


@dataclass
class TorchvisionSettings(ModelSettings):
    """A network of torchvision's, by its name there."""

    arch: str = ""

    def input(self) -> Input:
        from torchvision.models import get_model_weights

        wanted = get_model_weights(self.arch).DEFAULT.transforms()
        return Input(wanted.crop_size[0], wanted.interpolation.value, tuple(wanted.mean), tuple(wanted.std))

    def build(self, image_size: int) -> "Backbone":
        """The backbone with random weights.

        Raises:
            ConfigError: for images of a size that the network cannot take.
        """
        try:
            return self.network(image_size)
        except (RuntimeError, AssertionError) as error:
            smallest = self._smallest(image_size)
            if smallest in (image_size, None):  # then it is something else
                raise
            raise ConfigError(
                [f"data.image_size={image_size}: {self.arch} cannot take such images; the next size is {smallest}"]
            ) from error

    def network(self, image_size: int) -> "Backbone":
        """The same, with torch's own error where the size does not fit."""
        raise NotImplementedError

    def pretrained(self, image_size: int) -> "Weights | None":
        from stagetune.models.imagenet import torchvision_weights

        return torchvision_weights(self.arch)

    def pretrained_at(self) -> str:
        from stagetune.models.imagenet import torchvision_weights_at

        return torchvision_weights_at(self.arch)

    def key(self) -> str:
        """What tells it apart from other networks with the same weights."""
        import torchvision

        return f"torchvision {torchvision.__version__} {self.arch}"

    def _smallest(self, size: int) -> int | None:
        """The smallest size from this one on that fits, by shapes alone; None if there is none."""
        import torch

        def fits(candidate: int) -> bool:
            try:
                self.network(candidate)
            except (RuntimeError, AssertionError):
                return False
            return True

        with torch.device("meta"):
            return next(filter(fits, range(size, LARGEST + 1)), None)
