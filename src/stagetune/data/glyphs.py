"""Letters of many scripts, drawn from the fonts that matplotlib ships."""

import hashlib
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import PIL
import torch
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFilter, ImageFont, features
from torch import Tensor

from stagetune.data.source import IntArray
from stagetune.errors import DataError, did_you_mean

# An identity's images take its fonts in turn, so neighbours here belong to different families.
_FONTS = (
    "DejaVuSans", "DejaVuSerif-Italic", "STIXGeneral", "DejaVuSansMono-Bold", "cmr10",
    "DejaVuSans-BoldOblique", "DejaVuSerif", "STIXGeneralBolIta", "DejaVuSansMono", "cmss10",
    "DejaVuSans-Bold", "DejaVuSerif-BoldItalic", "STIXGeneralItalic", "DejaVuSansMono-Oblique", "cmti10",
    "DejaVuSans-Oblique", "DejaVuSerif-Bold", "STIXGeneralBol", "DejaVuSansMono-BoldOblique", "cmtt10",
    "cmb10",
)  # fmt: skip
_MIN_FONTS = 3

# The first word of a character's Unicode name -> its script.
_SCRIPTS = {
    "LATIN": "latin", "GREEK": "greek", "COPTIC": "coptic", "CYRILLIC": "cyrillic", "ARMENIAN": "armenian",
    "HEBREW": "hebrew", "ARABIC": "arabic", "LAO": "lao", "GEORGIAN": "georgian", "CANADIAN": "canadian",
    "LISU": "lisu", "OLD": "old-italic",
}  # fmt: skip

# Two letters are one if they look alike in any of these; the other fonts are variants of them.
_WITNESSES = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSerif", "DejaVuSerif-Italic", "STIXGeneral",
)  # fmt: skip
_RASTER = 48  # px, the longer side of a letter when it is compared
_SLACK = 2  # px, how far ink may stray and still count as the same ink
_STRAY = 5  # samples (of 2x2 px) with ink out of place, at most, in letters that are one; chosen by eye

_FIT = 0.66  # longer side of the ink at scale 1, as a fraction of the image's side
_RANGES = {
    "rotation": (-math.radians(15), math.radians(15)),
    "scale": (0.75, 1.1),
    "shear": (-0.15, 0.15),
    "shift_x": (-0.06, 0.06),  # fractions of the image's side
    "shift_y": (-0.06, 0.06),
    "stroke": (0.0, 0.03),  # added on either side, as a fraction of the font size
    "blur": (0.004, 0.014),  # standard deviation, as a fraction of the image's side
    "paper": (0, 40),  # grey levels
    "ink": (170, 255),
}
_LOW, _HIGH = np.array(list(_RANGES.values())).T


@dataclass(frozen=True)
class _Letter:
    code: int
    script: str
    fonts: tuple[str, ...]

    @property
    def name(self) -> str:
        words = unicodedata.name(chr(self.code)).lower().split()[1:]
        return "-".join([self.script, f"{self.code:04X}", *(word for word in words if word != "letter")])


class Glyphs:
    """Rendered letters: an identity is a character, its group is its script; light ink on dark paper."""

    name = origin = "glyphs"
    split: list[str] | None = None

    def __init__(
        self,
        *,
        image_size: int = 64,
        images_per_identity: int = 12,
        scripts: Sequence[str] | None = None,
        seed: int = 0,
    ) -> None:
        self.image_size, self.images_per_identity, self.seed = image_size, images_per_identity, seed
        wanted = _known_scripts() if scripts is None else _checked(scripts)
        self._letters = [letter for letter in _repertoire() if letter.script in wanted]
        self.classes = [letter.name for letter in self._letters]
        self.groups: list[str] | None = [letter.script for letter in self._letters]
        self.labels: IntArray = np.repeat(np.arange(len(self._letters), dtype=np.int64), images_per_identity)
        self.image_groups: list[str] | None = [self._letters[label].script for label in self.labels]
        recipe = f"{renderer_fingerprint()} size {image_size} seed {seed}"
        instances = range(images_per_identity)
        self.contents = [f"{recipe} U+{letter.code:04X} {i}" for letter in self._letters for i in instances]
        self.notes: list[str] = []

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Tensor:
        """The image, uint8 `[3, image_size, image_size]`; the same for the same seed and index."""
        letter, font, instance = self._at(index)
        # Seeded by character, not by index: choosing fewer scripts leaves the other images as they are.
        rng = np.random.default_rng([self.seed, letter.code, instance])
        grey = torch.from_numpy(_render(chr(letter.code), font, self.image_size, rng))
        return grey.repeat(3, 1, 1)

    def describe(self, index: int) -> str:
        """What the image shows, for error messages."""
        letter, font, _ = self._at(index)
        return f"U+{letter.code:04X} in {font}"

    def _at(self, index: int) -> tuple[_Letter, str, int]:
        letter = self._letters[self.labels[index]]
        instance = index % self.images_per_identity
        return letter, letter.fonts[(self.seed + instance) % len(letter.fonts)], instance


def _known_scripts() -> list[str]:
    return sorted({letter.script for letter in _repertoire()})


def _checked(scripts: Sequence[str]) -> Sequence[str]:
    valid = _known_scripts()
    for script in scripts:
        if script not in valid:
            raise DataError(f"data.groups: no script named {script}; {did_you_mean(script, valid)}")
    return scripts


