"""The shell completes commands, names and words of options of `gim-bench`."""

import os
import subprocess
import sys
import typing

import pytest

COMMAND = "import sys; sys.argv[0] = 'gim-bench'; from gim_bench.cli.main import main; main()"

OWN_HEAD = "speaker_accuracy/own_head"


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        (["gim-bench", "rep"], ["report"]),
        (["gim-bench", "run", "--suite", "quickstart-"], ["quickstart-audio"]),
        (
            ["gim-bench", "run", "--suite", "smoke", "--method", "gim_no"],
            ["gim_no_ar", "gim_no_bptt"],
        ),
        (["gim-bench", "report", "--format", "la"], ["latex"]),
        (["gim-bench", "report", "--metric", "speaker_acc"], ["speaker_accuracy", OWN_HEAD]),
        (["gim-bench", "check", "--format", "git"], ["github-smaller", "github-bigger"]),
        (["gim-bench", "run", "--launcher", "s"], ["slurm"]),
        (["gim-bench", "run", "--device", "c"], ["cpu", "cuda"]),
        (["gim-bench", "probe", "--protocol", "k"], ["knn"]),
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


def test_every_word_of_a_format_is_one_that_the_command_takes():
    from gim_bench.check.formats import FORMATS as OF_CHECKS
    from gim_bench.cli import check, report
    from gim_bench.report import FORMATS as OF_REPORTS

    for module, known in ((check.check, OF_CHECKS), (report.report, OF_REPORTS)):
        hints = typing.get_type_hints(module, include_extras=True)
        (option,) = hints["fmt"].__metadata__
        assert sorted(option.autocompletion("")) == sorted(known)


def test_python_m_gim_bench_shows_the_completion_of_the_program():
    """Bash completes words of one program, and `python -m gim_bench` is three."""
    answer = subprocess.check_output(
        [sys.executable, "-m", "gim_bench", "--show-completion", "bash"], text=True
    )
    assert "-F _gim_bench_completion gim-bench" in answer
