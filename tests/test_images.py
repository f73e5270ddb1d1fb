"""A file becomes the pixels that are in it, whatever its format, or one line says why not; use and training agree."""

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, features
from sklearn.datasets import load_sample_images

import stagetune
from stagetune.artifacts import SIXTEEN_BITS, CheckpointMetadata
from stagetune.cache.key import images_key
from stagetune.config.schema import Config
from stagetune.data.decoding import look, read_image
from stagetune.data.facts import Facts, Range, notes_of, range_of
from stagetune.data.formats import formats, is_image
from stagetune.data.transforms import prepare
from stagetune.errors import ConfigError, DataError, WeightsError
from stagetune.evaluation.oneshot_runs import on_white
from stagetune.inference.description import Description, Preprocessing
from stagetune.inference.transform import Transform
from stagetune.run.data import build_data
from stagetune.run.experiment import run_experiment

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
BLOCKS = np.kron(RNG.integers(0, 256, (3, 4, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))  # [24, 32, 3]
TWELVE = RNG.integers(0, 4096, (6, 5))
TWELVE[0, 0] = 4095
# how to lose nothing in a format that can; JPEG and AVIF lose a little of all
EXACT = {
    "WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}, "MPO": {"quality": 100, "subsampling": 0},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"}, "ICO": {"sizes": [(32, 24)]},
}  # fmt: skip
LOSES = {"JPEG": 3, "MPO": 3, "AVIF": 6, "GIF": 255}  # GIF: a palette


def facts_of(path: Path, **limit: float) -> Facts:
    return look(path, **limit)[0]


def pixels(path: Path, **how: Any) -> Array:
    return read_image(path, **how).permute(1, 2, 0).numpy()


def png(values: Array, colour: int, chunks: bytes = b"") -> bytes:
    """One of 16 bits, which Pillow does not write in colour: 0 is gray, 2 RGB, 4 gray and alpha, 6 RGB and alpha."""
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunks + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND")
    )


def chunk(name: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def tiff(
    values: Array,
    *,
    photometric: int = 1,
    order: str = "<",
    deflate: bool = False,
    orientation: int = 1,
    more: int = 0,
) -> bytes:
    """A TIFF of one strip, of the numbers that the array has; `more` channels are of nothing that it names."""
    values = values if values.ndim == 3 else values[..., None]
    height, width, channels = values.shape
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    data = zlib.compress(data) if deflate else data
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags = {
        256: [width], 257: [height], 258: [8 * values.itemsize] * channels, 259: [8 if deflate else 1],
        262: [photometric], 273: [0], 274: [orientation], 277: [channels], 278: [height], 279: [len(data)],
        284: [1], 339: [kind] * channels,
    } | ({338: [0] * more} if more else {})  # fmt: skip
    begins = 8 + 2 + 12 * len(tags) + 4
    tags[273] = [begins + sum(2 * len(entry) for entry in tags.values() if len(entry) > 2)]
    entries, beyond = b"", b""
    for tag, entry in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(entry)}H", *entry)
        if len(packed) > 4:
            packed, beyond = struct.pack(f"{order}I", begins + len(beyond)), beyond + packed
        entries += struct.pack(f"{order}HHI", tag, 3, len(entry)) + packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    return head + entries + bytes(4) + beyond + data


def writable() -> Iterator[tuple[str, str]]:
    """Every format that Pillow writes and reads, with each mode of 8 bits or less that it takes."""
    for name in sorted(set(formats()) & set(Image.SAVE) - {"SPIDER"}):  # which takes a suffix from all others
        for mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV"):
            yield name, mode


