"""Images become what the model sees; splits leak nothing; the order of images is a pure function."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stagetune.config.settings import DataSettings
from stagetune.data.augmentation import KINDS, Augmentation
from stagetune.data.datamodule import StagedData
from stagetune.data.samplers import balanced_batches, batch_shape, grouped_batches, identity_batches, shuffled_batches
from stagetune.data.sources.digits import Digits
from stagetune.data.sources.image_folder import image_folder
from stagetune.data.splits import check_pairs, check_split, make_split
from stagetune.data.transforms import prepare
from stagetune.data.views import views_of
from stagetune.data.wrappers.centred import Centred, centred
from stagetune.data.wrappers.spliced import Spliced, splice
from stagetune.data.wrappers.turned import turned
from stagetune.errors import DataError

SHARES = {"val": 0.2, "test": 0.2, "seed": 0}


def test_prepare_gives_a_square_that_is_the_centre_or_all_of_the_image_padded_or_squashed() -> None:
    """Exact by nearest pixels, on 2 x 4 of them to 4 x 4 and the like; paper is 9."""
    image = torch.tensor([[9, 9, 9, 9], [9, 5, 6, 9]], dtype=torch.uint8).expand(3, 2, 4)
    nothing = [9, 9, 9, 9]
    expected = {
        "crop": [[9, 9, 9, 9], [9, 9, 9, 9], [5, 5, 6, 6], [5, 5, 6, 6]],
        "pad": [nothing, [9, 9, 9, 9], [9, 5, 6, 9], nothing],
        "squash": [[9, 9, 9, 9], [9, 9, 9, 9], [9, 5, 6, 9], [9, 5, 6, 9]],
    }
    for resize, pixels in expected.items():
        square = prepare(image, 4, "nearest", resize)
        assert square.dtype == torch.uint8
        assert square.tolist() == [pixels] * 3, resize
    assert torch.equal(prepare(image.mT, 4, "nearest", "pad").mT, prepare(image, 4, "nearest", "pad"))
    assert prepare(torch.full((3, 1, 900), 7, dtype=torch.uint8), 16, resize="pad").unique().tolist() == [7]


@given(views=st.integers(1, 5), seed=st.integers(0, 2**32 - 1))
def test_an_image_goes_through_all_its_views_in_so_many_epochs(views: int, seed: int) -> None:
    images = np.array([3, 1, 4, 59])
    seen = np.array([views_of([epoch] * 4, images, seed=seed, views=views) for epoch in range(3 * views)])
    for turn in seen.reshape(3, views, 4):
        assert (np.sort(turn, axis=0) == np.arange(views)[:, None]).all()
    backwards = [views_of([epoch] * 4, images[::-1], seed=seed, views=views) for epoch in range(3 * views)]
    assert (np.array(backwards)[:, ::-1] == seen).all()


def test_the_orders_of_views_are_all_as_likely_and_without_views_each_visit_has_its_own() -> None:
    images = np.arange(6000)
    turns = np.array([views_of(np.full(6000, epoch), images, seed=0, views=3) for epoch in range(3)]).T
    _, counts = np.unique(turns, axis=0, return_counts=True)
    assert len(counts) == 6
    assert counts.min() > 900
    fresh = {
        view
        for seed in (0, 1)
        for epoch in range(3)
        for view in views_of(np.full(6000, epoch), images, seed=seed, views=0).tolist()
    }
    assert len(fresh) == 2 * 3 * 6000


@pytest.mark.parametrize("kind", [*KINDS, "none"])
def test_a_view_depends_on_data_seed_image_and_view_alone(kind: str) -> None:
    image = prepare(Digits().image(0), 32)
    kept, erasing = image.clone(), 1.0 if kind == "none" else 0.5
    seeded = [Augmentation(kind, erasing=erasing, colour=(255, 0, 9), seed=seed) for seed in (0, 1)]
    state = torch.get_rng_state()
    drawn = [(0, 1, 2), (1, 1, 2), (0, 2, 2), (0, 1, 3), (0, 2, 1)]
    views = [seeded[seed](image, index, view) for seed, index, view in drawn]
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    assert torch.equal(seeded[0](image, 1, 2), views[0])
    assert torch.equal(image, kept)
    assert {(view.dtype, view.shape) for view in views} == {(torch.uint8, image.shape)}
    assert len({view.numpy().tobytes() for view in views}) >= 4  # some may have turned out as no change at all


def test_what_is_erased_has_the_colour_that_is_asked_for() -> None:
    image = prepare(Digits().image(0), 32)
    erased = Augmentation(erasing=1.0, colour=(124, 116, 104))(image, 0, 0)
    changed = (erased != image).any(dim=0)
    assert 0.01 < changed.float().mean() < 0.4
    assert erased[:, changed].unique(dim=1).flatten().tolist() == [124, 116, 104]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_paper_comes_in_at_the_borders(kind: str) -> None:
    """A sheet of one colour stays one, whatever is done to it; every choice is one of ours."""
    assert kind in next(f for f in fields(DataSettings) if f.name == "augment").metadata["choices"]
    paper = torch.tensor([250, 240, 200], dtype=torch.uint8).view(3, 1, 1).expand(3, 24, 24)
    for view in range(12):
        changed = Augmentation(kind)(paper, 0, view)
        assert (changed.float() - changed[:, :1, :1].float()).abs().max() <= 1  # affine rounds


def test_affine_turns_in_paper_where_the_paper_is_white() -> None:
    paper = torch.full((3, 32, 32), 255, dtype=torch.uint8)
    paper[:, 12:20, 12:20] = 0
    for view in range(5):
        turned = Augmentation("affine")(paper, 0, view)
        assert turned[:, [0, 0, -1, -1], [0, -1, 0, -1]].min() > 250


@given(count=st.integers(2, 90), batch_size=st.integers(2, 20), epoch=st.integers(0, 3))
def test_an_epoch_holds_every_image_once(count: int, batch_size: int, epoch: int) -> None:
    batches = shuffled_batches(count, batch_size, seed=5, epoch=epoch)
    assert sorted(position for batch in batches for position in batch) == list(range(count))
    assert all(len(batch) > 1 for batch in batches)
    assert batches == shuffled_batches(count, batch_size, seed=5, epoch=epoch)


@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=5),
    batch_size=st.integers(2, 8),
    processes=st.integers(1, 3),
)
def test_balanced_batches_take_the_images_of_each_class_in_turn(
    sizes: list[int], batch_size: int, processes: int
) -> None:
    """As a plain loop counts them, over epochs; the processes' parts are the whole."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    share, came = max(1, round(sum(sizes) / len(sizes))), np.zeros(len(labels), dtype=int)
    for epoch in range(5):
        ranks = [
            balanced_batches(labels, batch_size, seed=2, epoch=epoch, rank=rank, world_size=processes)
            for rank in range(processes)
        ]
        visits = [visit for batches in ranks for batch in batches for visit in batch]
        assert np.bincount(labels[[position for _, position in visits]]).tolist() == [share] * len(sizes)
        for visit, position in sorted(visits):
            assert visit == came[position]
            came[position] += 1
        for label in range(len(sizes)):
            assert np.ptp(came[labels == label]) <= 1
    (alone,) = balanced_batches(labels, 99, seed=2, epoch=4)
    assert sorted(alone) == sorted(visits)


