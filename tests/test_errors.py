"""What users get wrong is said in one line that helps."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gim_bench import errors
from gim_bench.errors import BenchError, unknown_name


def test_a_misspelt_name_is_answered_with_the_nearest_one():
    message = unknown_name("method", "superviced", known=["gim", "supervised", "cpc"])
    assert message == (
        "no method 'superviced'. Did you mean 'supervised'? Available: cpc, gim, supervised"
    )


def test_a_name_like_no_other_gets_the_list_without_a_guess():
    message = unknown_name("suite", "zzz", known=["stl10", "quickstart"])
    assert message == "no suite 'zzz'. Available: quickstart, stl10"


def test_the_place_of_the_name_is_named():
    message = unknown_name("suite", "gmi", known=["gim"], where="--suite")
    assert message.startswith("no suite 'gmi' (--suite). Did you mean 'gim'?")


def test_an_empty_list_says_none():
    assert unknown_name("dataset", "x", known=[]) == "no dataset 'x'. Available: none"


@given(name=st.text(max_size=30))
@settings(max_examples=30)
def test_any_name_is_answered_in_one_line(name):
    assert len(unknown_name("method", name, known=["gim", "cpc"]).splitlines()) == 1


@pytest.mark.parametrize("kind", ["ConfigError", "DataError", "TrackingError", "TrainingError"])
def test_every_error_of_the_users_can_be_caught_as_a_bench_error(kind):
    assert issubclass(getattr(errors, kind), BenchError)
