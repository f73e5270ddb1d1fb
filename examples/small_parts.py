"""Draw a small, uneven set of images to try things on: parts/{washer,bolt,nut}/*.png, 40, 15 and 5 of them.

python examples/small_parts.py
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

COUNTS = {"washer": 40, "bolt": 15, "nut": 5}
SIZE = 160


def draw(kind: str, rng: np.random.Generator) -> Image.Image:
    """One part on a bench, turned somehow, in dim light and a little out of focus."""
    bench, metal = rng.integers(90, 150, 3), int(rng.integers(130, 200))
    image = Image.new("RGB", (SIZE, SIZE), tuple(bench.tolist()))
    pen = ImageDraw.Draw(image)
    x, y = rng.uniform(0.4, 0.6, 2) * SIZE
    radius, turn = rng.uniform(0.16, 0.3) * SIZE, rng.uniform(0, 360)
    if kind == "bolt":
        along = np.array([np.cos(np.radians(turn)), np.sin(np.radians(turn))])
        ends = [(x + s * along[0] * radius * 1.4, y + s * along[1] * radius * 1.4) for s in (-1, 1)]
        pen.line([point for end in ends for point in end], fill=(metal,) * 3, width=int(radius * 0.45))
        pen.regular_polygon((*ends[0], radius * 0.5), 6, turn, fill=(metal - 25,) * 3)
    else:
        hole = radius * rng.uniform(0.45, 0.6)
        if kind == "nut":
            pen.regular_polygon((x, y, radius), 6, turn, fill=(metal,) * 3)
        else:
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(metal,) * 3)
        pen.ellipse((x - hole, y - hole, x + hole, y + hole), fill=tuple(bench.tolist()))
    noise = rng.normal(0, 14, (SIZE, SIZE, 1))
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(rng.uniform(1, 4)))) + noise
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def draw_all(root: Path) -> None:
    """All of them, always the same."""
    rng = np.random.default_rng(0)
    for kind, count in COUNTS.items():
        (root / kind).mkdir(parents=True, exist_ok=True)
        for number in range(1, count + 1):
            draw(kind, rng).save(root / kind / f"{number:02d}.png")


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "parts")
    draw_all(folder)
    print(f"{folder}: " + ", ".join(f"{count} {kind}s" for kind, count in COUNTS.items()))
