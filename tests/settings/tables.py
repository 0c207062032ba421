"""Small suites of images and of speech, as tables; and as files, laid over by `--set`."""

from pathlib import Path
from typing import Any

import pytest
import tomli_w

from gim_bench.errors import ConfigError
from gim_bench.settings.schema import Suite
from gim_bench.settings.suites import load_suite

SUITE: dict[str, Any] = {
    "name": "mine",
    "summary": "a suite for tests",
    "protocol": "none",
    "methods": ["gim", "random_init"],
    "dataset": {"name": "photos", "size": 36},
    "encoder": {
        "kind": "resnet",
        "width": 8,
        "blocks": [1, 1, 1],
        "patch_size": 8,
        "patch_overlap": 4,
    },
    "augmentation": {"kind": "crop", "crop": 32, "mean": [0.4], "std": [0.25]},
    "training": {"epochs": 1, "batch_size": 32, "learning_rate": 2e-3},
    "probe": {"learning_rates": [1e-3, 1e-2], "steps": 5, "batch_size": 128},
}
SPEECH: dict[str, Any] = SUITE | {
    "dataset": {"name": "espeak"},
    "encoder": {"kind": "conv_gru", "width": 64, "context": 64},
    "augmentation": {"kind": "window"},
    "info_nce": {"prediction_steps": 12, "skip_rows": 0, "negatives": 10, "anchor_rows": 128},
}


def write(folder: Path, text: str | None = None, *, suite: dict[str, Any] = SUITE) -> str:
    """The path of "mine.toml" in that folder, which holds the text or the suite."""
    path = folder / "mine.toml"
    path.write_text(tomli_w.dumps(suite) if text is None else text, encoding="utf-8")
    return str(path)


def load(folder: Path, *overrides: str, suite: dict[str, Any] = SUITE) -> Suite:
    return load_suite(write(folder, suite=suite), overrides=overrides)


def refused(path: str, *overrides: str) -> str:
    """What load_suite says about that file with these overrides: one line, or the test fails."""
    with pytest.raises(ConfigError) as caught:
        load_suite(path, overrides=overrides)
    message = str(caught.value)
    assert len(message.splitlines()) == 1, message
    return message


def complaint(folder: Path, *overrides: str, suite: dict[str, Any] = SUITE) -> str:
    """What load_suite says about these overrides of the suite: one line, or the test fails."""
    return refused(write(folder, suite=suite), *overrides)
