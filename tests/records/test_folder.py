"""Records on disk: whole or not there, readable by people, and the same when read back."""

import csv
import json
import os
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gim_bench.errors import ConfigError
from gim_bench.records import folder
from gim_bench.records.claims import owner_of
from gim_bench.records.folder import RECORD, RunsFolder
from gim_bench.records.predictions import PREDICTIONS, Predictions
from gim_bench.records.record import Record, Status
from gim_bench.seals import sealed

KEY = "0123456789abcdef" * 4


def record(**changes):
    return Record(
        **{
            "suite": "tiny",
            "method": "gim",
            "dataset": "photos",
            "seed": 2,
            "key": KEY,
            "status": Status.DONE,
            "metrics": {"accuracy": 61.5, "train/steps": 40},
            "config": {
                "method": {"name": "gim", "options": {}},
                "training": {"learning_rate": 1e-3, "epochs": 3},
                "probe": {"learning_rates": [0.1, 0.01]},
                "nothing": None,
            },
            "provenance": {"gpu": None, "cores": 2, "finished_at": "2026-11-01T10:01:00+00:00"},
            "protocol": "linear probe, 20 % held out – “frozen”",
            "losses": [
                {"epoch": 1, "module_1": 2.5, "module_2": 2.75},
                {"epoch": 2, "module_1": 2.0, "module_2": 2.25},
            ],
            "probe_curves": {"module_1": [[0.1, 60.0], [0.01, 61.5]]},
        }
        | changes
    )


def predicted(answer):
    """The same answer to three labels of two images."""
    return Predictions(
        labels={"class": np.array([0, 1, 2])},
        items={"class": np.array([0, 0, 1])},
        predicted={"accuracy": np.full(3, answer)},
    )


def found(runs, *, key=KEY):
    return runs.find("tiny", "gim", seed=2, key=key)


# -- round trip ------------------------------------------------------------------------------------


def test_a_record_is_read_back_as_it_was_saved(runs):
    runs.save(record())
    assert found(runs) == record()
    assert runs.records("tiny") == [record()]


@pytest.mark.parametrize("status", Status)
def test_every_status_survives(status, runs):
    runs.save(record(status=status, error="why"))
    assert found(runs).status is status
    assert found(runs).error == "why"


def test_saving_again_replaces_the_record(runs):
    runs.save(record(status=Status.RUNNING, metrics={}))
    runs.save(record())
    assert runs.records("tiny") == [record()]


def test_the_folder_is_named_after_suite_method_seed_and_key(runs):
    folder = runs.folder_of(record())
    assert folder == runs.root / "tiny" / "gim" / "seed-2-01234567"
    runs.save(record())
    assert {path.name for path in folder.iterdir()} == {RECORD, "config.toml", "losses.csv"}


def test_a_record_of_another_key_in_the_same_folder_is_not_the_cell(runs):
    """Folders carry eight digits of the key, the record all of them."""
    runs.save(record())
    assert found(runs, key=KEY[:8] + "f" * 56) is None


def test_a_cell_that_was_never_run_has_no_record(runs):
    assert found(runs) is None
    assert runs.records("tiny") == []


def test_records_of_other_suites_are_left_out_and_the_order_is_stable(runs):
    for method in ("random_init", "gim"):
        for seed in (1, 0):
            runs.save(record(method=method, seed=seed))
    runs.save(record(suite="other"))
    names = [(r.method, r.seed) for r in runs.records("tiny")]
    assert names == [("gim", 0), ("gim", 1), ("random_init", 0), ("random_init", 1)]


# -- files that people and programs read -----------------------------------------------------------


def test_the_suites_that_have_records_are_known_by_name(runs):
    assert runs.suites() == []
    runs.save(record(suite="b"))
    runs.save(record(suite="a", seed=1))
    runs.save(record(suite="a"))
    (runs.root / "c" / "gim" / "seed-0-begun").mkdir(parents=True)
    assert runs.suites() == ["a", "b"]


def test_the_configuration_is_toml_without_what_toml_has_no_word_for(runs):
    runs.save(record())
    table = tomllib.loads((runs.folder_of(record()) / "config.toml").read_text())
    config = dict(record().config)
    del config["nothing"]
    assert table == config


