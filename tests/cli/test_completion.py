"""The shell completes commands, suites and methods of `gim-bench`."""

import os
import subprocess
import sys

import pytest

COMMAND = "import sys; sys.argv[0] = 'gim-bench'; from gim_bench.cli.main import main; main()"


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        (["gim-bench", "rep"], ["report"]),
        (["gim-bench", "run", "--suite", "quickstart-"], ["quickstart-audio"]),
        (
            ["gim-bench", "run", "--suite", "smoke", "--method", "gim_no"],
            ["gim_no_ar", "gim_no_bptt"],
        ),
    ],
)
def test_a_word_that_is_begun_is_completed(typed, completed):
    """As bash asks, by variables of the environment."""
    asked = {
        "_GIM_BENCH_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(typed),
        "COMP_CWORD": str(len(typed) - 1),
    }
    answer = subprocess.check_output(
        [sys.executable, "-c", COMMAND], env=os.environ | asked, text=True
    )
    assert answer.split() == completed
