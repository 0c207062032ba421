"""How long a user waits for `gim_bench list`, beside an interpreter that imports PyTorch."""

import subprocess
import sys

import pytest

GROUP = "start of a command, processes of their own"


def run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)  # noqa: S603


@pytest.mark.benchmark(group=GROUP)
def test_list_suites(benchmark):
    benchmark.pedantic(run, args=("-m", "gim_bench", "list", "suites"), rounds=5, warmup_rounds=1)


@pytest.mark.benchmark(group=GROUP)
def test_an_interpreter_that_imports_torch(benchmark):
    benchmark.pedantic(run, args=("-c", "import torch"), rounds=3, warmup_rounds=1)
