"""More modules on top of a finished encoder: what stays, what is trained, what is refused."""

import json
import shutil

import pytest
import torch

from gim_bench.cells.build import build, models_of
from gim_bench.cells.pretrained import read_base
from gim_bench.cells.resolve import cells, configs
from gim_bench.cells.run import run_cell
from gim_bench.errors import ConfigError
from gim_bench.records.folder import RunsFolder
from gim_bench.seals import sealed
from gim_bench.settings.keys import keyed
from tests.tiny_suite import CPU, tiny_bench, tiny_cell, tiny_suite

THREE = "encoder.blocks=[1,1,1]"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a finished cell of two modules, below its folder of runs."""
    folder = tmp_path_factory.mktemp("trained")
    suite, runs = tiny_suite(folder), RunsFolder(folder / "runs")
    record = run_cell(tiny_cell(suite, "gim", seed=3), tiny_bench(suite), runs=runs)
    assert record.error is None
    return runs.folder_of(record)


@pytest.fixture
def finished(trained, tmp_path):
    """A copy of that folder, which a test may damage."""
    return shutil.copytree(trained, tmp_path / "runs" / "tiny" / "gim" / trained.name)


def on_top(tmp_path, folder, *overrides, method="gim"):
    """(suite, cell) of the method on top of the base in `folder`."""
    base = read_base(folder)
    suite = tiny_suite(tmp_path, *overrides)
    configured = configs(suite, methods=[method], device=CPU, base=base)
    seeds = [base.record.seed]
    (cell,) = cells(suite, configured, seeds=seeds, data_sha256="0" * 64, base=base)
    return suite, cell


def checked(tmp_path, folder, *overrides, method="gim", data_sha256="0" * 64):
    _, cell = on_top(tmp_path, folder, *overrides, method=method)
    assert cell.base is not None
    cell.base.check(cell.config, data_sha256=data_sha256)


def weights_of(folder):
    from safetensors.torch import load_file

    return load_file(folder / "encoder.safetensors")


def test_another_machine_s_copy_that_is_not_the_base_is_refused(finished, tmp_path):
    """Each process that trains reads the weights itself, in its own file system."""
    suite, cell = on_top(tmp_path, finished, THREE)
    (finished / "encoder.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match="name a folder that all machines see"):
        build(cell, tiny_bench(suite), target=models_of(cell, tiny_bench(suite))[0].target)


def test_the_base_stays_as_it_was_and_the_added_module_is_trained(finished, tmp_path):
    suite, cell = on_top(tmp_path, finished, THREE)
    bench, runs = tiny_bench(suite), RunsFolder(tmp_path / "runs")
    untrained = build(cell, bench, target=models_of(cell, bench)[0].target).encoder.state_dict()
    record = run_cell(cell, bench, runs=runs)
    assert record.error is None
    below, after = weights_of(finished), weights_of(runs.folder_of(record))
    added = after.keys() - below.keys()
    assert added
    assert all(name.startswith("stages.2.") for name in added)
    assert all(torch.equal(after[name], weights) for name, weights in below.items())
    assert any(not torch.equal(after[name], untrained[name]) for name in added)


def test_only_the_added_module_has_losses_steps_and_trained_parameters(finished, tmp_path):
    suite, cell = on_top(tmp_path, finished, THREE)
    bench = tiny_bench(suite)
    learner = build(cell, bench, target=models_of(cell, bench)[0].target)
    record = run_cell(cell, bench, runs=RunsFolder(tmp_path / "runs"))
    assert [sorted(row) for row in record.losses] == [["epoch", "module_3"]]
    assert record.metrics["train/steps"] == 2
    assert record.metrics["train/parameters"] == sum(
        parameter.numel() for parameter in learner.units()["module_3"]
    )
    assert {"accuracy/module_1", "accuracy/module_2", "accuracy/module_3"} <= set(record.metrics)


def test_two_modules_that_are_added_are_trained_one_after_the_other(finished, tmp_path):
    suite, cell = on_top(tmp_path, finished, "encoder.blocks=[1,1,1,1]")
    record = run_cell(cell, tiny_bench(suite), runs=RunsFolder(tmp_path / "runs"))
    assert [sorted(row) for row in record.losses] == [["epoch", "module_3", "module_4"]]
    assert record.metrics["train/steps"] == 4


def test_a_base_that_was_trained_before_a_setting_was_added_is_a_base_still(finished, tmp_path):
    """Its record lacks the settings that were added later, which stand at their defaults."""
    path = finished / "record.json"
    record = json.loads(path.read_text())
    config = keyed(tiny_cell(tiny_suite(tmp_path), "gim").config)  # as it was before that setting
    assert "blur" in record["config"]["augmentation"].keys() - config["augmentation"].keys()
    path.write_text(json.dumps(sealed(record | {"config": config})))
    checked(tmp_path, finished, THREE)
    with pytest.raises(ConfigError, match=r"its augmentation\.blur"):
        checked(tmp_path, finished, THREE, "augmentation.blur.kernel=5")


def test_outputs_of_the_base_can_be_kept(finished, tmp_path):
    suite, cell = on_top(tmp_path, finished, THREE, "training.kept_outputs.precision='fp32'")
    _, plain = on_top(tmp_path, finished, THREE)
    runs = RunsFolder(tmp_path / "runs")
    kept, recomputed = (run_cell(c, tiny_bench(suite), runs=runs) for c in (cell, plain))
    assert kept.losses == recomputed.losses


def test_the_row_has_a_name_and_a_key_of_its_own_and_the_seed_of_its_base(finished, tmp_path):
    base = read_base(finished)
    _, cell = on_top(tmp_path, finished, THREE)
    assert cell.config.method.name == f"gim_on_gim_{base.record.key[:8]}"
    assert cell.config.method.base == base.sha256
    assert cell.seed == 3
    assert cell.key != tiny_cell(tiny_suite(tmp_path, THREE), "gim", seed=3).key


def test_another_objective_may_stand_on_the_base(finished, tmp_path):
    suite, cell = on_top(tmp_path, finished, THREE, method="greedy_supervised")
    record = run_cell(cell, tiny_bench(suite), runs=RunsFolder(tmp_path / "runs"))
    assert record.error is None
    assert record.method.startswith("greedy_supervised_on_gim_")


@pytest.mark.parametrize(
    ("overrides", "method", "complaint"),
    [
        ((), "gim", r"it has all 2 modules of this encoder: add one"),
        (("encoder.blocks=[1,2,1]",), "gim", r"its modules have \[1, 1\] blocks, .*\[1, 2, 1\]"),
        ((THREE, "encoder.width=4"), "gim", r"its encoder\.width is 2, this suite's is 4"),
        ((THREE, "augmentation.mean=[0.3]"), "gim", r"its augmentation\.mean is \[0\.4\]"),
        ((THREE, "dataset.stripes=5"), "gim", r"its dataset\.stripes is 4, this suite's is 5"),
        ((THREE,), "cpc", r"the method 'cpc' trains no module apart from the others"),
        ((THREE,), "random_init", r"the method 'random_init' trains no module apart"),
        ((THREE, "training.schedule=pipeline"), "gim", r"modules on a base are trained one after"),
        ((THREE, "method.gim.units=2"), "gim", r"the row groups modules into 2 units, .*leave out"),
    ],
)
def test_what_does_not_fit_the_base_is_one_line(overrides, method, complaint, finished, tmp_path):
    with pytest.raises(ConfigError, match=rf"^--from {finished}: {complaint}"):
        checked(tmp_path, finished, *overrides, method=method)


def test_other_data_are_one_line(finished, tmp_path):
    with pytest.raises(ConfigError, match=r"its data sha256 is 0+, this suite's is 1+: use a base"):
        checked(tmp_path, finished, THREE, data_sha256="1" * 64)


def test_what_fits_is_not_refused(finished, tmp_path):
    checked(tmp_path, finished, THREE, "training.epochs=5", "training.learning_rate=1.0")


def test_a_folder_without_a_record_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no readable record: name the folder"):
        read_base(tmp_path)


def with_settings(finished, section, settings):
    """Another program's record, say."""
    path = finished / "record.json"
    found = json.loads(path.read_text())
    found["config"][section] |= settings
    path.write_text(json.dumps(sealed(found)))


