"""The commands that use a model: predict, verify, embed, identify, info, gallery. Torch comes where they begin."""

import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stagetune.errors import DataError, StagetuneError
from stagetune.visible import visible_name

if TYPE_CHECKING:
    from stagetune.inference.model import TrainedModel, Vector

SOME_UNREADABLE = 3  # exit codes, see docs/using.md
DIFFERENT = 4


def add_commands(commands: Any) -> None:
    """Add them to argparse's commands; each sets `run`, which takes what was given and returns an exit code."""
    predict = commands.add_parser("predict", help="the class of each image, by a classifier")
    _add_model(predict)
    _add_images(predict)
    predict.add_argument("--top-k", type=_at_least_one, default=5, help="how many classes are listed (default: 5)")
    _add_format(predict, "json", "csv")
    predict.set_defaults(run=show_predict)

    verify = commands.add_parser("verify", help="whether two images are of one identity; exit code 4 if they are not")
    _add_model(verify)
    verify.add_argument("first", type=Path, metavar="A")
    verify.add_argument("second", type=Path, metavar="B")
    _add_format(verify, "json")
    verify.set_defaults(run=show_verify)

    embed = commands.add_parser("embed", help="the embedding of each image, as .npz or .parquet")
    _add_model(embed)
    _add_images(embed)
    embed.add_argument("-o", "--output", type=Path, required=True, help="out.npz or out.parquet")
    embed.set_defaults(run=show_embed)

    identify = commands.add_parser("identify", help="who or what each image shows, of those in a gallery")
    _add_model(identify)
    identify.add_argument("gallery", type=Path, metavar="GALLERY", help="a folder, made by stagetune gallery build")
    _add_images(identify)
    identify.add_argument("-k", type=_at_least_one, default=5, help="how many identities are listed (default: 5)")
    identify.add_argument(
        "--per-identity", choices=("nearest", "mean"), default="nearest", help="by its nearest image, or their mean"
    )
    _add_format(identify, "json", "csv")
    identify.set_defaults(run=show_identify)

    info = commands.add_parser("info", help="what a model is, takes and answers")
    _add_model(info)
    _add_format(info, "json")
    info.set_defaults(run=show_info)

    gallery = commands.add_parser("gallery", help="identities to be recognised: build, add, remove, list")
    actions = gallery.add_subparsers(dest="action", required=True)
    build = actions.add_parser("build", help="a gallery of a folder with a folder of images for each identity")
    _add_model(build)
    build.add_argument("images", type=Path, metavar="DIR", help="DIR/<identity>/*.jpg")
    build.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="where to; not there yet")
    build.set_defaults(run=lambda given: show_gallery_build(given, given.output, is_new=True))
    add = actions.add_parser("add", help="more identities, or more images of those that are there")
    add.add_argument("folder", type=Path, metavar="FOLDER", help="of the gallery")
    _add_model(add)
    add.add_argument("images", type=Path, metavar="DIR", help="DIR/<identity>/*.jpg")
    add.set_defaults(run=lambda given: show_gallery_build(given, given.folder, is_new=False))
    remove = actions.add_parser("remove", help="take identities, or single images, out")
    remove.add_argument("folder", type=Path, metavar="FOLDER", help="of the gallery")
    remove.add_argument("names", nargs="+", metavar="NAME", help="an identity, or an image as list shows it")
    remove.set_defaults(run=show_gallery_remove)
    listing = actions.add_parser("list", help="its identities, with how many images each has")
    listing.add_argument("folder", type=Path, metavar="FOLDER", help="of the gallery")
    _add_format(listing, "json", "csv")
    listing.set_defaults(run=show_gallery_list)


def add_trust(parser: ArgumentParser) -> None:
    """Let a command that takes a checkpoint take one that names code."""
    parser.add_argument(
        "--trust", action="store_true", help="import and run the network of its own that a checkpoint names"
    )


def show_predict(given: Namespace) -> int:
    """Print a class for each image."""
    from stagetune.inference.telling import PREDICTIONS, Teller

    model, images = _model(given), _listed(given.images)
    with Teller(given.format, images, PREDICTIONS) as tell:
        for name, answer in zip(images, model.predictions(images, given.top_k), strict=True):
            tell(name, answer)
    return SOME_UNREADABLE if tell.unreadable else 0


def show_verify(given: Namespace) -> int:
    """Print whether two images are of one identity."""
    import json

    found = _model(given).verify(given.first, given.second)
    if given.format == "json":
        print(json.dumps(asdict(found)))
    else:
        print(
            f"{'same' if found.is_same else 'different'}: distance {found.distance:.4f}, same up to "
            f"{found.threshold:.4f}; probability of same {found.probability:.3f}, where half of all pairs are\n"
            f"at this threshold validation called {100 * found.far:.2g}% of different pairs the same"
        )
    return 0 if found.is_same else DIFFERENT


def show_embed(given: Namespace) -> int:
    """Write the embedding of each image into a file."""
    from stagetune.inference.telling import check_names, check_table, write_table

    check_table(given.output)
    images = _listed(given.images)
    check_names(given.output, images)
    model = _model(given)
    paths, rows, code = _embedded(model, images)
    if not rows:
        raise DataError("no image could be read; nothing is written")
    write_table(given.output, paths, rows)
    print(f"{len(rows)} embeddings of {len(rows[0])} numbers in {given.output}")
    return code