def test_tables_within_lists_are_written_without_their_nulls(runs):
    """Augmented views are a list of tables, and a transform that is off is null."""
    changed = record(config={"further_views": [{"blur": None, "gray": 0.2}]})
    runs.save(changed)
    table = tomllib.loads((runs.folder_of(changed) / "config.toml").read_text())
    assert table == {"further_views": [{"gray": 0.2}]}


def test_the_losses_are_a_table_with_a_row_for_each_epoch(runs):
    runs.save(record())
    with (runs.folder_of(record()) / "losses.csv").open() as file:
        assert list(csv.DictReader(file)) == [
            {"epoch": "1", "module_1": "2.5", "module_2": "2.75"},
            {"epoch": "2", "module_1": "2.0", "module_2": "2.25"},
        ]


def test_a_method_that_trains_nothing_has_an_empty_table(runs):
    runs.save(record(losses=[]))
    assert (runs.folder_of(record()) / "losses.csv").read_text() == ""


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_has_no_word_for_becomes_null(value, runs):
    runs.save(record(metrics={"loss": value, "accuracy": 1.0}, losses=[{"epoch": 1, "m": value}]))
    text = (runs.folder_of(record()) / RECORD).read_text()
    table = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert table["metrics"] == {"loss": None, "accuracy": 1.0}
    assert table["losses"] == [{"epoch": 1, "m": None}]


def test_a_metric_that_was_not_a_number_is_absent_when_read_back(runs):
    """Readers may take every metric for a number."""
    runs.save(record(metrics={"loss": float("nan"), "accuracy": 1.0}))
    assert found(runs).metrics == {"accuracy": 1.0}


def test_the_encoders_weights_are_read_back_bit_for_bit(runs):
    weights = {
        "stages.0.weight": torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last),
        "bias": torch.randn(4, requires_grad=True),
    }
    runs.put_encoders(record(files=runs.save_encoder(record(), weights, name="encoder")))
    read = load_file(runs.folder_of(record()) / "encoder.safetensors")
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[name], weights[name]) for name in weights)


def test_each_of_a_cells_encoders_has_a_file_of_its_own(runs):
    """Supervised methods on speech train two models."""
    for number, name in enumerate(("speaker_encoder", "phone_encoder")):
        weights = {"bias": torch.full((3,), number)}
        runs.put_encoders(record(files=runs.save_encoder(record(), weights, name=name)))
    folder = runs.folder_of(record())
    assert load_file(folder / "speaker_encoder.safetensors")["bias"].tolist() == [0, 0, 0]
    assert load_file(folder / "phone_encoder.safetensors")["bias"].tolist() == [1, 1, 1]


def test_an_encoder_without_weights_is_an_empty_file_of_its_kind(runs):
    """As MFCC's, which learns nothing."""
    runs.put_encoders(record(files=runs.save_encoder(record(), {}, name="encoder")))
    assert load_file(runs.folder_of(record()) / "encoder.safetensors") == {}


def test_a_new_encoder_leaves_a_finished_record_what_it_names_until_it_is_put_in_place(runs):
    first, second = ({"bias": torch.full((3,), number)} for number in (1, 2))
    before = record(files=runs.save_encoder(record(), first, name="encoder"))
    runs.put_encoders(before)
    runs.save(before)
    after = record(files=runs.save_encoder(record(), second, name="encoder"))
    assert found(runs) == before
    runs.put_encoders(after)
    assert found(runs) is None


def test_predictions_are_kept_beside_the_record(runs):
    predictions = predicted(2)
    kept = record(files=runs.save_predictions(record(), predictions))
    runs.put_encoders(kept)
    runs.save(kept)
    assert found(runs) == kept
    assert runs.predictions(kept).packed() == predictions.packed()


def test_new_predictions_leave_the_earlier_ones_in_place_until_they_are_put(runs):
    before = record(files=runs.save_predictions(record(), predicted(0)))
    runs.put_encoders(before)
    after = record(files=runs.save_predictions(record(), predicted(1)))
    assert (runs.predictions(before) is None, runs.predictions(after) is None) == (False, True)
    runs.put_encoders(after)
    assert (runs.predictions(before) is None, runs.predictions(after) is None) == (True, False)


def test_altered_predictions_do_not_count(runs):
    kept = record(files=runs.save_predictions(record(), predicted(0)))
    runs.put_encoders(kept)
    runs.save(kept)
    (runs.folder_of(kept) / PREDICTIONS).write_bytes(predicted(1).packed())
    assert runs.predictions(kept) is None
    assert found(runs) is None