@pytest.mark.parametrize("method", ["gim", "greedy_supervised"])
def test_a_base_that_knows_the_labels_chooses_on_no_unseen_examples(method, finished, tmp_path):
    with_settings(finished, "method", {"uses_labels": True})
    with pytest.raises(ConfigError, match=r"its encoder was trained on the labels .* unseen"):
        checked(tmp_path, finished, THREE, "probe.unseen_validation=true", method=method)
    checked(tmp_path, finished, THREE, "probe.unseen_validation=false", method=method)


def test_a_base_without_labels_may_choose_on_unseen_examples(finished, tmp_path):
    checked(tmp_path, finished, THREE, "probe.unseen_validation=true", method="greedy_supervised")


def test_a_base_on_a_base_that_knows_the_labels_knows_them(finished, tmp_path):
    """The second row learns without labels, and its lower modules have seen them all the same."""
    with_settings(finished, "method", {"uses_labels": True})
    overrides = ("encoder.blocks=[1,1,1]", "probe.unseen_validation=false")
    suite, cell = on_top(tmp_path, finished, *overrides)
    runs = RunsFolder(tmp_path / "runs")
    record = run_cell(cell, tiny_bench(suite), runs=runs)
    assert not record.config["method"]["uses_labels"]
    assert record.knows_labels
    second, four = runs.folder_of(record), "encoder.blocks=[1,1,1,1]"
    with pytest.raises(ConfigError, match=r"its encoder was trained on the labels .* unseen"):
        checked(tmp_path, second, four, "probe.unseen_validation=true")
    _, third = on_top(tmp_path, second, four, "probe.unseen_validation=false")
    assert third.config.method.base_uses_labels


