"""Faults planted in the objective are noticed by a check of trained cells, and healthy code passes.

One module on photographs, 40 steps: enough that what it predicts is well above chance.
"""

import pytest
import torch

from gim_bench.cells.run import run_cell
from gim_bench.check.judge import judge
from gim_bench.objectives.info_nce import InfoNCEHead
from gim_bench.records.folder import RunsFolder
from tests.check.cells import reference_of
from tests.tiny_suite import TOML, tiny_bench, tiny_cell, tiny_suite

SETTINGS = (
    "methods=['gim']", "encoder.blocks=[1]", "encoder.width=4", "encoder.patch_size=6",
    "encoder.patch_overlap=2", "augmentation.crop=14", "dataset.size=16",
    "dataset.unlabelled_crops=20", "training.batch_size=64", "training.epochs=8",
    "training.learning_rate=1e-2", "info_nce.negatives=16", "info_nce.skip_rows=0",
    "info_nce.prediction_steps=1",
)  # fmt: skip
LOSS = {("gim", "loss")}


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    without_probe = TOML[: TOML.index("[probe]")]
    return tiny_suite(tmp_path_factory.mktemp("suite"), *SETTINGS, toml=without_probe)


@pytest.fixture(scope="module")
def cells_of_seeds(suite, tmp_path_factory):
    bench = tiny_bench(suite)

    def run(seeds):
        runs = RunsFolder(tmp_path_factory.mktemp("runs"))
        return [run_cell(tiny_cell(suite, "gim", seed=seed), bench, runs=runs) for seed in seeds]

    return run


@pytest.fixture(scope="module")
def reference(suite, cells_of_seeds):
    return reference_of(cells_of_seeds(range(6)), suite=suite)


@pytest.fixture
def worse(suite, reference, cells_of_seeds):
    """Runs two other seeds and says which losses a check calls worse.

    What a tiny cell takes of a busy machine's memory and time is not of interest here.
    """

    def check():
        verdict = judge(cells_of_seeds([6, 7]), reference, suite=suite)
        assert not verdict.findings
        return {(c.method, c.metric) for c in verdict.compared if c.found.worse} & LOSS

    return check


def test_a_fresh_run_with_other_seeds_passes(worse):
    assert worse() == set()


def test_a_target_one_row_too_far_down_is_noticed(worse, monkeypatch):
    window = InfoNCEHead._window

    def shifted(self, z, c):
        targets, anchors = window(self, z, c)
        return targets[:, 1:], anchors[:, :-1]

    monkeypatch.setattr(InfoNCEHead, "_window", shifted)
    assert worse() == LOSS


def test_a_target_one_row_too_near_is_noticed_although_the_loss_falls(worse, monkeypatch):
    window = InfoNCEHead._window

    def shifted(self, z, c):
        targets, anchors = window(self, z, c)
        return torch.cat([targets[:, :1], targets[:, :-1]], dim=1), anchors

    monkeypatch.setattr(InfoNCEHead, "_window", shifted)
    assert worse() == LOSS


def test_one_negative_where_the_setting_says_sixteen_is_noticed(worse, monkeypatch):
    drawn = InfoNCEHead._drawn
    monkeypatch.setattr(
        InfoNCEHead, "_drawn", lambda *args, **kwargs: drawn(*args, **kwargs)[..., :1]
    )
    assert worse() == LOSS
