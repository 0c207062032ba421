"""What batches of images and of speech have in common: the same for every method."""

import hashlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from gim_bench import seeding
from gim_bench.contract import Batch, Images, Recordings, label_frames
from gim_bench.datasets.batches import Batches, resident, shared
from gim_bench.datasets.images.crops import ImageBatches
from gim_bench.datasets.speech.windows import WindowBatches
from gim_bench.settings.augmentations import CropSettings, WindowSettings

CPU = torch.device("cpu")
ITEMS = 12
Build = Callable[..., Batches]


def photographs() -> Images:
    """Each labelled by its own number."""
    pixels = np.random.default_rng(0).integers(256, size=(ITEMS, 3, 20, 23), dtype=np.uint8)
    return Images(images=pixels, labels={"class": np.arange(ITEMS, dtype=np.int64)})


def speech() -> Recordings:
    """Twelve recordings of 1 to 3 windows; they and their frames are labelled by their numbers."""
    lengths = 1_700 + 250 * np.arange(ITEMS)
    frames = sum(map(label_frames, lengths.tolist()))
    draw = np.random.default_rng(0)
    return Recordings(
        samples=draw.integers(-(2**15), 2**15, lengths.sum(), dtype=np.int16),
        starts=lengths.cumsum() - lengths,
        lengths=lengths,
        labels={"speaker": np.arange(ITEMS, dtype=np.int64)},
        frames={"phone": np.arange(frames, dtype=np.int16)},
    )


def of_images(
    *,
    batch_size: int = 4,
    stream: tuple[str, int] = ("photos", 0),
    examples: Images | None = None,
    held_out: float = 0.0,
    without: torch.Tensor | None = None,
    views: int = 1,
) -> Batches:
    crops = CropSettings(kind="crop", crop=9, mean=(0.4,), std=(0.25,))
    return ImageBatches(
        examples or photographs(),
        augmentation=crops,
        batch_size=batch_size,
        stream=stream,
        device=CPU,
        held_out=held_out,
        without=without,
        views=views,
    )


def of_speech(
    *,
    batch_size: int = 4,
    stream: tuple[str, int] = ("photos", 0),
    examples: Recordings | None = None,
    held_out: float = 0.0,
    without: torch.Tensor | None = None,
    views: int = 1,
) -> Batches:
    windows = WindowSettings(kind="window", samples=1_600)
    return WindowBatches(
        examples or speech(),
        augmentation=windows,
        batch_size=batch_size,
        stream=stream,
        device=CPU,
        held_out=held_out,
        without=without,
        views=views,
    )


@pytest.fixture(params=[of_images, of_speech], ids=["images", "speech"])
def batches(request) -> Build:
    """Builds batches of either kind."""
    return request.param


def digest(of: list[Batch]) -> str:
    parts = [values.numpy() for b in of for values in (*b.views, *b.labels.values())]
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def numbers(of: list[Batch]) -> list[int]:
    """Which items these batches hold, by the labels that say so."""
    return [int(n) for b in of for n in b.labels["class" if "class" in b.labels else "speaker"]]


# -- what is drawn -------------------------------------------------------------------------------


def test_every_method_sees_the_same_batches(batches: Build):
    """Two loaders of one stream agree byte for byte, epoch by epoch."""
    for number in (1, 2):
        first, second = (digest(list(batches().epoch(number))) for _ in range(2))
        assert first == second


def test_an_epoch_can_be_drawn_without_the_ones_before_it(batches: Build):
    loader = batches()
    list(loader.epoch(1))
    assert digest(list(loader.epoch(2))) == digest(list(batches().epoch(2)))


def test_batches_do_not_depend_on_the_global_generator_nor_move_it(batches: Build):
    torch.manual_seed(1)
    first = digest(list(batches().epoch(1)))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert digest(list(batches().epoch(1))) == first
    assert torch.equal(torch.get_rng_state(), before)


def test_seeds_data_sets_and_epochs_all_differ(batches: Build):
    digests = {
        digest(list(batches(stream=stream).epoch(number)))
        for stream in [("photos", 0), ("photos", 1), ("stl10", 0)]
        for number in (1, 2, 3)
    }
    assert len(digests) == 9


def test_an_epoch_visits_every_item_once_in_a_random_order(batches: Build):
    visited = numbers(list(batches().epoch(1)))
    assert sorted(visited) == list(range(ITEMS))
    assert visited != sorted(visited)


def test_the_incomplete_last_batch_of_an_epoch_is_left_out(batches: Build):
    loader = batches(batch_size=5)
    assert [len(batch.inputs) for batch in loader.epoch(1)] == [5, 5]
    assert len(loader) == 2


def test_fewer_items_than_a_batch_make_no_step(batches: Build):
    loader = batches(batch_size=13)
    assert len(loader) == 0
    assert list(loader.epoch(1)) == []


