"""Which feature step belongs to which phone label, proved on speech whose labels are exact."""

import pytest
import torch
from torch import Tensor

from gim_bench import registry, seeding
from gim_bench.contract import UNLABELLED, Ingredients, Split, Target
from gim_bench.datasets.speech.espeak import Espeak
from gim_bench.datasets.speech.windows import WindowBatches
from gim_bench.encoders.conv_gru import ConvGRUEncoder, ConvGRUSettings
from gim_bench.probing.adam import train_linear
from gim_bench.progress import Silence
from gim_bench.settings.augmentations import WindowSettings
from gim_bench.settings.base import Settings

WINDOW = WindowSettings(kind="window", mean=0.0, std=0.1)
STREAM = ("tests", 0)
SHIFTS = (-3, -1, 0, 1, 3)  # steps of 10 ms


@pytest.fixture(scope="module")
def espeak(tmp_path_factory) -> Espeak:
    return Espeak(
        options=Espeak.Options(speakers=3, train_sentences=15, test_sentences=6),
        data_dir=None,
        cache_dir=tmp_path_factory.mktemp("cache"),
        progress=Silence(),
    )


def steps_and_labels(
    espeak: Espeak, split: Split, method: str, phone: Target
) -> tuple[dict[str, Tensor], Tensor]:
    """Features of an untrained learner by module, [window step d], and labels, [window step]."""
    kind = registry.method(method)
    settings = ConvGRUSettings(kind="conv_gru", width=32, context=32)
    with seeding.weights_from("encoder", 0):
        encoder = ConvGRUEncoder(settings, shape=WINDOW.shape)
    learner = kind(
        Ingredients(
            encoder=encoder,
            shape=WINDOW.shape,
            target=phone,
            objective=Settings(),
            options=kind.Options(),
            gradient_flow=kind.traits.gradient_flow,
            stream=lambda _unit: torch.Generator(),
        )
    )
    batches = WindowBatches(
        espeak.split(split),
        augmentation=WINDOW,
        batch_size=32,
        stream=STREAM,
        device=torch.device("cpu"),
    )
    found = [(learner.features(batch.inputs), batch.labels) for batch in batches.in_order()]
    return (
        {module: torch.cat([features[module] for features, _ in found]) for module in found[0][0]},
        torch.cat([labels["phone"] for _, labels in found]),
    )


def shifted(labels: Tensor, by: int) -> Tensor:
    """The label of step j + `by` at step j; none at the window's edges."""
    moved = labels.roll(-by, dims=1)
    if by:
        moved[:, slice(-by, None) if by > 0 else slice(-by)] = UNLABELLED
    return moved


def accuracy(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], *, classes: int) -> float:
    """Of a linear probe on the labelled steps, in percent."""
    (x, y), (x_test, y_test) = (
        (features[labels >= 0], labels[labels >= 0]) for features, labels in (train, test)
    )
    probe = train_linear(
        x, y, learning_rates=[1e-2], classes=classes, steps=300, batch_size=256,
        standardised=True, stream=STREAM,
    )  # fmt: skip
    return 100 * (probe.predict(x_test) == y_test).float().mean().item()


def accuracies(espeak: Espeak, method: str) -> dict[str, dict[int, float]]:
    """By module and shift of the labels."""
    phone = next(target for target in espeak.targets() if target.name == "phone")
    train, y = steps_and_labels(espeak, Split.TRAIN, method, phone)
    test, y_test = steps_and_labels(espeak, Split.TEST, method, phone)
    return {
        module: {
            shift: accuracy(
                (train[module], shifted(y, shift)),
                (test[module], shifted(y_test, shift)),
                classes=len(phone.classes),
            )
            for shift in SHIFTS
        }
        for module in train
    }


@pytest.mark.slow
def test_shifting_the_labels_by_10_ms_either_way_lowers_the_accuracy_of_every_convolution(espeak):
    """The GRU, which has heard the steps before too, is no judge of so little."""
    found = accuracies(espeak, "random_init")
    found.pop("module_6")
    for module, by_shift in found.items():
        assert by_shift[-3] < by_shift[-1] < by_shift[0] > by_shift[1] > by_shift[3], (
            module,
            by_shift,
        )


@pytest.mark.slow
def test_shifting_the_labels_by_30_ms_either_way_lowers_the_accuracy_of_mfcc(espeak):
    """Their deltas look at the steps before and after, so that 10 ms hardly matter."""
    (by_shift,) = accuracies(espeak, "mfcc").values()
    assert by_shift[-3] < by_shift[0] > by_shift[3], by_shift
