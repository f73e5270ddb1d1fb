"""A person's own images: root/<class>/*.png, or root/{train,val,test}/<class>/*.png."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from stagetune.data.source import IntArray
from stagetune.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
SPLITS = ("train", "val", "test")
_known: dict[tuple[str, int, int], str] = {}  # the runs of a sweep decode a file of one path, size and time once


class ImageFolder:
    """Images in one folder per class; every file is decoded once at the start, so that none fails later.

    Raises `DataError` where the folder holds no images, where a split folder is missing, or, with
    `on_error="raise"`, where files cannot be read.
    """

    name = "image_folder"
    groups: list[str] | None = None

    def __init__(self, root: str | Path, *, on_error: str = "raise") -> None:
        self.root = Path(root).expanduser()
        if not self.root.is_dir():
            raise DataError(f"data.root={root}: no such folder; give one that holds a folder of images per class")
        found = self._scan()
        deeper = sum(_is_image(path) for path in self.root.rglob("*")) - len(found)
        if not found:
            elsewhere = f"; {deeper} images lie elsewhere in it" if deeper else ""
            raise DataError(
                f"data.root={root}: holds no images; expected root/<class>/*.png or "
                f"root/{{train,val,test}}/<class>/*.png (any of {' '.join(SUFFIXES)}){elsewhere}"
            )
        self.notes: list[str] = [f"{deeper} images that lie outside of a class folder are not used"] if deeper else []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            digests = list(pool.map(_digest, (path for _, path in found)))
        broken = [f"{path} ({d})" for (_, path), d in zip(found, digests, strict=True) if isinstance(d, Exception)]
        if broken:
            self._report(broken, len(found), on_error)
        usable = [(part, path, d) for (part, path), d in zip(found, digests, strict=True) if isinstance(d, str)]
        self._files = [path for _, path, _ in usable]
        self.contents = [digest for _, _, digest in usable]
        self.split = [part for part, _, _ in usable if part] or None
        self.origin = str(self.root.resolve())
        self.classes = sorted({path.parent.name for path in self._files})
        position = {name: i for i, name in enumerate(self.classes)}
        self.labels: IntArray = np.array([position[path.parent.name] for path in self._files], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._files)

    def image(self, index: int) -> Tensor:
        return read_image(self._files[index])

    def describe(self, index: int) -> str:
        return str(self._files[index])

    def _scan(self) -> list[tuple[str | None, Path]]:
        """Every image file with the split folder it stands in, in a fixed order."""
        # a class may be called train: it is a split only if it holds folders
        present = [part for part in SPLITS if any(path.is_dir() for path in (self.root / part).glob("*"))]
        if not present:
            return [(None, path) for path in _class_images(self.root)]
        if missing := [part for part in SPLITS if part not in present]:
            raise DataError(
                f"data.root={self.root}: has {' and '.join(present)} but no {' and no '.join(missing)} folder; "
                "give all three, or one folder per class and let data.val and data.test split them"
            )
        return [(part, path) for part in SPLITS for path in _class_images(self.root / part)]

    def _report(self, broken: list[str], total: int, on_error: str) -> None:
        summary = f"{len(broken)} of {total} images cannot be read: "
        some = summary + ", ".join(broken[:5]) + (", ..." if len(broken) > 5 else "")
        if on_error == "raise":
            raise DataError(f"{some}; mend or remove them, or leave them out with data.on_error=skip")
        if len(broken) == total:
            raise DataError(f"{some}; none is left")
        self.notes.append(f"left out, {summary}{', '.join(broken)}")


def read_image(path: Path) -> Tensor:
    """The image as uint8 [3, height, width]: turned as EXIF says, any mode made RGB, alpha laid on white."""
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I"):  # 16-bit gray (scans): PIL's own conversion would clip at 255
            deep = np.asarray(image).astype(np.int64)
            image = Image.fromarray((deep // 257).clip(0, 255).astype(np.uint8))
        elif image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
            drawn = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn)
        pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _class_images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*/*") if _is_image(path) and not path.parent.name.startswith("."))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _digest(path: Path) -> str | Exception:
    """A key of the decoded pixels, or why the file cannot be read as an image."""
    try:
        stat = path.stat()
        file = (str(path.absolute()), stat.st_size, stat.st_mtime_ns)
        if file not in _known:
            pixels = read_image(path)
            shape = np.array(pixels.shape, dtype=np.int64).tobytes()
            _known[file] = hashlib.blake2b(shape + pixels.numpy().tobytes(), digest_size=16).hexdigest()
    except Exception as error:  # Pillow's decoders raise many types for a damaged file
        return error
    return _known[file]
