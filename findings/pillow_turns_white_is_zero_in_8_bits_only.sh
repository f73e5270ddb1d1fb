#!/usr/bin/env bash
# Pillow 13.0.0; the files are written by tifffile 2026.3.3 with numpy 2.4.6.
# A TIFF may say that 0 is white (PhotometricInterpretation 0, as scanners, fax machines and X-ray software write). Pillow turns
# such a picture over as it reads 1 or 8 bits, but not of 16 bits or of floats: these are negatives of
# what they show, with no word of it but in the tag (262). So the 16-bit scans of a folder are the opposite of its 8-bit ones.
# Also a TIFF of signed bytes (SampleFormat 2) opens in the unsigned mode L: -100 is 156, while signed 16 bits stay -100.
# Seen on 2026-11-28: of a white page 255 in 8 bits, and 0 in both deeper ones. The script fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet pillow==13.0.0 tifffile==2026.3.3 imagecodecs==2026.3.6 numpy==2.4.6
"$work/venv/bin/python" - <<'PYTHON'
import io

import numpy as np
import tifffile
from PIL import Image


def opened(pixels, **settings):
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **settings)
    with Image.open(file) as image:
        return image.mode, np.asarray(image)[0, 0].item(), image.tag_v2[262]


page = np.zeros((8, 8))
expected = {
    "8 bits": (opened(page.astype(np.uint8), photometric="miniswhite"), ("L", 255, 0)),
    "16 bits": (opened(page.astype(np.uint16), photometric="miniswhite"), ("I;16", 0, 0)),
    "float": (opened(page.astype(np.float32), photometric="miniswhite"), ("F", 0, 0)),
    "-100 in 8 bits": (opened((page - 100).astype(np.int8), photometric="minisblack"), ("L", 156, 1)),
    "-100 in 16 bits": (opened((page - 100).astype(np.int16), photometric="minisblack"), ("I", -100, 1)),
}
for name, (seen, wanted) in expected.items():
    print(f"{name}: mode {seen[0]}, value {seen[1]}, photometric {seen[2]}")
    assert seen == wanted, (name, seen, wanted)
PYTHON
