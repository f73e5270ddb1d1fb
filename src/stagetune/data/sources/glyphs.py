"""Letters of many scripts, drawn from the fonts that matplotlib ships; needs no download."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stagetune.config.settings import GroupSettings
from stagetune.typed import number

if TYPE_CHECKING:
    from stagetune.data.glyphs import Glyphs


@dataclass
class Settings(GroupSettings):
    """`data=glyphs`."""

    name: str = "glyphs"
    images_per_identity: int = number(12, 2)
    groups: list[str] | None = None

    reads_files = may_be_photographs = False

    def build(self, image_size: int) -> "tuple[Glyphs, None]":
        from stagetune.data.glyphs import Glyphs

        drawn = Glyphs(
            image_size=image_size,
            images_per_identity=self.images_per_identity,
            scripts=self.groups,
            seed=self.seed,
        )
        return drawn, None