def test_every_format_that_pillow_writes_is_read_by_its_content(tmp_path: Path) -> None:
    drawn = Image.fromarray(BLOCKS)
    lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    read = set()
    for name, mode in writable():
        image = ImageCms.applyTransform(drawn, lab) if mode == "LAB" else None
        image = image or (drawn.convert("P").convert("PA") if mode == "PA" else drawn.convert(mode))
        path = tmp_path / f"{name}_{mode}.jpg"  # whatever it is
        try:
            image.save(path, name, **EXACT.get(name, {}))
        except Exception:  # no such mode in this format
            continue
        found, expected = pixels(path), np.array(image.convert("RGB"))
        assert is_image(path)
        assert name == "ICNS" or found.shape == expected.shape, path
        if found.shape == expected.shape:
            difference = np.abs(found.astype(int) - expected).max()
            assert difference <= LOSES.get(name, 0), (path, difference)
        read.add(name)
    assert read >= {"PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "ICO", "PPM", "TGA", "PCX", "DDS", "SGI", "QOI"}
    assert read >= {name for name, codec in (("AVIF", "avif"), ("JPEG2000", "jpg_2000")) if features.check(codec)}


@pytest.mark.parametrize("suffix", [".jpg", ".dat", "", ".txt"])
def test_a_name_does_not_matter(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(BLOCKS).save(path, "PNG")
    assert is_image(path)
    np.testing.assert_array_equal(pixels(path), BLOCKS)


TEXTS = [
    b"P6 notes on the second page\n", b"P5 1 2 hello", b"BM, and other words", b"#define LIMIT 1\n",
    b"/* XPM */ of it", b"/* a comment */\nint x;", b"SIMPLE is good", b"\n\x05\x01\x08", b"GIF and PNG", b"",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_no_image_unless_its_name_says_so_and_then_it_is_named(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes(text)
    assert not is_image(tmp_path / "notes.txt")
    (tmp_path / "notes.png").write_bytes(text)
    assert is_image(tmp_path / "notes.png")
    with pytest.raises(DataError, match=r"^(begins as \w+, but is damaged \(.*\)|is no image in a .*|is empty)$"):
        facts_of(tmp_path / "notes.png")


def test_what_is_no_picture_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "circle.png").symlink_to("circle.png")
    (tmp_path / "gone.png").symlink_to("nowhere")
    said = {
        tmp_path / "pipe.png": "is no file, but a folder, a pipe or a device",
        Path("/dev/zero"): "is no file, but a folder, a pipe or a device",
        tmp_path: "is no file, but a folder, a pipe or a device",
        tmp_path / "circle.png": "Too many levels of symbolic links",
        tmp_path / "gone.png": "No such file or directory",
    }
    for path, why in said.items():
        with pytest.raises(DataError) as caught:
            read_image(path)
        assert str(caught.value) == why
    assert [is_image(path) for path in said] == [False, False, False, True, True]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "is EPS, which is not read; save it as PNG"),
        (b"\x89HDF\r\n\x1a\n", "is HDF5, which is not read; save it as PNG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "is HEIC, which needs pip install 'stagetune[heif]'"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "is HEIC, which needs pip install 'stagetune[heif]'"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", "begins as AVIF, but is damaged"),
        (b"\x89PNG\r\n\x1a\n", "begins as PNG, but is damaged (it ends too early)"),
        (tiff(np.zeros((4, 4, 5), np.uint8), photometric=2, more=2), "has 5 channels; at most four are read"),
        (tiff(np.zeros((4, 4, 7), np.uint16), more=6), "has 7 channels; at most four are read"),
        (tiff(np.zeros((4, 4))), "is a TIFF of 1 channel of 64 bits in a layout that Pillow does not read"),
        (tiff(np.array([[0, np.nan]], np.float32)), "has values that are NaN or infinite"),
        (tiff(np.array([[0, -np.inf]], np.float32)), "has values that are NaN or infinite"),
    ],
)
def test_what_is_not_read_is_named(data: bytes, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DataError) as caught:
        read_image(tmp_path / "a.png")
    assert str(caught.value).startswith(why)


