#!/usr/bin/env bash
# Pillow 13.0.0; the files are written by tifffile 2026.3.3 with imagecodecs 2026.3.6 and numpy 2.4.6 (x86-64).
# A big-endian TIFF, as ImageJ and many instruments write it, opens rightly as long as it is not compressed. Compressed (deflate,
# LZW or PackBits alike) signed 16-bit, signed 32-bit and float pictures come out with the bytes of each number swapped: 1001 is
# -5885, -385679360 and 5.9e-39, with no error or warning; the modes, I and F, are those of the right ones. Unsigned 16 bits are
# right either way. libtiff hands over numbers in the machine's order, and Pillow swaps these again.
# Also a TIFF of five or six bytes a pixel, three of them said to be RGB and the others unspecified (multispectral), opens as a
# plain RGB picture of the first three, while one of seven is refused.
# Seen on 2026-11-28: what `expected` says. The script fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet pillow==13.0.0 tifffile==2026.3.3 imagecodecs==2026.3.6 numpy==2.4.6
"$work/venv/bin/python" - <<'PYTHON'
import io

import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError

numbers = np.arange(1000, 1064).reshape(8, 8)


def opened(pixels, **settings):
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **settings)
    try:
        with Image.open(file) as image:
            return image.mode, np.asarray(image)[0, 1]
    except UnidentifiedImageError:
        return "refused", None


expected = {"uint16": 1001, "int16": -5885, "int32": -385679360, "float32": 5.921332396044804e-39}
for kind, wrong in expected.items():
    for compression in ("deflate", "lzw", "packbits"):
        mode, value = opened(numbers.astype(kind), byteorder=">", compression=compression, photometric="minisblack")
        print(f"{kind}, {compression}: mode {mode}, 1001 is {value}")
        assert value == np.asarray(wrong, value.dtype), (kind, compression)
    if kind != "float32":
        assert opened(numbers.astype(kind), byteorder=">", photometric="minisblack")[1] == 1001
    assert opened(numbers.astype(kind), byteorder="<", compression="deflate", photometric="minisblack")[1] == 1001
for channels, mode in ((5, "RGB"), (6, "RGB"), (7, "refused")):
    pixels = np.zeros((8, 8, channels), np.uint8)
    seen = opened(pixels, photometric="rgb", extrasamples=["unspecified"] * (channels - 3))[0]
    print(f"{channels} channels: {seen}")
    assert seen == mode
PYTHON