def test_a_base_that_knows_the_labels_has_the_share_of_labels_of_the_new_row(finished, tmp_path):
    """Labels beyond the new row's share would be in the base."""
    half, seen = "probe.labelled_fraction=0.5", "probe.unseen_validation=false"
    checked(tmp_path, finished, THREE, half, seen)
    with_settings(finished, "method", {"uses_labels": True})
    with pytest.raises(ConfigError, match=r"labelled_fraction is 1\.0, this suite's is 0\.5"):
        checked(tmp_path, finished, THREE, half, seen)


def test_examples_that_trained_the_base_are_not_held_out(finished, tmp_path):
    with pytest.raises(ConfigError, match=r"its training\.held_out is 0\.0, this suite's is 0\.25"):
        checked(tmp_path, finished, THREE, "training.held_out=0.25")
    with_settings(finished, "training", {"held_out": 0.25})
    checked(tmp_path, finished, THREE, "training.held_out=0.25")
    checked(tmp_path, finished, THREE, "training.held_out=0.0")


def test_a_record_that_names_no_method_is_one_line(finished):
    with_settings(finished, "method", {"like": 3})
    with pytest.raises(ConfigError, match=r"^--from [^\n]*: its record does not say what it was "):
        read_base(finished)


def test_blocks_that_are_no_list_are_one_line(finished, tmp_path):
    with_settings(finished, "encoder", {"blocks": 3})
    with pytest.raises(ConfigError, match=r"^--from [^\n]*: its modules have \[3\] blocks"):
        checked(tmp_path, finished, THREE)


def test_a_cell_that_failed_is_no_base(finished):
    path = finished / "record.json"
    path.write_text(json.dumps(sealed({**json.loads(path.read_text()), "status": "failed"})))
    with pytest.raises(ConfigError, match=r"holds a cell that is failed"):
        read_base(finished)


def test_weights_that_were_altered_are_no_base(finished):
    path = finished / "encoder.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ConfigError, match=r"encoder\.safetensors was altered since"):
        read_base(finished)


@pytest.mark.parametrize("content", [None, b"", b"\x10\0\0\0\0\0\0\0{}", b"no safetensors at all"])
def test_weights_that_are_missing_or_damaged_are_one_line(content, finished):
    path = finished / "encoder.safetensors"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"cannot read its encoder\.safetensors \([^\n]+\): use"):
        read_base(finished)