@pytest.fixture
def files_read(monkeypatch):
    """Names of the files whose sha256 was computed."""
    names = []

    def sha256_of(path):
        names.append(path.name)
        return whole(path)

    whole = folder.sha256_of
    monkeypatch.setattr(folder, "sha256_of", sha256_of)
    return names


def old(path):
    """The path of a file that was written an hour ago."""
    os.utime(path, (path.stat().st_mtime - 3600,) * 2)
    return path


def test_a_file_that_has_not_changed_is_read_once(runs, files_read):
    kept = record(files=runs.save_predictions(record(), predicted(0)))
    runs.put_encoders(kept)
    runs.save(kept)
    path = old(runs.folder_of(kept) / PREDICTIONS)
    assert [found(runs), found(runs)] == [kept, kept]
    assert files_read == [PREDICTIONS]
    path.write_bytes(predicted(1).packed())
    assert found(runs) is None


def test_a_file_that_has_just_been_written_is_read_each_time(runs, files_read):
    """A second write within a tick of the clock leaves the time and the size as they were."""
    kept = record(files=runs.save_predictions(record(), predicted(0)))
    runs.put_encoders(kept)
    runs.save(kept)
    assert [found(runs), found(runs)] == [kept, kept]
    assert files_read == [PREDICTIONS, PREDICTIONS]


def test_a_record_of_before_predictions_has_none(runs):
    runs.save(record())
    assert runs.predictions(record()) is None


def test_the_log_of_a_failed_cell_lies_beside_its_record(runs):
    path = runs.save_log(record(), "Traceback\n…\n")
    assert path == runs.folder_of(record()) / "error.log"
    assert path.read_text() == "Traceback\n…\n"


def test_the_log_of_an_earlier_failure_goes_when_the_cell_is_done(runs):
    runs.save_log(record(), "Traceback")
    runs.save(record(status=Status.FAILED))
    assert (runs.folder_of(record()) / "error.log").exists()
    runs.save(record())
    assert not (runs.folder_of(record()) / "error.log").exists()


# -- damage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "null",
        lambda text: "[1, 2]",
        lambda text: "{}",
        lambda text: text.replace('"done"', '"finished?"'),
        lambda text: text.replace('"seed"', '"sead"'),
        lambda text: text.replace('"status"', '"state"'),
        lambda text: text.replace("60.0", "61.0"),
        lambda text: "\udcff",
    ],
    ids=[
        "half written", "empty", "null", "a list", "nothing in it", "an unknown status",
        "a missing field", "no status", "another number", "not UTF-8",
    ],
)  # fmt: skip
def test_a_damaged_record_does_not_count(damage, runs):
    runs.save(record(seed=0))
    runs.save(record())
    path = runs.folder_of(record()) / RECORD
    text = damage(path.read_text())
    path.write_text(text, errors="surrogateescape")
    assert found(runs) is None
    assert runs.records("tiny") == [record(seed=0)]


TRIED = {"learning_rate": 1.0, "weight_decay": 0.0, "validation_accuracy": 1.0}
SWEPT = {"trials": 2, "decades_within_one_point": None, "paper": TRIED | {"test_accuracy": 1.0}}


@pytest.mark.parametrize(
    "change",
    [
        {"suite": "../tiny"},
        {"method": "../gim"},
        {"key": "0"},
        {"seed": "2"},
        {"metrics": {"accuracy": "high"}},
        {"config": {"method": []}},
        {"config": {"training": 3}},
        {"provenance": {"versions": ["torch"]}},
        {"provenance": {"threads": "two"}},
        {"losses": [{"module_1": 2.5}]},
        {"losses": [{"epoch": None, "module_1": 2.5}]},
        {"losses": [{"epoch": float("nan"), "module_1": 2.5}]},
        {"provenance": {"finished_at": "yesterday"}},
        {"provenance": {"started_at": 5}},
        {"probe_curves": {"module_1": [[0.1]]}},
        {"isolation": {"module_1": {"module_1": 1.0}}},  # of no declared gradient flow
        {"isolation": [], "config": {"method": {"gradient_flow": "none"}}},
        {"sweeps": {"module_1": SWEPT | {"best": TRIED}}},
        {"sweeps": {"module_1": SWEPT | {"best": SWEPT["paper"], "trials": "all"}}},
        {"sweeps": {"module_1": SWEPT | {"best": SWEPT["paper"], "decades_within_one_point": "1"}}},
        {"sweeps": {"module_1": SWEPT | {"best": SWEPT["paper"], "curve": [TRIED]}}},
    ],
)
def test_a_record_that_readers_would_stumble_over_does_not_count(change, runs):
    runs.save(record())
    path = runs.folder_of(record()) / RECORD
    path.write_text(json.dumps(sealed(json.loads(path.read_text()) | change)))
    assert runs.records("tiny") == []


