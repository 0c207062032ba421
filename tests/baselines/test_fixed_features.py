"""Constants, pixels, power spectra and statistics of MFCC: closed forms and slow oracles."""

from math import cos, log, pi

import numpy as np
import pytest
import torch

from baselines.power_spectrum import FLOOR
from gim_bench import seeding
from gim_bench.contract import Modality
from tests.conftest import CROP, SAMPLES, STEPS, build_tiny


def features_of(name: str, inputs: torch.Tensor, *, modality=Modality.IMAGE, **options):
    learner = build_tiny(name, modality=modality, **options).learner
    (features,) = learner.features(inputs).values()
    return features


def images(number: int = 2, *, channels: int = 1, side: int = CROP) -> torch.Tensor:
    draw = seeding.generator("tests", "fixed features")
    return torch.randn(number, channels, side, side, generator=draw)


# -- chance and pixels -----------------------------------------------------------------------------


def test_chance_says_the_same_of_every_image_and_of_every_step():
    assert features_of("chance", images()).tolist() == [[[1.0]]] * 2
    speech = torch.randn(2, SAMPLES, generator=seeding.generator("tests", "chance"))
    found = features_of("chance", speech, modality=Modality.SPEECH)
    assert found.shape == (2, STEPS, 1)
    assert (found == 1).all()


def test_pixels_are_those_of_the_crop_in_order():
    inputs = images(channels=3)
    assert torch.equal(features_of("pixels", inputs)[:, 0], inputs.reshape(2, -1))


# -- power spectrum --------------------------------------------------------------------------------


def test_the_power_spectrum_is_numpy_s_at_low_frequencies():
    """Cycles down from -8 to 8 (in the order 0…8, -8…-1) and across from 0 to 8."""
    inputs = images(side=20)
    found = features_of("power_spectrum", inputs)[:, 0]
    for ours, image in zip(found, inputs[:, 0].double().numpy(), strict=True):
        power = np.abs(np.fft.fft2(image - image.mean())) ** 2 / image.size
        low = power[np.r_[0:9, -8:0]][:, :9]
        np.testing.assert_allclose(ours, np.log(low + FLOOR).ravel(), rtol=1e-3, atol=1e-3)


def test_a_wave_has_power_at_its_frequency_alone():
    """A cosine of 3 cycles down has power pixels / 4 at the frequencies 3 and -3."""
    wave = torch.tensor([cos(2 * pi * 3 * row / CROP) for row in range(CROP)])
    found = features_of("power_spectrum", wave[None, None, :, None].expand(1, 1, CROP, CROP))
    grid = found.view(17, 9)
    peaks = grid[[3, -3], 0]
    torch.testing.assert_close(peaks, torch.full((2,), log(CROP**2 / 4 + FLOOR)))
    grid[[3, -3], 0] = log(FLOOR)
    torch.testing.assert_close(grid, torch.full((17, 9), log(FLOOR)), rtol=0, atol=1e-2)


def test_brightness_and_place_do_not_change_the_power_spectrum():
    inputs = images()
    moved = inputs.roll((5, 3), dims=(2, 3)) + 4
    torch.testing.assert_close(
        features_of("power_spectrum", moved),
        features_of("power_spectrum", inputs),
        rtol=1e-3,
        atol=1e-3,
    )


def test_a_small_image_has_each_of_its_frequencies_once():
    assert features_of("power_spectrum", images(side=6)).shape == (2, 1, 6 * 4)


# -- statistics of MFCC ----------------------------------------------------------------------------


@pytest.mark.parametrize("context", [1, 5, 3 * STEPS])
def test_statistics_of_a_step_are_those_of_the_steps_around_it_that_there_are(context):
    speech = torch.randn(2, SAMPLES, generator=seeding.generator("tests", "statistics"))
    plain = features_of("mfcc", speech, modality=Modality.SPEECH).double()
    found = features_of("mfcc_statistics", speech, modality=Modality.SPEECH, context=context)
    coefficients, mean, std = found.double().chunk(3, dim=2)
    assert torch.equal(coefficients, plain)
    for step in range(STEPS):
        around = plain[:, max(0, step - context) : step + context + 1]
        torch.testing.assert_close(mean[:, step], around.mean(1), rtol=1e-4, atol=1e-4)
        spread = around.std(1, correction=0)
        torch.testing.assert_close(std[:, step], spread, rtol=1e-3, atol=1e-3)


def test_a_steady_hum_has_no_deviation_between_its_ends():
    """A sound that repeats every 160 samples is alike in all frames."""
    period = torch.randn(160, generator=seeding.generator("tests", "hum"))
    hum = period.repeat(SAMPLES // 160)[None]
    found = features_of("mfcc_statistics", hum, modality=Modality.SPEECH, deltas=False)
    std = found[0, :, 2 * 13 :]
    assert std[7:-7].max() < 1e-2
    assert std[0].max() > 0.1  # the first frame begins with silence