@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=12),
    identities=st.integers(2, 6),
    images=st.integers(2, 4),
    epoch=st.integers(0, 3),
)
def test_identity_batches_hold_p_identities_and_up_to_k_images(
    sizes: list[int], identities: int, images: int, epoch: int
) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    batches = identity_batches(labels, identities, images, seed=1, epoch=epoch)
    for batch in batches:
        found, counts = np.unique(labels[batch], return_counts=True)
        assert len(found) == min(identities, len(sizes))
        assert len(set(batch)) == len(batch)
        assert all(count <= images for count in counts)
        assert all(count == images for label, count in zip(found, counts, strict=True) if sizes[label] >= images)
    assert {position for batch in batches for position in batch} == set(range(len(labels)))
    assert len(batches) == len(identity_batches(labels, identities, images, seed=1, epoch=epoch + 1))


def test_a_batch_is_filled_with_what_identities_there_are() -> None:
    assert batch_shape(identities=10, batch_size=64, images_per_identity=4) == (10, 6)
    assert batch_shape(identities=300, batch_size=64, images_per_identity=4) == (16, 4)


def test_the_digits_are_split_by_class_and_without_leak() -> None:
    source = Digits()
    split = make_split(source, by="images", **SHARES)
    assert {part: len(indices) for part, indices in split.parts().items()} == {"train": 1079, "val": 359, "test": 359}
    assert sorted(np.concatenate(list(split.parts().values()))) == list(range(1797))
    for indices in split.parts().values():
        share = np.bincount(source.labels[indices]) / np.bincount(source.labels)
        assert np.ptp(share) < 0.01