def test_a_pipe_in_the_place_of_an_encoder_is_not_waited_for(runs):
    saved = record(files={"encoder.safetensors": "0" * 64})
    runs.save(saved)
    os.mkfifo(runs.folder_of(saved) / "encoder.safetensors")
    assert found(runs) is None


def test_a_complete_record_counts(runs):
    """What the changes above were made to."""
    whole = {
        "isolation": {"module_1": {"module_1": 1.0, "module_2": None}},
        "config": {"method": {"gradient_flow": "isolated"}},
        "sweeps": {"module_1": SWEPT | {"best": SWEPT["paper"]}},
    }
    runs.save(record(**whole))
    assert runs.records("tiny") == [record(**whole)]


def test_a_loss_that_was_not_a_number_is_absent_when_read_back(runs):
    runs.save(record(losses=[{"epoch": 1, "module_1": float("nan"), "module_2": 2.0}]))
    assert found(runs).losses == [{"epoch": 1, "module_2": 2.0}]


def test_a_field_of_a_later_version_does_not_hide_the_record(runs):
    runs.save(record())
    path = runs.folder_of(record()) / RECORD
    path.write_text(json.dumps(sealed(json.loads(path.read_text()) | {"mood": "sunny"})))
    assert found(runs) == record()


def test_a_failing_write_leaves_the_old_record_and_no_litter(runs, monkeypatch):
    runs.save(record())
    folder = runs.folder_of(record())
    names = {path.name for path in folder.iterdir()}

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        runs.save(record(metrics={"accuracy": 99.0}))
    assert found(runs) == record()
    assert {path.name for path in folder.iterdir()} == names


def test_the_record_is_written_last(runs, monkeypatch):
    """A folder whose record says done is complete."""
    written = []
    monkeypatch.setattr(
        "gim_bench.records.folder.write_atomically", lambda path, content: written.append(path.name)
    )
    runs.save(record())
    assert written[-1] == RECORD
    assert set(written) == {RECORD, "config.toml", "losses.csv"}


def test_what_is_left_of_a_cell_that_was_removed_is_who_is_at_it(runs):
    """Or another process would begin it in the folder that is being removed."""
    identity = {"method": "gim", "seed": record().seed, "key": record().key}
    with runs.claimed("tiny", **identity) as claim:
        runs.save(record())
        runs.save_features(record(), torch.zeros(1), name="f", encoder="e")
        runs.remove(record())
        assert [path.name for path in runs.folder_of(record()).iterdir()] == ["claim.json"]
        assert claim.owner == owner_of(runs.folder_of(record()))
    assert not runs.folder_of(record()).exists()


# -- writable --------------------------------------------------------------------------------------


def test_a_writable_folder_is_made_and_left_empty(runs):
    runs.check_writable()
    assert list(runs.root.iterdir()) == []


def test_processes_that_begin_together_do_not_remove_what_the_others_look_with(runs, monkeypatch):
    """Whatever has a name goes the moment it is there, as another process would remove it."""
    replace = Path.replace

    def replace_and_lose(path, target):
        replace(path, target).unlink()

    monkeypatch.setattr(Path, "replace", replace_and_lose)
    runs.check_writable()


def test_a_folder_that_cannot_be_written_gets_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError) as error:
        RunsFolder(tmp_path / "file" / "runs").check_writable()
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"cannot write records to {tmp_path}/file/runs (")
    assert message.endswith("choose another folder with --runs-dir")


def test_a_record_in_a_copy_of_its_folder_is_left_out(runs):
    runs.save(record())
    kept = runs.folder_of(record())
    copy = shutil.copytree(kept, kept.with_name(f"{kept.name}-backup"))
    assert [each.key for each in runs.records("tiny")] == [KEY]
    assert runs.unreadable("tiny") == [copy / RECORD]
    assert "moved" in folder.left_out(runs.unreadable("tiny"))