def on_paper(values: Array, alpha: Array) -> Array:
    """Of 16 bits: each to 8, then laid on white."""
    opaque = (alpha >> 8)[..., None]
    return (values * 255 // 65535 * opaque + 255 * (255 - opaque) + 127) // 255


GRAY_ALPHA, RGB_ALPHA = RNG.integers(0, 65536, (6, 5, 2)), RNG.integers(0, 65536, (6, 5, 4))
COLOURS = RNG.integers(0, 4096, (6, 5, 3))
EIGHT = TWELVE * 255 // 4095
SEEN_THROUGH = np.where(np.equal(TWELVE, TWELVE[0, 1]), 255, EIGHT)
DEEP = {
    "gray.png": (png(TWELVE, 0), EIGHT),
    "colour.png": (png(COLOURS, 2), COLOURS * 255 // 4095),
    "gray and alpha.png": (png(GRAY_ALPHA, 4), on_paper(GRAY_ALPHA[..., :1].repeat(3, 2), GRAY_ALPHA[..., 1])),
    "colour and alpha.png": (png(RGB_ALPHA, 6), on_paper(RGB_ALPHA[..., :3], RGB_ALPHA[..., 3])),
    "key.png": (png(TWELVE, 0, chunk(b"tRNS", struct.pack(">H", TWELVE[0, 1]))), SEEN_THROUGH),
    "white is zero.tif": (tiff(TWELVE.astype(np.uint16), photometric=0), 255 - EIGHT),
    "turned.tif": (
        tiff(COLOURS.astype(np.uint16), photometric=2, orientation=6),
        np.rot90(COLOURS * 255 // 4095, -1),
    ),
} | {
    f"{name}{order}{deflate}.tif": (tiff(values, order=order, deflate=deflate, photometric=photometric), expected)
    for order in "<>"
    for deflate in (False, True)
    for name, values, photometric, expected in (
        ("gray", TWELVE.astype(np.uint16), 1, EIGHT),
        ("colour", COLOURS.astype(np.uint16), 2, COLOURS * 255 // 4095),
        ("float", (TWELVE / 4095).astype(np.float32), 1, ((TWELVE / 4095).astype(np.float32) * 255.0).astype(int)),
        ("signed", (TWELVE - 1000).astype(np.int16), 1, ((TWELVE - TWELVE.min()) * 255 / np.ptp(TWELVE)).astype(int)),
        ("whole", (TWELVE - 1000).astype(np.int32), 1, ((TWELVE - TWELVE.min()) * 255 / np.ptp(TWELVE)).astype(int)),
    )
}


@pytest.mark.parametrize("name", DEEP)
def test_a_deep_image_loses_no_more_than_eight_bits_can_hold(name: str, tmp_path: Path) -> None:
    data, expected = DEEP[name]
    (tmp_path / name).write_bytes(data)
    found = pixels(tmp_path / name)
    np.testing.assert_array_equal(found, expected if expected.ndim == 3 else expected[..., None].repeat(3, 2))
    facts, of_eight_bits = look(tmp_path / name)
    assert facts.low is not None
    assert of_eight_bits is None


def facts(low: float | None = None, high: float | None = None, mode: str = "I;16", **more: Any) -> Facts:
    return Facts("", "PNG", mode, 1, 1, low, high, **more)


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ([facts(), facts()], None),
        ([facts(), facts(3, 200)], Range(0, 255)),
        ([facts(0, 256), facts(9, 1000)], Range(0, 1023)),
        ([facts(0, 4095), facts(7, 90)], Range(0, 4095)),
        ([facts(0, 4096)], Range(0, 16383)),
        ([facts(0, 20000)], Range(0, 65535)),
        ([facts(5, 70000, "I")], Range(5, 70000)),
        ([facts(-1024, 3071, "I"), facts(0, 90, "I")], Range(-1024, 3071)),
        ([facts(0.25, 0.5, "F")], Range(0, 1)),
        ([facts(0.25, 1.5, "F"), facts(0, 1, "F")], Range(0, 1.5)),
        ([facts(-0.5, 0.5, "F")], Range(-0.5, 0.5)),
    ],
)
def test_the_range_is_that_of_the_data_set(images: list[Facts], expected: Range | None) -> None:
    assert range_of(images) == expected


def test_no_one_range_fits_floats_beside_whole_numbers() -> None:
    with pytest.raises(
        DataError, match=r"1 images have floats, and 2 have whole numbers of more than 8 bits.*data\.range"
    ):
        range_of([facts(0, 1, "F"), facts(0, 9), facts(0, 9), facts()])


def test_what_is_odd_about_images_is_said_once_each() -> None:
    images = [facts(0, 4095), facts(0, 5000), *[facts(is_flat=True)] * 7, facts(frames=3)]
    assert notes_of(images, "{}.png".format, Range(0, 4095)) == [
        "deep images: 0 to 4095 become black to white in 2 images of more than 8 bits",
        "1 image of values beyond that, which are cut off: 1.png",
        "1 image of several frames or pages; the first is taken",
        "7 images of one colour alone: 2.png, 3.png, 4.png, 5.png, 6.png, ...",
    ]
    assert notes_of([facts()], str, None) == []
    floats = [facts(0, 1, "F"), facts(0, 255, "F"), facts(7, 7, "F", is_flat=True)]
    assert notes_of(floats, "{}.tif".format, range_of(floats))[1:] == [
        "1 image of 16 shades or fewer by that range (or say data.range): 0.tif",
        "1 image of one colour alone: 2.tif",
    ]
    one_hot_pixel = [facts(0, 4095), facts(0, 4352), facts(0, 65535)]
    assert notes_of(one_hot_pixel, str, range_of(one_hot_pixel))[1:] == [
        "1 image of 16 shades or fewer by that range (or say data.range): 0"
    ]


def test_the_first_of_several_frames_is_taken_and_of_icons_the_largest(tmp_path: Path) -> None:
    first, other = Image.fromarray(BLOCKS), Image.fromarray(255 - BLOCKS)
    for name, how in (("a.tif", {}), ("a.webp", {"lossless": True}), ("a.png", {}), ("a.mpo", EXACT["MPO"])):
        first.save(tmp_path / name, save_all=True, append_images=[other, first], **how)
        assert facts_of(tmp_path / name).frames == 3, name
        assert np.abs(pixels(tmp_path / name).astype(int) - BLOCKS).max() <= 3, name
    first.resize((64, 64)).save(tmp_path / "a.ico", sizes=[(16, 16), (64, 64), (32, 32)])
    assert pixels(tmp_path / "a.ico").shape == (64, 64, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_exif_says(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(BLOCKS).save(tmp_path / "a.png", exif=exif)
    expected = {
        1: BLOCKS, 2: BLOCKS[:, ::-1], 3: BLOCKS[::-1, ::-1], 4: BLOCKS[::-1], 5: BLOCKS.swapaxes(0, 1),
        6: np.rot90(BLOCKS, -1), 7: np.rot90(BLOCKS, 2).swapaxes(0, 1), 8: np.rot90(BLOCKS),
    }  # fmt: skip
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), expected[orientation])


def test_what_shines_through_is_white_and_what_is_of_one_colour_is_known(tmp_path: Path) -> None:
    drawn = np.zeros((4, 4, 4), np.uint8)
    drawn[:2, :, 3] = 255
    Image.fromarray(drawn).save(tmp_path / "half.png")
    assert pixels(tmp_path / "half.png")[:, 0, 0].tolist() == [0, 0, 255, 255]
    Image.fromarray(drawn * np.uint8([1, 1, 1, 0])).save(tmp_path / "none.png")
    Image.new("I;16", (4, 4), 900).save(tmp_path / "deep.png")
    flat = {path.name: facts_of(path).is_flat for path in tmp_path.iterdir()}
    assert flat == {"half.png": False, "none.png": True, "deep.png": True}


def test_more_pixels_than_allowed_are_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)  # of Pillow's own, which raises from twice as many on
    said = r"has 500 x 300 pixels, 0\.15 million, above data\.max_megapixels=0\.1"
    for name in ("a.png", "a.tif", "a.gif", "a.ppm", "a.jpg", "a.jp2", "a.bmp"):
        Image.new("L", (500, 300)).save(tmp_path / name)
        with pytest.raises(DataError, match=said):
            facts_of(tmp_path / name, max_megapixels=0.1)
        with pytest.raises(DataError, match=rf"a.*: cannot be read as an image \({said}\)"):
            Transform(Preprocessing(32, max_megapixels=0.1))(tmp_path / name)
        assert tuple(read_image(tmp_path / name).shape) == (3, 300, 500)
    assert Image.MAX_IMAGE_PIXELS == 20_000
    assert not recwarn.list


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    """Of 2560 x 1708 pixels, with metadata and noise as a camera's."""
    drawn = Image.fromarray(load_sample_images().images[0]).resize((2560, 1708))
    noisy = np.asarray(drawn).astype(int) + RNG.normal(0, 8, (1708, 2560, 1)).astype(int)
    path, exif = tmp_path / "photograph.jpg", Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "as it was"
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90, exif=exif, comment="first")
    return path