def test_identities_split_shares_no_identity() -> None:
    source = Digits()
    split = make_split(source, by="identities", **SHARES)
    found = [set(source.labels[indices].tolist()) for indices in split.parts().values()]
    assert [len(identities) for identities in found] == [6, 2, 2]
    assert set.union(*found) == set(range(10))


def test_groups_are_held_out_for_the_test_alone_and_validation_is_drawn_from_the_others(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for group in "abc":
        for identity in range(5):
            (tmp_path / group / str(identity)).mkdir(parents=True)
            for i in range(2):
                pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / group / str(identity) / f"{i}.png")
    source = image_folder(tmp_path, depth="2")
    split = make_split(source, by="identities", val=0.2, test=0.2, seed=0, test_groups=["b"])
    names = {part: {source.classes[source.labels[i]] for i in indices} for part, indices in split.parts().items()}
    assert {name[0] for name in names["test"]} == {"b"}
    assert len(names["test"]) == 5
    assert len(names["val"]) == 2
    assert len(names["train"]) == 8
    assert {name[0] for name in names["val"] | names["train"]} == {"a", "c"}
    with pytest.raises(DataError, match=r"b stands in data.val_groups and in data.test_groups; leave it in one"):
        make_split(source, by="identities", val=0.2, test=0.2, seed=0, val_groups=["a", "b"], test_groups=["b"])


def test_turned_images_are_identities_of_their_own_and_only_of_training() -> None:
    source = Digits()
    split = make_split(source, by="identities", **SHARES)
    more, larger = turned(source, split)
    n, trained = len(source), set(source.labels[split.train].tolist())
    assert (len(more), len(larger.train)) == (4 * n, 4 * len(split.train))
    np.testing.assert_array_equal(larger.val, split.val)
    np.testing.assert_array_equal(larger.test, split.test)
    names = {more.classes[label] for label in more.labels[larger.train].tolist()}
    assert names == {
        f"{digit}{by}" for digit in trained for by in ("", " turned 90°", " turned 180°", " turned 270°")
    }
    i = int(split.train[0])
    once, twice = more.image(i + n), more.image(i + 2 * n)
    torch.testing.assert_close(once[:, 0], more.image(i)[:, :, -1])  # the right edge has come to the top
    torch.testing.assert_close(twice, more.image(i).flip(1, 2))
    assert more.describe(i + n) == f"{source.describe(i)} turned 90°"
    check_split(more, larger, "identities")


@pytest.mark.parametrize(("paper", "ink"), [(255, 0), (0, 200), (230, 60)])
def test_a_centred_image_has_its_ink_in_the_middle_and_none_is_lost(paper: int, ink: int) -> None:
    image = torch.full((3, 40, 31), paper, dtype=torch.uint8)
    image[:, 25:38, 3:10] = ink
    image[:, 36:38, 3:20] = ink
    moved = centred(image)
    rows, columns = torch.nonzero(moved[0] == ink, as_tuple=True)
    assert abs(rows.double().mean() - 39 / 2) <= 0.5
    assert abs(columns.double().mean() - 30 / 2) <= 0.5
    assert torch.equal(moved.flatten(1).sort().values, image.flatten(1).sort().values)
    assert torch.equal(centred(moved), moved)
    assert torch.equal(centred(image.roll((-20, 9), (1, 2))), moved)


def test_paper_alone_cannot_be_centred_and_stays() -> None:
    sheet = torch.full((3, 9, 9), 200, dtype=torch.uint8)
    assert torch.equal(centred(sheet), sheet)


def test_centred_images_are_others_to_the_cache_and_the_same_to_a_person() -> None:
    source = Digits()
    moved = Centred(source)
    assert torch.equal(moved.image(7), centred(source.image(7)))
    assert not set(moved.contents) & set(source.contents)
    assert len(set(moved.contents)) == len(set(source.contents))
    assert moved.describe(7) == source.describe(7)


