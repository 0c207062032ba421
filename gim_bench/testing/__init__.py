"""Conformance tests for methods and encoders of any package, in float64.

One line tests a method, from any folder outside the checkout of this package:

    python -m pytest -p gim_bench.testing --pyargs gim_bench.testing --method my_package:MyMethod

`--encoder my_package:MyEncoder` tests an encoder; with both, the method is tested on that encoder.
A name that `gim_bench list` prints may stand in place of `package:Class`. Options make a plug-in
small enough for quick tests: `--method-option projector=16`, `--encoder-option width=4`,
`--objective-option negatives=10`, `--shape 1,32,32` (of one augmented example). All but `--shape`
may be given several times. `-rs` prints why a test was skipped.
"""

from gim_bench.testing.plugin import (
    pytest_addoption,
    pytest_generate_tests,
    pytest_ignore_collect,
    pytest_sessionstart,
)

__all__ = [
    "pytest_addoption",
    "pytest_generate_tests",
    "pytest_ignore_collect",
    "pytest_sessionstart",
]