@pytest.mark.slow
def test_a_large_jpeg_is_decoded_at_a_scale_that_hardly_differs_and_is_a_function_of_the_size(
    photograph: Path,
) -> None:
    whole = read_image(photograph)
    for size, shape in ((64, (320, 214)), (224, (1280, 854)), (900, (2560, 1708)), (None, (2560, 1708))):
        reduced = read_image(photograph, needed=size)
        assert tuple(reduced.shape[1:]) == shape, size
        for resize in (
            ("crop", "squash") if size else ()
        ):  # the bars of pad are of the border's median, which may jump
            apart = prepare(whole, size, resize=resize).int() - prepare(reduced, size, resize=resize).int()
            assert apart.abs().float().mean() < 1.5, (size, resize)
        assert torch.equal(look(photograph, needed=size)[1], reduced)
    transform = Transform(Preprocessing(64))
    assert torch.equal(transform(photograph), prepare(read_image(photograph, needed=64), 64))


@pytest.mark.slow
def test_a_large_jpeg_is_known_by_its_picture_not_by_its_metadata_nor_by_what_is_needed(photograph: Path) -> None:
    facts = facts_of(photograph)
    assert {look(photograph, needed=size)[0] for size in (16, 224, 2000, None)} == {facts}
    data = photograph.read_bytes()
    other = photograph.with_name("other.jpg")
    other.write_bytes(data.replace(b"as it was", b"edited !!").replace(b"first", b"again"))
    assert facts_of(other) == facts
    place = len(data) // 2
    other.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
    assert facts_of(other).content != facts.content
    turned, entry = photograph.with_name("turned.jpg"), b"\x01\x12\x00\x03\x00\x00\x00\x01\x00"
    assert data.count(entry + b"\6") == 1
    turned.write_bytes(data.replace(entry + b"\6", entry + b"\1"))
    assert facts_of(turned).content != facts.content
    other.write_bytes(data[:place])
    with pytest.raises(DataError, match="image file is truncated"):
        facts_of(other)


