"""JPEGs far larger than what is needed: decoded at a reduced scale, and known by what is compressed in them."""

import hashlib
from typing import IO

from PIL import Image

LARGE = 1024  # a side of more pixels makes one large; smaller ones are decoded whole, and known by their pixels
REDUCED = 2  # the smallest scale is taken that leaves both sides so many times those that are needed
START_OF_SCAN = 0xDA
KEPT = {0xE0, 0xEE}  # JFIF and Adobe, which say what the channels are
LEFT_OUT = {*range(0xE0, 0xF0), 0xFE} - KEPT  # APPn (EXIF, XMP, ICC, previews) and comments


def is_large(image: Image.Image) -> bool:
    """Whether an opened image is a large JPEG."""
    return image.format in ("JPEG", "MPO") and max(image.size) > LARGE


def reduce(image: Image.Image, needed: int) -> None:
    """Let a large JPEG that is open be decoded at an eighth, a quarter or half of its sides, or as it is.

    Args:
        image: not yet decoded.
        needed: pixels per side of what it will be resized to.
    """
    image.draft(None, (REDUCED * needed, REDUCED * needed))


def compressed_key(file: IO[bytes], orientation: int) -> str:
    """A key of a JPEG without decoding it: that of its tables and compressed data, and how it is turned.

    Metadata are left out, so that a copy whose date or comment was changed is the same picture.
    """
    digest = hashlib.blake2b(f"JPEG {orientation};".encode(), digest_size=16)
    file.seek(2)
    while (head := file.read(4)) and len(head) == 4 and head[0] == 0xFF:
        if head[1] == 0xFF:  # filled up with FF
            file.seek(-3, 1)
            continue
        rest = file.read(max(0, int.from_bytes(head[2:]) - 2))
        if head[1] not in LEFT_OUT:
            digest.update(head + rest)
        if head[1] == START_OF_SCAN:
            break
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()
