"""MFCC features: torchaudio's, and of the very samples that a label is about."""

import pytest
import torch
from torchaudio import transforms
from torchaudio.functional import compute_deltas

from gim_bench import seeding
from gim_bench.contract import (
    FIRST_LABEL,
    FRAME_WINDOW_SAMPLES,
    SAMPLE_RATE_HZ,
    STEP_CENTRE,
    Modality,
)
from tests.conftest import SAMPLES, STEPS, build_tiny


def mfcc(**options):
    return build_tiny("mfcc", modality=Modality.SPEECH, **options).learner


def features_of(inputs: torch.Tensor, **options) -> torch.Tensor:
    (features,) = mfcc(**options).features(inputs).values()
    return features


def speech(*, windows: int = 2, samples: int = SAMPLES) -> torch.Tensor:
    return torch.randn(windows, samples, generator=seeding.generator("tests", "mfcc"))


def reference(*, coefficients: int = 13) -> transforms.MFCC:
    """25 ms every 10 ms, and nothing padded."""
    return transforms.MFCC(
        sample_rate=SAMPLE_RATE_HZ,
        n_mfcc=coefficients,
        log_mels=True,
        melkwargs={"n_fft": 400, "hop_length": 160, "n_mels": 40, "center": False},
    )


# -- frames --------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1_600, 3_200, 20_480])
def test_there_is_a_frame_for_every_step_of_a_window(samples):
    """One every 160 samples, with 13 coefficients and their first and second differences."""
    assert features_of(speech(samples=samples)).shape == (2, samples // 160, 39)


@pytest.mark.parametrize("step", [1, 2, 9, STEPS - 2])
def test_a_step_s_coefficients_are_those_of_the_400_samples_that_its_label_covers(step):
    """Label t covers the samples 160·t to 160·t + 399; step j has label j - 1."""
    inputs = speech()
    first = 160 * (step + FIRST_LABEL)
    covered = inputs[:, first : first + FRAME_WINDOW_SAMPLES]
    assert first + FRAME_WINDOW_SAMPLES // 2 == 160 * step + STEP_CENTRE
    torch.testing.assert_close(
        features_of(inputs, deltas=False)[:, step],
        reference()(covered)[:, :, 0],
        rtol=1e-4,
        atol=1e-4,
    )


def test_coefficients_are_torchaudio_s_of_the_window_between_silences():
    """Step 0's label begins 160 samples before the window, the last step's ends 80 after it."""
    inputs = speech()
    padded = torch.cat([torch.zeros(2, 160), inputs, torch.zeros(2, 80)], dim=1)
    expected = reference()(padded).transpose(1, 2)
    torch.testing.assert_close(features_of(inputs, deltas=False), expected, rtol=0, atol=0)


def test_a_click_reaches_the_frames_that_cover_it_and_no_other():
    """Sample 1,000 lies in the labels 4, 5 and 6: those of the steps 5, 6 and 7."""
    inputs = speech(windows=1)
    clicked = inputs.clone()
    clicked[0, 1_000] += 50.0
    before, after = (features_of(x, deltas=False) for x in (inputs, clicked))
    assert (before != after).any(dim=2)[0].nonzero().flatten().tolist() == [5, 6, 7]


# -- options -------------------------------------------------------------------------------------


def test_deltas_are_torchaudio_s_first_and_second_differences():
    inputs = speech()
    first = features_of(inputs, deltas=False).transpose(1, 2)
    second = compute_deltas(first)
    expected = torch.cat([first, second, compute_deltas(second)], dim=1).transpose(1, 2)
    torch.testing.assert_close(features_of(inputs), expected, rtol=0, atol=0)


@pytest.mark.parametrize("coefficients", [1, 13, 40])
def test_the_number_of_coefficients_is_an_option(coefficients):
    inputs = speech()
    assert features_of(inputs, coefficients=coefficients).shape == (2, STEPS, 3 * coefficients)
    torch.testing.assert_close(
        features_of(inputs, coefficients=coefficients, deltas=False)[:, 3],
        reference(coefficients=coefficients)(inputs[:, 320:720])[:, :, 0],
        rtol=1e-4,
        atol=1e-4,
    )


# -- what it does not depend on --------------------------------------------------------------------


def test_a_quiet_window_s_features_do_not_depend_on_a_loud_one_beside_it():
    """Decibels would be cut off 80 below the loudest example of the batch."""
    quiet = 1e-3 * speech(windows=1)
    among_loud = torch.cat([quiet, 1e4 * speech(windows=1)])
    torch.testing.assert_close(features_of(among_loud)[:1], features_of(quiet), rtol=0, atol=1e-5)


def test_silence_has_finite_features():
    assert features_of(torch.zeros(1, SAMPLES)).isfinite().all()


def test_bf16_autocast_changes_nothing():
    inputs = speech()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = features_of(inputs)
    torch.testing.assert_close(found, features_of(inputs), rtol=0, atol=0)


def test_there_is_nothing_to_train_and_nothing_to_keep(tiny_speech):
    learner = mfcc()
    assert list(learner.losses(tiny_speech)) == []
    assert not learner.encoder.state_dict()
    assert not list(learner.parameters())
