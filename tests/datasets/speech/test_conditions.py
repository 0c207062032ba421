"""Conditions of a recording: their sizes as asked, and no sound moved."""

import numpy as np
import pytest

from gim_bench.datasets.speech.conditions import (
    BANDS_HZ,
    Conditions,
    amplitude,
    filtered,
    pink_noise,
)

SECOND = 16_000


def draw(seed=0):
    return np.random.default_rng(seed)


def conditions(**changes):
    ideal = {"channel_db": 0.0, "snr_db": None, "level_db": None}
    return Conditions(**(ideal | changes))


def rms(samples):
    return np.sqrt(np.mean(np.square(samples)))


def tone(hertz, *, seconds=4):
    return 1_000 * np.sin(2 * np.pi * hertz * np.arange(seconds * SECOND) / SECOND)


@pytest.mark.parametrize("band", range(len(BANDS_HZ) - 1))
def test_a_tone_at_the_centre_of_a_band_gets_the_gain_of_the_band(band):
    gains_db = np.array([3.0, -6.0, 12.0, 0.0, -20.0, 6.0, 1.0, -3.0])
    found = filtered(tone(BANDS_HZ[band]), gains_db=gains_db)[SECOND:-SECOND]
    expected = tone(BANDS_HZ[band])[SECOND:-SECOND] * amplitude(gains_db[band])
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


def test_a_tone_between_two_bands_gets_the_mean_of_their_gains_in_db():
    found = filtered(tone(np.sqrt(500 * 1000)), gains_db=[0, 0, 0, -12.0, 6.0, 0, 0, 0])
    assert rms(found[SECOND:-SECOND]) == pytest.approx(rms(tone(700)) * amplitude(-3.0), rel=0.01)


@pytest.mark.parametrize("seed", range(4))
def test_the_channel_moves_no_click(seed):
    """Its response is symmetric about the click, where it is largest."""
    click = np.zeros(8_001)
    click[4_000] = 1.0
    found = filtered(click, gains_db=6 * draw(seed).standard_normal(len(BANDS_HZ)))
    assert np.abs(found).argmax() == 4_000
    np.testing.assert_allclose(found, found[::-1], atol=1e-5)


def test_the_channel_does_not_carry_the_end_of_a_recording_to_its_beginning():
    click = np.zeros(8_000)
    click[-1] = 1.0
    found = filtered(click, gains_db=[0, 0, 20.0, -20.0, 20.0, 0, 0, 0])
    assert np.abs(found[:1_000]).max() < 1e-3


def test_a_channel_of_equal_gains_changes_the_level_alone():
    samples = draw().normal(size=5_001)
    found = filtered(samples, gains_db=[6.0] * len(BANDS_HZ))
    np.testing.assert_allclose(found, samples * amplitude(6.0), rtol=1e-9, atol=1e-12)


def test_the_power_of_noise_falls_by_three_decibels_an_octave():
    """Per hertz: from 500 Hz to 1 kHz against 1 to 2 kHz."""
    noise = pink_noise(60 * SECOND, draw=draw())
    power = np.abs(np.fft.rfft(noise)) ** 2
    low, high = (power[60 * hertz : 120 * hertz].mean() for hertz in (500, 1_000))
    assert 10 * np.log10(high / low) == pytest.approx(-3.01, abs=0.3)
    assert rms(noise) == pytest.approx(1)


def test_the_speech_is_louder_than_the_noise_by_the_ratio_that_was_drawn():
    speech = tone(440)
    noise = conditions(snr_db=(10.0, 10.0)).applied(speech, full_scale=2**15, draw=draw()) - speech
    assert rms(speech) / rms(noise) == pytest.approx(amplitude(10.0))


def test_ratios_and_levels_fill_their_ranges():
    speech = tone(440, seconds=1)
    ratios = [
        rms(speech)
        / rms(conditions(snr_db=(5.0, 25.0)).applied(speech, full_scale=1, draw=draw(n)) - speech)
        for n in range(40)
    ]
    levels = [
        rms(conditions(level_db=(-30.0, -20.0)).applied(speech, full_scale=2**15, draw=draw(n)))
        for n in range(40)
    ]
    for found, (low, high) in ((ratios, (5, 25)), (np.array(levels) / 2**15, (-30, -20))):
        decibels = 20 * np.log10(found)
        assert decibels.min() == pytest.approx(low, abs=(high - low) / 10)
        assert decibels.max() == pytest.approx(high, abs=(high - low) / 10)
        assert low <= decibels.min() <= decibels.max() <= high


def test_ideal_conditions_change_nothing():
    speech = tone(440)
    assert conditions().are_ideal
    assert np.array_equal(conditions().applied(speech, full_scale=2**15, draw=draw()), speech)


@pytest.mark.parametrize(
    "changes", [{"channel_db": 3.0}, {"snr_db": (0.0, 9.0)}, {"level_db": (-30.0, -20.0)}]
)
def test_each_condition_alone_changes_the_recording_and_is_drawn(changes):
    mine = conditions(**changes)
    assert not mine.are_ideal
    one, other = (mine.applied(tone(440), full_scale=2**15, draw=draw(n)) for n in (0, 1))
    assert not np.allclose(one, tone(440))
    assert not np.allclose(one, other)


def test_silence_stays_silence():
    everything = conditions(channel_db=6.0, snr_db=(0.0, 9.0), level_db=(-30.0, -20.0))
    found = everything.applied(np.zeros(1_000), full_scale=2**15, draw=draw())
    assert not found.any()
