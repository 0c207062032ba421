"""Trained encoders as modules."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import gim_bench
from gim_bench.api.encoders import WEIGHTS
from gim_bench.cells.build import build, models_of
from gim_bench.cells.frozen import frozen
from gim_bench.cells.run import run_cell
from gim_bench.contract import Split
from gim_bench.errors import ConfigError, DataError
from gim_bench.records.folder import RECORD, RunsFolder
from gim_bench.records.sealed import read_record, record_json
from tests.tiny_suite import SPEECH_TOML, TOML, noise_registered, tiny_bench, tiny_cell, tiny_suite

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished cell of the tiny suite: (cell, record, bench, runs)."""
    folder = tmp_path_factory.mktemp("finished")
    suite = tiny_suite(folder)
    bench, runs = tiny_bench(suite), RunsFolder(folder / "runs")
    cell = tiny_cell(suite, "gim")
    return cell, run_cell(cell, bench, runs=runs), bench, runs


def folder_of(finished):
    _, record, _, runs = finished
    return runs.folder_of(record)


def test_features_are_those_that_the_probe_read(finished):
    cell, record, bench, runs = finished
    learner = frozen(cell, record, models_of(cell, bench)[0], bench, runs=runs)
    batch = next(iter(bench.batches(cell, Split.TEST).in_order()))
    probed = {name: z.mean(dim=1) for name, z in learner.features(batch.inputs).items()}
    images = bench.split(Split.TEST).images[: len(batch.inputs)]
    ours = gim_bench.features(gim_bench.load(folder_of(finished)), images)
    assert list(ours) == list(probed)
    for name, values in probed.items():
        torch.testing.assert_close(torch.from_numpy(ours[name]), values)


def test_the_weights_are_the_trained_ones(finished):
    cell, _, bench, _ = finished
    trained = gim_bench.load(folder_of(finished)).module
    untrained = build(cell, bench, target=bench.targets[0]).encoder
    assert not trained.training
    pairs = zip(trained.parameters(), untrained.parameters(), strict=True)
    assert any(not torch.equal(ours, theirs) for ours, theirs in pairs)


def test_batches_of_features_are_joined_in_order(finished):
    trained = gim_bench.load(folder_of(finished))
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 26, 26), dtype=np.uint8)
    whole, parts = (gim_bench.features(trained, images, batch_size=b) for b in (5, 2))
    for name, values in whole.items():
        np.testing.assert_allclose(parts[name], values, rtol=1e-5, atol=1e-6)