def test_small_jpegs_and_all_else_are_known_by_their_pixels(tmp_path: Path) -> None:
    Image.fromarray(BLOCKS).save(tmp_path / "a.jpg")
    Image.fromarray(pixels(tmp_path / "a.jpg")).save(tmp_path / "a.png")
    assert facts_of(tmp_path / "a.jpg").content == facts_of(tmp_path / "a.png").content
    (tmp_path / "deep.png").write_bytes(png(TWELVE, 0))
    (tmp_path / "deep.tif").write_bytes(tiff(TWELVE.astype(np.int32), order=">", deflate=True))
    assert facts_of(tmp_path / "deep.png").content == facts_of(tmp_path / "deep.tif").content


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_any_damage_ends_as_one_short_line(tmp_path: Path) -> None:
    seeds = []
    for name in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "ICO", "PPM", "TGA", "PCX", "SGI", "QOI", "DDS"):
        buffer = io.BytesIO()
        Image.fromarray(BLOCKS).save(buffer, name)
        seeds.append(buffer.getvalue())
    seeds += [png(COLOURS, 2), png(GRAY_ALPHA, 4), tiff(COLOURS.astype(np.uint16), photometric=2, deflate=True)]
    path, rng, said = tmp_path / "a.png", np.random.default_rng(1), []
    for seed in seeds:
        for _ in range(12):
            data = bytearray(seed[: rng.integers(1, len(seed) + 1)])
            for place in rng.integers(0, min(len(data), 200), 4):
                data[place] = rng.integers(256)
            path.write_bytes(data)
            try:
                facts_of(path, max_megapixels=1)
            except DataError as error:
                said.append(str(error))
    assert len(said) > 50
    assert all(len(line) <= 200 and line.isprintable() for line in said)


