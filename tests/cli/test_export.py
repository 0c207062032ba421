"""The command `export`."""

import pytest

EXPORT = ("export", "--suite", "./tiny.toml", "--method", "gim", "--output", "gim")


@pytest.fixture
def asked(monkeypatch):
    """What the command asks of `gim_bench.export`."""
    calls = []

    def export(cell, output, *, licence):
        calls.append((cell.name.partition("-")[0], cell.parent.name, str(output), licence))
        return output

    monkeypatch.setattr("gim_bench.api.export.export", export)
    return calls


def test_the_cell_of_these_names_is_exported(gim_bench, finished, asked):
    answer = gim_bench(*EXPORT, "--licence", "mit")
    assert (answer.code, answer.out) == (
        0,
        "wrote gim: README.md is the model card, encoder.py needs PyTorch and safetensors\n",
    )
    assert asked == [("seed", "gim", "gim", "mit")]


def test_a_cell_that_is_not_there_is_one_line_with_the_command_that_runs_it(
    gim_bench, finished, asked
):
    answer = gim_bench(*EXPORT, "--seed", "5")
    assert answer.code == 2
    assert answer.err.splitlines()[-1] == (
        "error: nothing to export: gim seed 5 of suite 'tiny' with these settings in runs: no "
        "record of this cell; first run python -m gim_bench run --suite ./tiny.toml --method gim "
        "--seeds 6"
    )
    assert not asked