class OnAGPU(torch.Tensor):
    """Refuses to become an array of NumPy, as tensors on a GPU do, until it is copied."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __array__(self, *_, **__):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def cpu(self):
        return self.clone()  # of the plain class


@pytest.mark.parametrize(
    "given",
    [
        lambda images: images[:, ::-1].copy()[:, ::-1],
        lambda images: torch.from_numpy(images).as_subclass(OnAGPU),
    ],
    ids=["negative strides", "on a GPU"],
)
def test_arrays_of_any_strides_and_tensors_of_any_device_are_read(finished, given):
    trained = gim_bench.load(folder_of(finished))
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 26, 26), dtype=np.uint8)
    assert torch.equal(trained.transform(given(images)), trained.transform(images))
    found, expected = (gim_bench.features(trained, these) for these in (given(images), images))
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


def test_speech_is_normalised_and_read(tmp_path):
    with noise_registered():
        suite = tiny_suite(tmp_path, toml=SPEECH_TOML)
        bench, runs = tiny_bench(suite), RunsFolder(tmp_path / "runs")
        record = run_cell(tiny_cell(suite, "gim"), bench, runs=runs)
        trained = gim_bench.load(runs.folder_of(record))
    windows = np.full((2, 3200), 3277, dtype=np.int16)  # 0.1 of full scale: one deviation
    assert trained.transform(windows).mean().item() == pytest.approx(1.0, rel=1e-3)
    found = gim_bench.features(trained, windows)
    assert [values.shape for values in found.values()] == [
        (2, d) for d in trained.module.dims[: len(found)]
    ]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 3, 26, 26)), "images are uint8 .*: these are float64"),
        (np.zeros((3, 26, 26), np.uint8), r"images are .*: these are uint8 \[3, 26, 26\]"),
    ],
)
def test_images_of_another_kind_are_refused(finished, images, message):
    with pytest.raises(ConfigError, match=message):
        gim_bench.load(folder_of(finished)).transform(images)


def test_channels_that_no_image_has_are_refused(finished):
    with pytest.raises(ConfigError, match="images have 1 or 3 channels: these have 4"):
        gim_bench.load(folder_of(finished)).transform(np.zeros((1, 4, 26, 26), np.uint8))


def test_an_encoder_in_another_number_format_reads_in_it(finished):
    trained = gim_bench.load(folder_of(finished))
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 26, 26), dtype=np.uint8)
    before = gim_bench.features(trained, images)
    trained.module.double()
    for name, values in gim_bench.features(trained, images).items():
        np.testing.assert_allclose(values, before[name], rtol=1e-3, atol=1e-4)


def test_windows_shorter_than_those_of_training_and_ablations_of_speech(tmp_path):
    with noise_registered():
        suite = tiny_suite(tmp_path, toml=SPEECH_TOML)
        bench, runs = tiny_bench(suite), RunsFolder(tmp_path / "runs")
        record = run_cell(tiny_cell(suite, "gim_no_ar"), bench, runs=runs)
        trained = gim_bench.load(runs.folder_of(record))
    assert len(gim_bench.features(trained, np.zeros((1, 3200), np.int16))) == 5
    with pytest.raises(ConfigError, match="have 3200 samples or more: these have 140"):
        trained.transform(np.zeros((1, 140), np.int16))


def test_images_smaller_than_the_crop_are_refused(finished):
    with pytest.raises(DataError, match="a crop of 24 pixels does not fit"):
        gim_bench.load(folder_of(finished)).transform(np.zeros((1, 3, 20, 20), np.uint8))


def test_a_folder_without_a_cell_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no readable record: name the folder"):
        gim_bench.load(tmp_path)


def test_weights_that_were_altered_are_refused(finished, tmp_path):
    there = folder_of(finished)
    (tmp_path / RECORD).write_bytes((there / RECORD).read_bytes())
    weights = bytearray((there / "encoder.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "encoder.safetensors").write_bytes(weights)
    with pytest.raises(ConfigError, match="was altered since: run the cell again"):
        gim_bench.load(tmp_path)


def test_a_record_that_names_no_method_is_refused(finished, tmp_path):
    there = folder_of(finished)
    record = read_record(there / RECORD)
    method = {name: value for name, value in record.config["method"].items() if name != "like"}
    nameless = replace(record, config={**record.config, "method": method})
    (tmp_path / RECORD).write_text(record_json(nameless))
    (tmp_path / WEIGHTS).write_bytes((there / WEIGHTS).read_bytes())
    with pytest.raises(ConfigError, match=r"are not of this version \(KeyError\): run the cell"):
        gim_bench.load(tmp_path)


def test_a_row_without_an_encoder_is_refused(tmp_path):
    suite = tiny_suite(tmp_path)
    runs = RunsFolder(tmp_path / "runs")
    record = run_cell(tiny_cell(suite, "pixels"), tiny_bench(suite), runs=runs)
    with pytest.raises(
        ConfigError,
        match="the weights of pixels's own encoder, which is no stack of modules: name a cell of",
    ):
        gim_bench.load(runs.folder_of(record))


def test_the_examples_of_the_page_run(tmp_path, monkeypatch, sizes_need_not_be_ints):
    """docs/python.md, from top to bottom, in a folder with the file of the tiny suite."""
    (tmp_path / "tiny.toml").write_text(TOML)
    monkeypatch.chdir(tmp_path)
    code = "\n".join(
        re.findall(r"```python\n(.*?)```", (DOCS / "python.md").read_text(), re.DOTALL)
    )
    space = {}
    exec(compile(code, "docs/python.md", "exec"), space)  # noqa: S102 - our own page
    assert json.loads(space["by_module"].to_json())["count"]
    assert (tmp_path / "error.pdf").is_file()