def folder_of(tmp_path: Path, top: int) -> Path:
    """Two classes of eight pictures of 16 bits each, whose largest value is `top`, one of them of 8 bits."""
    rng = np.random.default_rng(2)
    for i in range(16):
        path = tmp_path / "images" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        values = rng.integers(0, top // (1 + i % 2), (40, 48)).astype(np.uint16)
        values[0, 0] = top if i < 2 else 0
        Image.fromarray(values if i != 5 else (values >> 4).astype(np.uint8)).save(path)
    return tmp_path / "images"


def test_the_range_is_part_of_the_key_of_a_table_and_of_a_models() -> None:
    assert images_key(["a"], 16, scale="0 to 4095") != images_key(["a"], 16, scale="0 to 65535")
    assert Preprocessing(range=[0, 4095]).key() != Preprocessing(range=None).key()
    old = '{"image_size": 224, "interpolation": "bilinear", "resize": "crop", "wrappers": {}}'
    assert Preprocessing(range=SIXTEEN_BITS).key() == old  # galleries of models from before are still theirs


def test_models_from_before_scale_as_they_were_trained(tmp_path: Path) -> None:
    stored: dict[str, Any] = {}
    CheckpointMetadata({"name": "x"}, ["a", "b"]).put_into(stored)
    del stored["stagetune"]["range"]
    assert CheckpointMetadata.of(stored).range == SIXTEEN_BITS
    described = Description(
        task="classifier", classes=["a", "b"], preprocessing=Preprocessing(16, range=[0.0, 4095.0])
    )
    text = described.to_json()
    assert Description.from_json(text).preprocessing.range == [0, 4095]
    before = text.replace(', "range": [0.0, 4095.0], "max_megapixels": 200.0', "")
    assert Description.from_json(before).preprocessing.range == SIXTEEN_BITS
    values = RNG.integers(0, 65536, (16, 16)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    found = Transform(Description.from_json(before).preprocessing)(tmp_path / "a.png")
    np.testing.assert_array_equal(found[0], values // 257)
    for wrong in ([1, 0], [0], ["a", 1], [0, float("inf")]):
        with pytest.raises(WeightsError, match=r"preprocessing\.range=.*: expects two rising numbers"):
            Transform(Preprocessing(range=wrong))


def test_arrays_and_pictures_in_memory_are_scaled_as_files_are(tmp_path: Path) -> None:
    values = RNG.integers(0, 4096, (16, 16)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    transform = Transform(Preprocessing(16, range=[0, 4095]))
    expected = transform(tmp_path / "a.png")
    colours = np.stack([values] * 3, axis=2)
    forms = (Image.open(tmp_path / "a.png"), values, colours, torch.from_numpy(colours).permute(2, 0, 1))
    for one in (*forms, values.astype(np.int32), values.astype(np.float32)):
        assert torch.equal(transform(one), expected)
    assert transform(np.full((16, 16), 9000, np.uint16)).min() == 255  # beyond the range
    unsaid = Transform(Preprocessing(16))
    assert torch.equal(unsaid(values), expected)  # by its own bits
    with pytest.raises(DataError, match=r"shape \[16, 16\] and float32: is no image"):
        unsaid(values.astype(np.float32))


def test_the_range_can_be_said(tmp_path: Path, tiny: Callable[..., Config]) -> None:
    where = ("+experiment=classifier_staged", "data=image_folder", f"data.root={folder_of(tmp_path, 4095)}")
    assert build_data(tiny(*where)).scale == Range(0, 4095)
    data = build_data(tiny(*where, "data.range=[100,2000]"))
    assert data.scale == Range(100, 2000)
    assert [note for note in data.source.notes if "100 to 2000 become black to white in 15 images" in note]
    assert [note for note in data.source.notes if note.startswith("15 images of values beyond that")]
    for wrong in ("[5]", "[5,5]", "[5,4]", "[0,inf]"):
        with pytest.raises(ConfigError, match=r"data\.range=.*: expects two rising numbers"):
            tiny(*where, f"data.range={wrong}")


@pytest.mark.slow
@pytest.mark.usefixtures("_no_pictures")
def test_training_and_use_see_equal_pixels_of_twelve_bits(tmp_path: Path, tiny: Callable[..., Config]) -> None:
    root = folder_of(tmp_path, 4095)
    config = tiny(
        "+experiment=classifier_staged", "data=image_folder", f"data.root={root}", "data.batch_size=4", stages=1
    )
    result = run_experiment(config, tmp_path / "run")
    assert "deep images: 0 to 4095 become black to white in 15 images of more than 8 bits" in result.data["notes"]
    data = build_data(config)
    model = stagetune.load(tmp_path / "run")
    for part in data.parts.values():
        for place, index in enumerate(part.indices.tolist()):
            assert torch.equal(model.transform(data.source.describe(index)), data.parts["plain"].prepared(index)), (
                place
            )
    assert data.source.image(0).max() == 255
    content = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    assert content["stagetune"]["range"] == [0, 4095]
    # a run that goes on, or an export, scales as the checkpoint says, whatever lies there today
    trained = replace(CheckpointMetadata.of(content), range=[0.0, 1000.0])
    assert build_data(config, trained=trained).scale == Range(0, 1000)


def test_a_damaged_drawing_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no drawing")
    with pytest.raises(DataError, match=r"a\.png: cannot be read as a drawing"):
        on_white(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    with pytest.raises(DataError, match=r"b\.png: is no file"):
        on_white(tmp_path / "b.png")
    drawn = np.zeros((8, 8, 4), np.uint8)
    drawn[2:4, 2:4, 3] = 255  # ink on nothing
    Image.fromarray(drawn).save(tmp_path / "c.png")
    assert (on_white(tmp_path / "c.png") == 0).sum() == 4
