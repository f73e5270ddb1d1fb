"""The rendered letters: who is an identity, and that an image is a pure function of seed and index."""

import pickle
import subprocess
import sys
import unicodedata
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from stagetune.data import glyphs
from stagetune.data.glyphs import Glyphs
from stagetune.data.source import Source
from stagetune.errors import DataError


@pytest.fixture(scope="module")
def source() -> Glyphs:
    return Glyphs()


def characters(source: Glyphs) -> list[str]:
    """The character of each class, read from its name."""
    return [
        chr(int(name.removeprefix(f"{group}-").split("-")[0], 16))
        for name, group in zip(source.classes, source.groups or [], strict=True)
    ]


def checksum(image: Tensor) -> int:
    return hash(image.numpy().tobytes())


def test_enough_identities_in_enough_scripts(source: Source) -> None:
    assert source.groups is not None
    per_script = Counter(source.groups)
    assert sum(per_script.values()) == len(source.classes) == len(set(source.classes)) >= 300
    assert sum(n >= 25 for script, n in per_script.items() if script != "latin") >= 3


def test_each_identity_has_its_share_of_the_images(source: Source) -> None:
    assert len(source) == len(source.labels) == 12 * len(source.classes)
    assert source.labels.dtype == np.int64
    assert (np.bincount(source.labels) == 12).all()
    assert len(set(source.contents)) == len(source)


def test_images_are_uint8_rgb_of_the_asked_size_with_light_ink_on_dark() -> None:
    image = Glyphs(image_size=40, scripts=["greek"]).image(5)
    assert image.dtype == torch.uint8
    assert image.shape == (3, 40, 40)
    assert torch.equal(image[0], image[1])
    assert torch.equal(image[0], image[2])
    assert image[0, 0, 0] == image.min() < 50
    assert image.max() > 120
    assert image.float().mean() < 128


def test_every_image_shows_ink_inside_its_frame(source: Glyphs) -> None:
    for index in range(0, len(source), 7):
        grey = source.image(index)[0].int()
        ink = grey > (grey.min() + grey.max()) // 2
        border = ink.clone()
        border[1:-1, 1:-1] = False
        assert ink.sum() > 15, source.describe(index)
        assert border.sum() <= 3, source.describe(index)


def test_each_identity_is_drawn_in_several_fonts(source: Glyphs) -> None:
    for label in range(len(source.classes)):
        fonts = {source.describe(index).split(" in ")[1] for index in range(12 * label, 12 * label + 12)}
        assert len(fonts) >= 3


def test_names_are_safe_as_file_names(source: Source) -> None:
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEF0123456789-") for name in source.classes)


def test_only_letters_no_digits(source: Glyphs) -> None:
    assert all(unicodedata.category(character).startswith("L") for character in characters(source))


def test_look_alikes_are_one_identity(source: Glyphs) -> None:
    shown = characters(source)
    for alike in ("AΑА", "BΒВ", "OoΟοОоօ", "cCсС", "iIlіΙ", "ПΠп", "Жж", "PΡР"):
        assert [character for character in shown if character in alike] == [min(alike)]


def test_distinct_letters_stay_distinct(source: Glyphs) -> None:
    assert set("ABCDEFGHIJKLMNOPQRSTUVWXYZabdegqΓΔΞΨΩЖЯЮ") <= set(characters(source))


def test_no_font_draws_a_letter_as_blank_or_as_its_missing_box(source: Glyphs) -> None:
    boxes = {font: glyphs._ink("\U0010fffe", font, 32).tobytes() for font in glyphs._FONTS}
    assert glyphs._ink("א", "DejaVuSerif", 32).tobytes() == boxes["DejaVuSerif"]  # it has no Hebrew
    for letter in glyphs._repertoire():
        for font in letter.fonts:
            drawn = glyphs._ink(chr(letter.code), font, 32)
            assert drawn.getbbox() is not None, (letter, font)
            assert drawn.tobytes() != boxes[font], (letter, font)


def test_a_letter_that_few_fonts_have_is_no_identity(source: Glyphs) -> None:
    assert "\U0001d504" not in characters(source)  # Fraktur A, which only STIX has
    assert all(len(letter.fonts) >= 3 for letter in glyphs._repertoire())


def test_images_do_not_depend_on_the_order_of_calls() -> None:
    indices = [7, 100, 0, 331]
    first, second = Glyphs(scripts=["greek"]), Glyphs(scripts=["greek"])
    forward = {i: first.image(i) for i in indices}
    backward = {i: second.image(i) for i in reversed(indices)}
    assert all(torch.equal(forward[i], backward[i]) for i in indices)


@pytest.mark.slow
def test_a_new_process_draws_the_same_images() -> None:
    source = Glyphs(scripts=["armenian"], seed=3)
    program = (
        "import sys, hashlib; from stagetune.data.glyphs import Glyphs\n"
        "source = Glyphs(scripts=['armenian'], seed=3)\n"
        "print(source.contents[17], source.image(17).sum().item(), bytes(source.image(40)[0, 30]).hex())"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    here = f"{source.contents[17]} {source.image(17).sum().item()} {bytes(source.image(40)[0, 30]).hex()}"
    assert printed.stdout.strip() == here


def test_a_pickled_source_draws_the_same_images() -> None:
    source = Glyphs(scripts=["greek"])
    before = source.image(3)
    assert torch.equal(pickle.loads(pickle.dumps(source)).image(3), before)


def test_each_image_of_an_identity_and_each_seed_is_another_picture() -> None:
    one, other = Glyphs(scripts=["greek"]), Glyphs(scripts=["greek"], seed=1)
    pictures = {checksum(source.image(index)) for source in (one, other) for index in range(120)}
    assert len(pictures) == 240
    assert one.classes == other.classes


def test_the_content_keys_follow_everything_that_decides_the_pixels() -> None:
    options = [
        {},
        {"seed": 1},
        {"image_size": 32},
    ]
    greek = [Glyphs(scripts=["greek"], **option).contents for option in options]  # type: ignore[arg-type]
    assert len({key for keys in greek for key in keys}) == sum(map(len, greek))
    assert set(greek[0]) < set(Glyphs().contents)


def test_fewer_scripts_give_the_same_identities_and_images_as_filtering_all_of_them(source: Glyphs) -> None:
    assert source.groups is not None
    subset = Glyphs(scripts=["georgian", "greek"])
    kept = [label for label, group in enumerate(source.groups) if group in ("georgian", "greek")]
    assert subset.classes == [source.classes[label] for label in kept]
    for label in range(0, len(kept), 9):
        assert torch.equal(subset.image(12 * label + 5), source.image(12 * kept[label] + 5))


def test_an_unknown_script_is_named_with_the_nearest_or_the_valid_ones() -> None:
    with pytest.raises(DataError) as caught:
        Glyphs(scripts=["greek", "cyrilic"])
    assert str(caught.value) == "data.groups: no script named cyrilic; did you mean cyrillic?"
    with pytest.raises(DataError, match=r"no script named zzz; valid: arabic, armenian, canadian, coptic"):
        Glyphs(scripts=["zzz"])


def test_an_image_is_described_by_its_code_point_and_font(source: Glyphs) -> None:
    assert source.describe(0) == "U+0041 in DejaVuSans"
