"""Sweeps of settings of training, as tables."""

from gim_bench.report.spaces import render_spaces


def swept(seed, *trials):
    """A sweep of one seed; each trial is (learning rate, percent)."""
    rows = [
        {
            "trial": number,
            "settings": {"training.learning_rate": rate},
            "validation_accuracy": percent,
            "state": "complete",
            "error": None,
            "set": [f"training.learning_rate={rate}"],
        }
        for number, (rate, percent) in enumerate(trials)
    ]
    return {
        "method": "gim",
        "seed": seed,
        "space": {"training.learning_rate": [1e-3, 1e-2]},
        "trials": rows,
        "best": rows[0],
        "own": rows[0],
    }


def means(*found):
    """The rows of the table of means over seeds."""
    page = render_spaces(found, suite="tiny", as_json=False)
    _, _, table = page.partition(f"## gim, mean over {len(found)} seeds\n")
    rows = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_a_trial_of_all_seeds_has_a_mean_and_others_have_none():
    found = swept(0, (1e-3, 50.0), (1e-2, 60.0)), swept(1, (1e-3, 52.0), (1e-2, None))
    assert means(*found) == [["0.001", "51.0"]]


def test_a_trial_that_one_seed_repeats_counts_once():
    """Two trials of one seed are no two seeds."""
    alone = swept(0, (1e-3, 50.0), (1e-3, 50.0)), swept(1, (1e-2, 60.0))
    assert means(*alone) == []
    both = swept(0, (1e-3, 50.0), (1e-3, 50.0)), swept(1, (1e-3, 60.0))
    assert means(*both) == [["0.001", "55.0"]]


def test_trials_that_differ_in_the_fourth_digit_have_rows_of_their_own():
    """As two momenta of an average do."""
    found = swept(0, (0.9995, 50.0), (0.9999, 60.0)), swept(1, (0.9995, 52.0), (0.9999, 62.0))
    assert means(*found) == [["0.9995", "51.0"], ["0.9999", "61.0"]]


def test_trials_that_look_alike_have_rows_of_their_own():
    """Settings are compared exactly, however they are rounded for the table."""
    low, high = 0.12345671, 0.12345674
    found = swept(0, (low, 50.0), (high, 60.0)), swept(1, (low, 52.0), (high, 62.0))
    assert means(*found) == [["0.123457", "51.0"], ["0.123457", "61.0"]]
