#!/usr/bin/env bash
# Pillow 13.0.0; the files are written by imagecodecs 2026.3.6 and tifffile 2026.3.3, with numpy 2.4.6.
# A 12-bit gray picture (0 to 4095) opens with another scale for each container that holds it, though all four say how deep it
# is: PNG and TIFF (also one that packs 12 bits) give 0 to 4095, JPEG 2000 shifts to 16 bits, 0 to 65520, and PGM is stretched
# by its maxval, 0 to 65535, in mode I instead of I;16. So a folder that mixes them, or a fixed divisor (257, or 16), makes some
# of its pictures sixteen times as dark as others: the range has to be looked at, and not only the mode.
# Colour is worse: of 12 bits in a 16-bit PNG or TIFF only the high byte is kept, 0 to 15 of 255, in the ordinary mode RGB, so
# that the picture is black and nothing says so; 12-bit JPEG 2000 and AVIF come out at 0 to 255. A 16-bit PNG of gray and alpha
# opens as RGBA of 8 bits (not LA), black in the same way.
# Seen on 2026-11-28: what `expected` says. The script fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet pillow==13.0.0 imagecodecs==2026.3.6 tifffile==2026.3.3 numpy==2.4.6
"$work/venv/bin/python" - <<'PYTHON'
import io

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

gray = np.linspace(0, 4095, 64 * 64).round().astype(np.uint16).reshape(64, 64)
colour, with_alpha = np.stack([gray] * 3, axis=-1), np.stack([gray, np.full_like(gray, 4095)], axis=-1)
lossless = {"level": 0, "reversible": True, "codecformat": "jp2"}


def tiff(pixels, **settings):
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **settings)
    return file.getvalue()


files = {
    "gray PNG": imagecodecs.png_encode(gray),
    "gray TIFF": tiff(gray, photometric="minisblack"),
    "gray TIFF, packed": tiff(gray, photometric="minisblack", bitspersample=12),
    "gray JPEG 2000": imagecodecs.jpeg2k_encode(gray, bitspersample=12, **lossless),
    "gray PGM": b"P5 64 64 4095\n" + gray.astype(">u2").tobytes(),
    "colour PNG": imagecodecs.png_encode(colour),
    "colour TIFF": tiff(colour, photometric="rgb"),
    "colour JPEG 2000": imagecodecs.jpeg2k_encode(colour, bitspersample=12, **lossless),
    "colour AVIF": imagecodecs.avif_encode(colour, bitspersample=12, level=100),
    "gray and alpha PNG": imagecodecs.png_encode(with_alpha),
}
expected = {
    "gray PNG": ("I;16", 4095),
    "gray TIFF": ("I;16", 4095),
    "gray TIFF, packed": ("I;16", 4095),
    "gray JPEG 2000": ("I;16", 65520),
    "gray PGM": ("I", 65535),
    "colour PNG": ("RGB", 15),
    "colour TIFF": ("RGB", 15),
    "colour JPEG 2000": ("RGB", 255),
    "colour AVIF": ("RGB", 255),
    "gray and alpha PNG": ("RGBA", 15),
}
for name, file in files.items():
    with Image.open(io.BytesIO(file)) as image:
        seen = image.mode, int(np.asarray(image).max())
    print(f"{name}: mode {seen[0]}, largest value {seen[1]}")
    assert seen == expected[name], name
PYTHON