def show_identify(given: Namespace) -> int:
    """Print the nearest identities of a gallery for each image."""
    from stagetune.inference.telling import IDENTIFICATIONS, Teller

    model, images = _model(given), _listed(given.images)
    found = model.identifications(images, given.gallery, given.k, per_identity=given.per_identity)
    with Teller(given.format, images, IDENTIFICATIONS) as tell:
        for name, answer in zip(images, found, strict=True):
            tell(name, answer)
    return SOME_UNREADABLE if tell.unreadable else 0


def show_info(given: Namespace) -> None:
    """Print what a model says of itself."""
    import json

    model = _model(given)
    described = {**asdict(model.description), "runtime": {"name": model.runtime.name, **model.runtime.about}}
    if given.format == "json":
        print(json.dumps(described, indent=2))
        return
    from stagetune.inference.telling import info_lines

    for about, text in info_lines(model):
        print(f"{about:<10} {visible_name(text)}")


def show_gallery_build(given: Namespace, folder: Path, *, is_new: bool) -> int:
    """Embed the images of each identity into a gallery, new or there already."""
    from stagetune.data.folders import notes, of_classes, walk
    from stagetune.inference.gallery import Gallery
    from stagetune.inference.gallery_rows import check_pair

    root = given.images.expanduser()
    entries, left = of_classes(walk(root), root, depth=1)
    for note in notes(left):
        print(note, file=sys.stderr)
    if not entries:
        raise DataError(f"{given.images}: holds no images of identities; expected {given.images}/<identity>/*.jpg")
    names = {str(entry.path): entry.path.relative_to(root).as_posix() for entry in entries}
    for entry in entries:
        check_pair(entry.identity, names[str(entry.path)])
    model = _model(given)
    key, distance = model.description.key, model.description.distance
    if distance is None:
        raise DataError(
            f"{given.model}: is a classifier; a gallery needs a siamese run, whose embeddings are compared"
        )
    identity = {str(entry.path): entry.identity for entry in entries}
    if is_new:  # what cannot be is said before anything is computed
        gallery = Gallery.create(folder, model=key, distance=distance, dimensions=model.dimensions)
    else:
        gallery = Gallery.open(folder)
        gallery.check_model(key, str(given.model))
    paths, rows, code = _embedded(model, list(identity))
    if not rows:
        raise DataError(f"{given.images}: none of its images can be read; the gallery stays as it is")
    again = gallery.add([identity[path] for path in paths], rows, [names[path] for path in paths])
    gallery.save()
    replaced = f", {len(again)} of them in place of what they were" if again else ""
    print(f"{len(gallery)} images of {len(gallery.identities())} identities in {folder}{replaced}")
    return code


def show_gallery_remove(given: Namespace) -> None:
    """Take identities out of a gallery."""
    from stagetune.inference.gallery import Gallery

    gallery = Gallery.open(given.folder)
    gallery.remove(given.names)
    gallery.save()
    print(f"{len(gallery)} images of {len(gallery.identities())} identities in {given.folder}")


def show_gallery_list(given: Namespace) -> None:
    """Print the identities of a gallery."""
    from stagetune.inference.gallery import Gallery
    from stagetune.inference.telling import print_rows

    rows = [{"identity": name, "images": count} for name, count in Gallery.open(given.folder).identities().items()]
    print_rows(rows, given.format)


def _embedded(model: "TrainedModel", images: list[str]) -> tuple[list[str], list["Vector"], int]:
    """The images that can be read, their embeddings, and the exit code that says whether all could."""
    from stagetune.inference.telling import Teller

    paths, rows = [], []
    with Teller("words", images) as tell:
        for name, row in model.embeddings(images):
            tell(name, row)
            if not isinstance(row, DataError):
                paths.append(name)
                rows.append(row)
    return paths, rows, SOME_UNREADABLE if tell.unreadable else 0


def _add_model(parser: ArgumentParser) -> None:
    parser.add_argument(
        "model", type=Path, metavar="CKPT", help="a checkpoint, a run's directory or an exported file"
    )
    add_trust(parser)
    parser.add_argument("--runtime", help="of an exported file: onnxruntime or openvino")
    parser.add_argument("--device", default="auto", help="cpu or cuda (default: a GPU where there is one)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--batch-size", type=_at_least_one, default=32, help="images at once (default: 32)")


def _add_images(parser: ArgumentParser) -> None:
    parser.add_argument(
        "images", nargs="+", metavar="PATH", help="images and folders of them; - reads paths from standard input"
    )


def _add_format(parser: ArgumentParser, *formats: str) -> None:
    group = parser.add_mutually_exclusive_group()
    for name in formats:
        what = "a JSON object per line" if name == "json" else "a table"
        group.add_argument(
            f"--{name}",
            dest="format",
            action="store_const",
            const=name,
            default="words",
            help=f"{what}, for programs",
        )


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text}: give a whole number, 1 or more")
    return int(text)


def _model(given: Namespace) -> "TrainedModel":
    from stagetune.inference.load import load

    return load(
        given.model,
        trust=given.trust,
        runtime=given.runtime,
        device=given.device,
        precision=given.precision,
        batch_size=given.batch_size,
    )


def _listed(given: Iterable[str]) -> list[str]:
    """The paths of all images: those in folders, and those that standard input lists, a path on each line.

    Where paths are separated by NUL, as `find -print0` does it, a name may have line breaks.
    """
    from stagetune.inference.images import named

    def words() -> Iterator[str]:
        for word in given:
            if word == "-":
                text = sys.stdin.read().removeprefix("\ufeff")
                lines = text.split("\0") if "\0" in text else (line.rstrip("\r") for line in text.split("\n"))
                yield from filter(str.strip, lines)
            else:
                yield word

    found = [name for name, _ in named(words())]
    if not found:
        raise StagetuneError("standard input lists no images; give a path on each line")
    return found