def test_spliced_drawings_have_the_left_of_one_class_and_the_right_of_another() -> None:
    source = Centred(Digits())
    split = make_split(source, by="identities", **SHARES)
    more, larger = splice(source, split, partners=2, seed=0)
    n, train = len(source), set(split.train.tolist())
    trained = {source.classes[label] for label in source.labels[split.train].tolist()}
    assert len(more) - n == len(train) == len(larger.train) - len(train)
    np.testing.assert_array_equal(larger.val, split.val)
    np.testing.assert_array_equal(larger.test, split.test)
    pairs = [name.split(" x ") for name in more.classes[len(source.classes) :]]
    for digit in trained:  # each has two others on its right, and is on the right of two others
        assert len({right for left, right in pairs if left == digit} - {digit}) == 2
        assert len({left for left, right in pairs if right == digit} - {digit}) == 2
    for i in range(n, len(more), 97):
        left, right = map(source.contents.index, more.contents[i].split(" x "))
        halves = torch.cat([source.image(left)[..., :4], source.image(right)[..., 4:]], dim=2)
        assert torch.equal(more.image(i), centred(halves))
        first, second = (source.classes[source.labels[image]] for image in (left, right))
        assert more.classes[more.labels[i]] == f"{first} x {second}"
        assert more.describe(i) == f"{source.describe(left)} x {source.describe(right)}"
        assert {left, right} <= train
    check_split(more, larger, "identities")
    again, _ = splice(source, split, partners=2, seed=0)
    assert again.contents == more.contents
    assert splice(source, split, partners=2, seed=1)[0].contents != more.contents


def test_the_halves_of_images_of_two_sizes_fit_together(tmp_path: Path) -> None:
    for name, size in (("a", (12, 8)), ("b", (20, 30))):
        (tmp_path / name).mkdir()
        Image.new("L", size, 255).save(tmp_path / name / "1.png")
    more = Spliced(image_folder(tmp_path), np.array([0, 1]), np.array([1, 0]))
    assert [tuple(more.image(i).shape) for i in (2, 3)] == [(3, 8, 12), (3, 30, 20)]


def test_a_class_can_only_be_spliced_with_others() -> None:
    source = Digits()
    split = make_split(source, by="identities", **SHARES)
    with pytest.raises(DataError, match=r"data.spliced=9: there are 6 identities to train on; take at most 5"):
        splice(source, split, partners=9, seed=0)


def test_a_folder_of_classes_is_read_and_split(folder: Path) -> None:
    (folder / "red" / "notes.txt").write_text("not an image")
    source = image_folder(folder)
    assert (len(source), source.classes, source.split) == (30, ["blue", "green", "red"], None)
    split = make_split(source, by="images", **SHARES)
    assert {part: len(indices) for part, indices in split.parts().items()} == {"train": 18, "val": 6, "test": 6}


def test_a_folder_with_its_own_split_keeps_it(folder: Path) -> None:
    for part, picked in (("train", "0123456"), ("val", "78"), ("test", "9")):
        for name in ("red", "green"):
            (folder / part / name).mkdir(parents=True)
            for i in picked:
                (folder / name / f"{i}.png").rename(folder / part / name / f"{i}.png")
    split = make_split(image_folder(folder), by="images", **SHARES)
    assert {part: len(indices) for part, indices in split.parts().items()} == {"train": 14, "val": 4, "test": 2}


def test_copies_of_a_picture_stay_in_one_part(folder: Path) -> None:
    for i in range(5):
        Image.open(folder / "red" / f"{i}.png").save(folder / "red" / f"copy{i}.png", compress_level=0)
    source = image_folder(folder)
    split = make_split(source, by="images", **SHARES)
    parts = [{source.contents[i] for i in indices} for indices in split.parts().values()]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]


def test_the_same_picture_under_two_labels_is_a_leak_and_an_error(folder: Path) -> None:
    for i in range(10):
        Image.open(folder / "red" / f"{i}.png").save(folder / "green" / f"{i}.png")
    with pytest.raises(
        DataError, match=r"the same picture stands in (train|val) and in (val|test): .*png and .*png; remove"
    ):
        make_split(image_folder(folder), by="images", **SHARES)


def test_a_class_called_train_is_a_class(folder: Path) -> None:
    (folder / "red").rename(folder / "train")
    source = image_folder(folder)
    assert (source.split, source.classes) == (None, ["blue", "green", "train"])


def test_images_deeper_than_a_class_folder_are_said_not_to_be_used(folder: Path) -> None:
    (folder / "red" / "old").mkdir()
    (folder / "red" / "0.png").rename(folder / "red" / "old" / "0.png")
    source = image_folder(folder)
    assert len(source) == 29
    assert source.notes == ["images below a class folder are not used (1): red/old/0.png"]


