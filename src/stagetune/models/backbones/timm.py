"""Any network that timm knows by name."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from stagetune.config.settings import Input, ModelSettings
from stagetune.errors import ConfigError, did_you_mean
from stagetune.models.families import normal_of
from stagetune.typed import choice

if TYPE_CHECKING:
    from torch import nn

    from stagetune.models.backbone import Backbone
    from stagetune.models.gather import Group
    from stagetune.models.weights import Weights


@dataclass
class Settings(ModelSettings):
    """Blocks: stem, layer1 ... layer4, gathered from timm's groups of layers."""

    name: str = "timm"
    arch: str = "convnextv2_atto"
    layout: str | None = choice(None, "channels_first", "channels_last", "tokens", "class_token")

    def input(self) -> Input:
        wanted = _timm().get_pretrained_cfg(self._known())
        if wanted is None:
            return Input()
        return Input(wanted.input_size[-1], wanted.interpolation, tuple(wanted.mean), tuple(wanted.std))

    def build(self, image_size: int) -> "Backbone":
        """The backbone with random weights; its classifier is left out, its pooling stays.

        Raises:
            ConfigError: for a name that timm does not know, and for images that the network cannot take.
        """
        from stagetune.models.gather import covering, gather
        from stagetune.models.network_key import network_key
        from stagetune.models.whole import Whole

        network = self._network(image_size)
        groups, ends = _groups(network)
        return Whole(
            network,
            {block: covering(network, names) for block, names in gather(groups, ends).items()},
            image_size=image_size,
            normal=normal_of(self),
            layout=self.layout,
            network_key=network_key(network, {"arch": self.arch, "image_size": image_size}),
        )

    def unprunable(self) -> str:
        return "torch-pruning takes more memory than there is to follow its channels" if "coat" in self.arch else ""

    def pretrained(self, image_size: int) -> "Weights | None":
        from stagetune.models.imagenet import timm_weights

        arch = self._known()
        try:
            return timm_weights(arch, {"num_classes": 0, "img_size": image_size})
        except TypeError:  # it takes images of any size
            return timm_weights(arch, {"num_classes": 0})

    def pretrained_at(self) -> str:
        from stagetune.models.imagenet import timm_weights_at

        return timm_weights_at(self._known())

    def _known(self) -> str:
        timm = _timm()
        if not timm.is_model(self.arch):
            raise ConfigError(
                [f"model.arch={self.arch}: timm has none; {did_you_mean(self.arch, timm.list_models())}"]
            )
        base, _, tag = self.arch.partition(".")
        known = timm.list_pretrained(f"{base}.*")
        if tag and self.arch not in known:
            raise ConfigError(
                [f"model.arch={self.arch}: timm has no such weights of {base}; {did_you_mean(self.arch, known)}"]
            )
        return self.arch

    def _network(self, size: int) -> "nn.Module":
        timm, arch = _timm(), self._known()
        try:
            try:
                made: nn.Module = timm.create_model(arch, num_classes=0, img_size=size)
            except TypeError:  # it takes images of any size
                made = timm.create_model(arch, num_classes=0)
        except (AssertionError, ValueError, RuntimeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ConfigError([f"data.image_size={size}: {arch} cannot take such images: {reason}"]) from error
        return made


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise ConfigError(["model=timm: timm is not installed; pip install 'stagetune[timm]'"]) from error
    return timm


def _groups(network: "nn.Module") -> tuple[list["Group"], list[int]]:
    """The network's groups in forward order, and of each resolution the last one."""
    from stagetune.models.gather import with_weights

    groups: list[Group] = []
    for given in _candidates(network):
        groups = with_weights(network, given)
        if len(groups) >= 5:
            break
    return groups, _ends(network, groups)


def _candidates(network: "nn.Module") -> Iterator[list["Group"]]:
    """Groups, coarse ones first."""
    from timm.models import group_parameters

    from stagetune.models.gather import units

    if hasattr(network, "group_matcher"):
        matcher: Any = network.group_matcher
        for coarse in (True, False):
            with suppress(AssertionError):  # some have no coarse groups
                yield list(group_parameters(network, matcher(coarse=coarse)).values())
    yield units(network, 5)


def _ends(network: "nn.Module", groups: list["Group"]) -> list[int]:
    """The last group of each resolution, where timm's table of them rises and names layers that exist."""
    index = {name: i for i, group in enumerate(groups) for name in group}
    table: list[dict[str, Any]] = list(getattr(network, "feature_info", []) or [])
    ends: dict[int, int] = {}
    for entry in table[::-1]:
        layer, reduction = str(entry.get("module", "")), int(entry.get("reduction", 0))
        before = [name for name in _until(network, layer) if name in index]
        if not before or reduction < 1 or (ends and reduction >= min(ends)):
            break
        ends[reduction] = max(index[name] for name in before)
    found = list(ends.values())[::-1]
    rises = all(low < high for low, high in pairwise(found))
    return found if rises else []


def _until(network: "nn.Module", layer: str) -> list[str]:
    """The parameters of a layer, or where it has none, the last one made before it; none if there is no layer."""
    names: list[str] = []
    for name, module in network.named_modules():
        if name and name == layer:
            return [f"{name}.{inner}" for inner, _ in module.named_parameters()] or names[-1:]
        names += [f"{name}.{inner}" for inner, _ in module.named_parameters(recurse=False)]
    return []
