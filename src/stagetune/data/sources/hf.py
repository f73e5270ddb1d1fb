"""Data sets of the Hugging Face library `datasets`: by their name on the hub, or from a folder."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stagetune.config.schema import Config
from stagetune.config.settings import SplitSettings
from stagetune.data.image_files import ImageFiles, Row
from stagetune.data.names import PARTS
from stagetune.data.splits import leave_split_of_images
from stagetune.errors import ConfigError, DataError, did_you_mean
from stagetune.typed import choice

if TYPE_CHECKING:
    from PIL import Image

SAVED = ("dataset_dict.json", "state.json")  # one of them lies in a folder of save_to_disk
PLAIN = ("string", "large_string", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))


@dataclass
class Settings(SplitSettings):
    """`data=hf`."""

    name: str = "hf"
    path: str | None = None
    subset: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    train_split: str | None = None
    val_split: str | None = None
    test_split: str | None = None
    on_error: str = choice("raise", "skip")

    published = True

    def problems(self, config: Config) -> Iterator[str]:
        yield from SplitSettings.problems(self, config)
        what = "give a name on the Hugging Face hub or a folder, such as data.path=uoft-cs/cifar10"
        if self.path is None:
            yield f"data.path: is missing; {what}"
        elif (self.path.startswith(("/", ".", "~")) or self.path.count("/") > 1) and not _folder(self.path).is_dir():
            yield f"data.path={self.path}: is not there, seen from {Path.cwd()}; {what}"
        given = [name for name in self._parts().values() if name is not None]
        if len(set(given)) < len(given):
            yield "data.train_split, data.val_split and data.test_split: name one split twice; give each another"

    def build(self, image_size: int) -> tuple[ImageFiles, None]:
        path = str(self.path)
        found = _loaded(path, self.subset)
        parts = parts_of(path, list(found), self._parts())
        rows, classes = listed(path, found, parts, self.image_column, self.label_column)
        unused = [name for name in found if name not in parts.values()]
        notes = [f"of its splits {', '.join(unused)} are not used"] if unused else []
        origin = str(_folder(path).resolve()) if _folder(path).is_dir() else path
        source = ImageFiles("hf", origin, rows, on_error=self.on_error, notes=notes, classes=classes)
        if self.split == "identities":
            leave_split_of_images(source)
        return source, None

    def _parts(self) -> dict[str, str | None]:
        return {"train": self.train_split, "val": self.val_split, "test": self.test_split}


def parts_of(path: str, names: Sequence[str], given: Mapping[str, str | None]) -> dict[str, str]:
    """Which of the splits called `names` is train, val and test; for "" the only one, which is split by share.

    Raises `DataError` for a name that there is not, for the only one as a part, and where train or test is not told.
    """
    for part, name in given.items():
        if name is not None and name not in names:
            raise DataError(f"data.{part}_split={name}: {path} has no such split; {did_you_mean(name, names)}")
    if len(names) == 1:
        for part in ("val", "test"):
            if given[part] is not None:
                raise DataError(
                    f"data.{part}_split={given[part]}: {path} has this split alone, which is divided by share; leave "
                    f"data.{part}_split out"
                )
        return {"": names[0]}
    free = [name for name in names if name not in given.values()]
    chosen = {part: given[part] or next((name for name in PARTS[part] if name in free), None) for part in PARTS}
    if missing := [part for part in ("train", "test") if chosen[part] is None]:
        remedy = " ".join(f"data.{part}_split=NAME" for part in missing)
        raise DataError(
            f"data.path={path}: has the splits {', '.join(names)}, and none of them is called "
            f"{' or '.join(missing)}; say which it is, {remedy} (validation is drawn from train where there is none)"
        )
    return {part: name for part, name in chosen.items() if name is not None}


def listed(
    path: str, found: Mapping[str, Any], parts: Mapping[str, str], image: str | None, label: str | None
) -> tuple[list[Row], list[str]]:
    """The images of the splits, none decoded, and the classes: in the order of a ClassLabel, or sorted.

    Args:
        path: what the data set is called.
        found: a `datasets.Dataset` of each name.
        parts: the name of each part.
        image: the column of the images; None for the only one of that kind.
        label: the column of classes or identities; likewise.

    Raises:
        DataError: for columns that are not there, not told, or of another kind, and for images without a label.
    """
    datasets = _datasets()
    features = found[next(iter(parts.values()))].features
    images = [column for column, kind in features.items() if isinstance(kind, datasets.Image)]
    named = [column for column, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    plain = [column for column, kind in features.items() if isinstance(kind, datasets.Value) and kind.dtype in PLAIN]
    image = _column(path, features, "image", image, images, images)
    label = _column(path, features, "label", label, named or plain, named + plain)
    kind = features[label]
    rows, seen = [], set()
    for part, name in parts.items():
        split = found[name].with_format(None)
        if split.features.get(label) != kind or image not in split.features:
            raise DataError(f"data.path={path}: the columns {image} and {label} are others in {name}")
        labels = split[label][:]
        if hidden := sum(one in (None, "") or (isinstance(kind, datasets.ClassLabel) and one < 0) for one in labels):
            raise DataError(
                f"data.path={path}: {hidden} of {len(labels)} images of {name} have no {label}; name another split, "
                f"data.{part or 'train'}_split=NAME, or leave them out of the data set"
            )
        seen |= set(labels)
        opened = partial(_opened, split.cast_column(image, datasets.Image()), image)
        identity = kind.names.__getitem__ if isinstance(kind, datasets.ClassLabel) else str
        rows += [Row(opened, i, f"{path} {name}", identity(one), part or None) for i, one in enumerate(labels)]
    return rows, [identity(one) for one in sorted(seen)]


def _column(
    path: str, features: Mapping[str, Any], role: str, given: str | None, likely: Sequence[str], able: Sequence[str]
) -> str:
    """The column of a role: the given one if it is `able`, or else the only one that is `likely`."""
    columns = "its columns are " + ", ".join(f"{name} ({type(kind).__name__})" for name, kind in features.items())
    if given is not None and given not in able:
        what = f"holds no {role}s, as a column" if given in features else "is no column"
        raise DataError(f"data.{role}_column={given}: {what} of {path}; {columns}")
    if given is None and len(likely) != 1:
        many = f"several columns can be the {role}s, {', '.join(likely)}" if likely else f"no column has {role}s"
        raise DataError(f"data.path={path}: {many}; name one, data.{role}_column=NAME: {columns}")
    return given or likely[0]


def _loaded(path: str, subset: str | None) -> dict[str, Any]:
    """A `datasets.Dataset` by the name of each split. Never runs code that a data set brings."""
    datasets, folder = _datasets(), _folder(path)
    saved = any((folder / name).is_file() for name in SAVED)
    if saved and subset is not None:
        raise DataError(
            f"data.subset={subset}: the folder {path} is one of save_to_disk, without subsets; leave it out"
        )
    try:
        if saved:
            found = datasets.load_from_disk(str(folder))
        else:
            found = datasets.load_dataset(str(folder) if folder.is_dir() else path, subset)
    except Exception as error:  # of the library, of the network, of a damaged file: in many ways
        said = " ".join(f"{type(error).__name__}: {error}".split())
        if folder.is_dir():
            raise DataError(f"data.path={path}: this folder cannot be read as a data set ({said})") from error
        raise DataError(
            f"data.path={path}: is no folder, seen from {Path.cwd()}, and was not had from the Hugging Face hub "
            f"({said}); check the name, and data.subset where it has several, or load it once where there is network"
        ) from error
    return dict(found) if isinstance(found, dict) else {str(found.split or "train"): found}


def _opened(dataset: Any, column: str, index: int) -> "Image.Image":
    image: Image.Image = dataset[index][column]
    return image


def _folder(path: str) -> Path:
    return Path(path).expanduser()


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(["data=hf: datasets is not installed; pip install 'stagetune[hf]'"]) from error
    return datasets