def test_class_folders_may_be_links(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    for color in ("blue", "green", "red"):
        (tmp_path / "links" / color).symlink_to(folder / color)
    source = image_folder(tmp_path / "links")
    assert (len(source), source.notes) == (30, [])


def test_a_part_without_two_images_of_one_identity_cannot_be_verified(folder: Path) -> None:
    source = image_folder(folder)
    split = make_split(source, by="images", val=0.1, test=0.2, seed=0)
    with pytest.raises(
        DataError, match=r"the val split has no two images of one identity \(3 images of 3 identities\)"
    ):
        check_pairs(source, split)


def test_an_empty_root_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no images; expected root/<class>/\*\.png or root/\{train,val,test\}"):
        image_folder(tmp_path)
    with pytest.raises(DataError, match=r"no such folder; give one that holds a folder of images per class"):
        image_folder(tmp_path / "gone")


def test_unreadable_images_are_named_or_skipped_and_listed(folder: Path) -> None:
    torn = folder / "red" / "3.png"
    torn.write_bytes(torn.read_bytes()[:200])
    with pytest.raises(DataError) as caught:
        image_folder(folder)
    assert str(caught.value).startswith(f"1 of 30 images cannot be read: {torn} (")
    assert str(caught.value).endswith("; mend or remove them, or leave them out with data.on_error=skip")
    source = image_folder(folder, on_error="skip")
    assert len(source) == 29
    assert source.notes[0].startswith(f"left out, 1 of 30 images cannot be read: {torn} (")


def test_a_split_of_one_class_is_refused(folder: Path) -> None:
    for name in ("green", "blue"):
        for path in (folder / name).glob("*.png"):
            path.unlink()
    with pytest.raises(
        DataError, match=r"the train split has fewer than 2 classes \(red\); give more images or classes"
    ):
        make_split(image_folder(folder), by="images", **SHARES)


def test_identities_of_a_given_split_must_differ_where_it_says_so(folder: Path) -> None:
    source = image_folder(folder)
    source.split = ["train", "val", "test"] * 10
    with pytest.raises(DataError, match=r"data\.split=identities, but blue, green, red of val are in train too"):
        make_split(source, by="identities", **SHARES)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_for_any_number_of_workers(workers: int) -> None:
    source = Digits()
    split = make_split(source, by="images", **SHARES)
    augmentation = Augmentation("randaugment", erasing=0.5, seed=3)
    data = StagedData(source, split, image_size=16, batch_size=300, augmentation=augmentation, num_workers=workers)
    loader = data.train_dataloader()
    loader.sampler.set_epoch(3)
    batch = next(iter(loader))
    positions = data.train_batches(3)[0]
    assert batch.index.tolist() == split.train[positions].tolist()
    assert batch.depth == 0
    assert batch.target.tolist() == source.labels[batch.index].tolist()
    index = int(batch.index[7])
    (view,) = views_of([3], np.array([index]), seed=0, views=0)
    assert torch.equal(batch.inputs[7], augmentation(prepare(source.image(index), 16), index, int(view)))
    assert batch.inputs.is_contiguous(memory_format=torch.channels_last)


def test_a_file_that_changed_between_two_runs_is_read_again(folder: Path) -> None:
    before = image_folder(folder).contents
    Image.new("RGB", (24, 20), "white").save(sorted(folder.rglob("*.png"))[0])
    after = image_folder(folder).contents
    assert [a != b for a, b in zip(before, after, strict=True)].count(True) == 1


@given(st.integers(2, 4), st.integers(2, 3), st.integers(1, 2), st.integers(0, 3))
def test_a_batch_by_group_has_identities_of_one_group_alone(
    identities: int, images: int, processes: int, epoch: int
) -> None:
    labels = np.repeat(np.arange(30), 4)
    groups = labels // 10
    seen: set[int] = set()
    for rank in range(processes):
        ranks = {"rank": rank, "world_size": processes}
        found = grouped_batches(labels, groups, identities, images, seed=0, epoch=epoch, **ranks)
        assert found == grouped_batches(labels, groups, identities, images, seed=0, epoch=epoch, **ranks)
        for batch in found:
            assert len(set(groups[batch])) == 1
            assert len(set(labels[batch])) == identities
        seen |= {position for batch in found for position in batch}
    assert seen == set(range(120))