def _path(font: str) -> Path:
    return Path(matplotlib.get_data_path(), "fonts", "ttf", f"{font}.ttf")


@cache
def _face(font: str, size: int) -> ImageFont.FreeTypeFont:
    # The basic layout draws one character as it is, the same with and without libraqm.
    return ImageFont.truetype(_path(font), size, layout_engine=ImageFont.Layout.BASIC)


@cache
def renderer_fingerprint() -> str:
    """Everything outside a `Glyphs` that decides its pixels: this file, the fonts and the rasteriser."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for font in _FONTS:
        digest.update(_path(font).read_bytes())
    return f"{digest.hexdigest()} pillow {PIL.__version__} freetype {features.version('freetype2')}"


def _ink(character: str, font: str, size: int, stroke: float = 0.0) -> Image.Image:
    """The character's ink with a margin of 2 px, mode L, light on dark."""
    face = _face(font, size)
    left, top, right, bottom = face.getbbox(character, stroke_width=stroke)
    left, top, right, bottom = math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)
    canvas = Image.new("L", (right - left + 4, bottom - top + 4))
    ImageDraw.Draw(canvas).text((2 - left, 2 - top), character, fill=255, font=face, stroke_width=stroke)
    return canvas


def _render(character: str, font: str, side: int, rng: np.random.Generator) -> np.ndarray:
    """One random view of the character, uint8 `[side, side]`."""
    rotation, scale, shear, shift_x, shift_y, stroke, blur, paper, ink = rng.uniform(_LOW, _HIGH).tolist()
    size = round(1.25 * side)
    glyph = _ink(character, font, size, stroke * size)
    zoom = scale * _FIT * side / (max(glyph.size) - 4)
    # PIL wants the way back, from a pixel of the image to a point of the glyph: the inverse of
    # rotation * shear * zoom about the two centres.
    cos, sin = math.cos(rotation) / zoom, math.sin(rotation) / zoom
    a, b, c, d = cos + shear * sin, sin - shear * cos, -sin, cos
    x, y = side * (0.5 + shift_x), side * (0.5 + shift_y)
    back = (a, b, glyph.width / 2 - a * x - b * y, c, d, glyph.height / 2 - c * x - d * y)
    view = glyph.transform((side, side), Image.Transform.AFFINE, back, Image.Resampling.BILINEAR)
    view = view.filter(ImageFilter.GaussianBlur(blur * side))
    levels = (paper + np.arange(256) * (ink - paper) / 255).astype(np.uint8)
    return np.asarray(levels[np.asarray(view)])


@cache
def _repertoire() -> tuple[_Letter, ...]:
    """The letters that enough fonts have and that look like no letter before them, by code point."""
    letters = _candidates()
    alike = np.zeros((len(letters), len(letters)), dtype=bool)
    for font in _WITNESSES:
        having = [i for i, letter in enumerate(letters) if font in letter.fonts]
        alike[np.ix_(having, having)] |= _alike([chr(letters[i].code) for i in having], font)
    kept: list[int] = []
    for i in range(len(letters)):
        if not alike[i, kept].any():
            kept.append(i)
    return tuple(letters[i] for i in kept)


def _candidates() -> list[_Letter]:
    fonts: dict[int, list[str]] = {}
    for font in _FONTS:
        for code, glyph in FT2Font(str(_path(font))).get_charmap().items():
            # Glyph 0 is the box of a missing character; TeX's fonts put other glyphs beyond ASCII.
            if glyph and (code < 128 or not font.startswith("cm")):
                fonts.setdefault(code, []).append(font)
    return [
        _Letter(code, _SCRIPTS[unicodedata.name(chr(code)).split()[0]], tuple(fonts[code]))
        for code in sorted(fonts)
        if len(fonts[code]) >= _MIN_FONTS and "DejaVuSans" in fonts[code] and _is_plain_letter(chr(code))
    ]


def _is_plain_letter(character: str) -> bool:
    """Whether it is a letter of a known script and has no accent, which blur would hide."""
    return (
        unicodedata.category(character) in ("Lu", "Ll", "Lo")
        and not unicodedata.decomposition(character)
        and unicodedata.name(character).split()[0] in _SCRIPTS
    )


def _alike(characters: Sequence[str], font: str) -> np.ndarray:
    """Which of the characters the font draws alike but for size and stroke thickness, bool `[n, n]`.

    Two are alike if hardly any ink of either lies farther than the slack from the ink of the other.
    """
    side = _RASTER + 2 * _SLACK
    rasters = []
    for character in characters:
        glyph = _ink(character, font, _RASTER)
        glyph = glyph.crop(glyph.getbbox())
        zoom = _RASTER / max(glyph.size)
        glyph = glyph.resize((math.ceil(glyph.width * zoom), math.ceil(glyph.height * zoom)))
        raster = Image.new("L", (side, side))
        raster.paste(glyph, ((side - glyph.width) // 2, (side - glyph.height) // 2))
        rasters.append(np.asarray(raster) > 127)
    ink = near = np.array(rasters)
    for axis in (1, 2):
        near = np.logical_or.reduce([np.roll(near, step, axis) for step in range(-_SLACK, _SLACK + 1)])
    samples, far = (grid[:, ::2, ::2].reshape(len(grid), -1).astype(np.float32) for grid in (ink, ~near))
    stray = samples @ far.T
    return np.asarray(np.maximum(stray, stray.T) <= _STRAY)