# -- in order ------------------------------------------------------------------------------------


def test_in_order_goes_through_the_items_the_last_incomplete_batch_included(batches: Build):
    loader = batches(batch_size=5)
    found = list(loader.in_order())
    assert all(len(batch.inputs) == 5 for batch in found[:-1])
    assert numbers(found) == loader.groups.tolist() == sorted(loader.groups.tolist())
    assert set(numbers(found)) == set(range(ITEMS)) == set(range(loader.items))


def test_in_order_is_the_same_every_time_and_for_every_seed(batches: Build):
    loader = batches()
    first = digest(list(loader.in_order()))
    list(loader.epoch(1))
    assert digest(list(loader.in_order())) == first
    assert digest(list(batches(stream=("photos", 9)).in_order())) == first


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_the_labels_of_a_split_are_those_of_its_batches_in_order(batches: Build, batch_size):
    loader = batches(batch_size=batch_size)
    found = list(loader.in_order())
    assert found[0].labels.keys() == loader.labels.keys()
    for name, labels in loader.labels.items():
        assert torch.equal(torch.cat([batch.labels[name] for batch in found]), labels)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_batch_size_moves_nothing_in_order(batches: Build, batch_size):
    whole, cut = (
        torch.cat([batch.inputs for batch in batches(batch_size=size).in_order()])
        for size in (100, batch_size)
    )
    torch.testing.assert_close(cut, whole, rtol=0, atol=0)


# -- the data set's arrays -----------------------------------------------------------------------


def arrays_of(examples: Images | Recordings) -> list[np.ndarray]:
    if isinstance(examples, Images):
        return [examples.images, *examples.labels.values()]
    labels = [*examples.labels.values(), *examples.frames.values()]
    return [examples.samples, examples.starts, examples.lengths, *labels]


@pytest.mark.parametrize(
    ("build", "make"), [(of_images, photographs), (of_speech, speech)], ids=["images", "speech"]
)
def test_the_arrays_are_left_as_they_are_and_may_be_read_only(build: Build, make):
    """Memory-mapped files may be opened read-only, which torch.from_numpy would warn about."""
    examples = make()
    before = [array.copy() for array in arrays_of(examples)]
    for array in arrays_of(examples):
        array.setflags(write=False)
    loader = build(examples=examples)
    assert len(list(loader.epoch(1))) == 3
    assert list(loader.in_order())
    for array, old in zip(arrays_of(examples), before, strict=True):
        assert np.array_equal(array, old)


def test_a_shared_array_and_a_resident_one_on_the_cpu_are_no_copies():
    array = np.arange(5)
    tensor = shared(array)
    assert resident(tensor, device=CPU) is tensor
    array[2] = 9
    assert tensor.tolist() == [0, 1, 9, 3, 4]


# -- views -------------------------------------------------------------------------------------


def view(found: list[Batch], number: int) -> torch.Tensor:
    return torch.cat([batch.views[number - 1] for batch in found])


@pytest.mark.parametrize("draw", ["epoch", "validation"])
def test_view_1_and_the_labels_are_the_same_however_many_views_there_are(batches: Build, draw):
    def drawn(views: int) -> list[Batch]:
        loader = batches(views=views, held_out=0.5, batch_size=2)
        return list(loader.epoch(1) if draw == "epoch" else loader.validation())

    one, three = drawn(1), drawn(3)
    assert torch.equal(view(one, 1), view(three, 1))
    for alone, among in zip(one, three, strict=True):
        assert among.labels.keys() == alone.labels.keys()
        assert all(torch.equal(among.labels[name], alone.labels[name]) for name in alone.labels)
        assert (len(alone.views), len(among.views)) == (1, 3)


@pytest.mark.parametrize("draw", ["epoch", "validation"])
def test_each_view_is_another_and_view_2_the_same_with_a_third(batches: Build, draw):
    def drawn(views: int) -> list[Batch]:
        loader = batches(views=views, held_out=0.5, batch_size=2)
        return list(loader.epoch(1) if draw == "epoch" else loader.validation())

    two, three = drawn(2), drawn(3)
    assert torch.equal(view(two, 2), view(three, 2))
    for first, second in [(1, 2), (1, 3), (2, 3)]:
        assert not torch.equal(view(three, first), view(three, second))


def test_further_views_differ_between_seeds_data_sets_and_epochs(batches: Build):
    seen = [
        view(list(batches(views=2, stream=stream).epoch(number)), 2)
        for stream in [("photos", 0), ("photos", 1), ("stl10", 0)]
        for number in (1, 2)
    ]
    assert len({each.numpy().tobytes() for each in seen}) == 6


def test_further_views_are_of_the_same_examples_in_the_same_order(batches: Build):
    """Every item is a single value, which its crops and windows keep."""
    values = np.arange(ITEMS)
    images = np.broadcast_to(values[:, None, None, None], (ITEMS, 3, 20, 23)).astype(np.uint8)
    lengths = np.full(ITEMS, 3_000)
    recordings = Recordings(
        samples=np.repeat(values, 3_000).astype(np.int16),
        starts=lengths.cumsum() - lengths,
        lengths=lengths,
        labels={"speaker": values},
        frames={},
    )
    examples = {of_images: Images(images=images, labels={"class": values}), of_speech: recordings}
    for batch in batches(views=3, examples=examples[batches]).epoch(1):
        assert len(batch.inputs.unique()) == len(batch.inputs)
        assert torch.equal(batch.views[1].flatten(1)[:, 0], batch.inputs.flatten(1)[:, 0])
        assert torch.equal(batch.views[2].flatten(1)[:, 0], batch.inputs.flatten(1)[:, 0])


def test_in_order_has_one_view_always_the_same(batches: Build):
    found = list(batches(views=3).in_order())
    assert digest(found) == digest(list(batches().in_order()))
    assert all(batch.further == () for batch in found)


def test_views_are_drawn_by_generators_on_the_cpu(batches: Build, monkeypatch):
    """So they are the same on every device."""
    made = []
    generator = seeding.generator
    monkeypatch.setattr(
        seeding, "generator", lambda *names: made.append(generator(*names)) or made[-1]
    )
    list(batches(views=3).epoch(1))
    assert [found.device.type for found in made] == ["cpu"] * 3


# -- held out --------------------------------------------------------------------------------------


def test_what_is_held_out_is_in_no_epoch(batches: Build):
    """A third of the twelve items, alike in every epoch and every loader of the stream."""
    loader = batches(held_out=1 / 3)
    assert len(loader) == 2
    visited = {n for number in range(1, 6) for n in numbers(list(loader.epoch(number)))}
    held = numbers(list(batches(held_out=1 / 3).validation()))
    assert len(held) == 4
    assert visited.isdisjoint(held)
    assert visited | set(held) == set(range(ITEMS))


def test_validation_batches_are_always_alike(batches: Build):
    first, second = (list(batches(held_out=0.5).validation()) for _ in range(2))
    assert len(first) == 1  # two left over make no whole batch
    assert digest(first) == digest(second)


def test_without_anything_held_out_there_is_no_validation(batches: Build):
    assert list(batches().validation()) == []


def test_what_is_held_out_is_another_for_another_seed(batches: Build):
    held = [
        numbers(list(batches(held_out=0.5, stream=("photos", seed)).validation()))
        for seed in range(4)
    ]
    assert len({tuple(h) for h in held}) > 1


# -- left out --------------------------------------------------------------------------------------


def test_items_that_are_left_out_are_in_no_epoch_and_all_others_are(batches: Build):
    left_out = torch.tensor([0, 3, 4, 11])
    loader = batches(without=left_out)
    assert len(loader) == 2
    for number in (1, 2, 3):
        visited = numbers(list(loader.epoch(number)))
        assert set(visited) == set(range(ITEMS)) - set(left_out.tolist())


def test_items_that_are_left_out_are_still_read_in_order(batches: Build):
    some = digest(list(batches(without=torch.tensor([2, 5])).in_order()))
    assert some == digest(list(batches().in_order()))


def test_leaving_items_out_moves_none_of_those_held_out(batches: Build):
    held = numbers(list(batches(held_out=0.5).validation()))
    loader = batches(held_out=0.5, without=torch.tensor([0, 1, held[0]]), batch_size=2)
    trained = {n for number in (1, 2, 3) for n in numbers(list(loader.epoch(number)))}
    assert set(held) <= set(numbers(list(loader.validation())))
    assert trained.isdisjoint({0, 1, *held})


def in_pairs(build: Build) -> Images | Recordings:
    """The examples of either kind, of six sources with two items each."""
    examples = photographs() if build is of_images else speech()
    return replace(examples, sources=np.arange(ITEMS, dtype=np.int64) % 6)


@pytest.mark.parametrize(("share", "items"), [(1 / 6, 2), (0.25, 4), (1 / 3, 4), (0.4, 6)])
def test_whole_sources_are_held_out_at_least_as_many_items_as_asked_for(
    batches: Build, share, items
):
    for seed in range(5):
        loader = batches(
            held_out=share, examples=in_pairs(batches), batch_size=1, stream=("photos", seed)
        )
        held = numbers(list(loader.validation()))
        trained = set(numbers(list(loader.epoch(1))))
        assert len(held) == items
        assert trained == set(range(ITEMS)) - set(held)
        assert {n % 6 for n in trained}.isdisjoint(n % 6 for n in held)
