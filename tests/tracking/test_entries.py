"""MLflow runs as records ask for them, without a store."""

import pytest

from gim_bench.records.patches import Pictures, save_pictures
from gim_bench.records.protocols import ProtocolResult, save_result
from gim_bench.records.record import Status
from gim_bench.tracking.entries import (
    Point,
    cell_entry,
    protocol_entries,
    suite_entries,
    summary_entries,
)
from tests.tracking.records import END, SWEPT, cell, picture


def numbers(entry):
    """The metrics of an entry by name."""
    return {point.name: point.value for point in entry.points}


# -- cells -----------------------------------------------------------------------------------------


def test_on_a_gpu_the_hardware_is_the_gpu():
    entry = cell_entry(cell(provenance={"device": "cuda", "gpu": "H200", "cpu": "A CPU"}))
    assert entry.tags["hardware"] == "H200"


def test_a_failed_cell_has_its_protocol_and_error_as_a_note():
    entry = cell_entry(cell(status=Status.FAILED, error="the loss is nan", metrics={}))
    assert entry.status == "FAILED"
    assert entry.tags["mlflow.note.content"].startswith("linear probe\n\nthe loss is nan\n\n")


def test_a_cell_on_speech_has_the_metrics_losses_and_curves_of_both_targets():
    entry = cell_entry(
        cell(
            "supervised",
            metrics={"speaker_accuracy": 98.0, "phone_accuracy/module_6": 60.0},
            losses=[{"epoch": 1.0, "speaker_module_6": 3.0, "phone_module_6": 2.0}],
            probe_curves={"speaker/module_6": [[0.1, 97.0]], "phone/module_6": [[0.1, 59.0]]},
        )
    )
    assert entry.points == [
        Point("speaker_accuracy", 98.0, 0),
        Point("phone_accuracy/module_6", 60.0, 0),
        Point("epoch_loss/speaker_module_6", 3.0, 1),
        Point("epoch_loss/phone_module_6", 2.0, 1),
    ]
    assert entry.files["probe_curves.csv"].splitlines()[1:] == [
        "speaker/module_6,0.1,97.0", "phone/module_6,0.1,59.0",
    ]  # fmt: skip


def test_a_loss_that_is_not_finite_leaves_a_gap():
    losses = [{"epoch": 1.0, "a": 2.0}, {"epoch": 2.0, "a": float("inf")}]
    entry = cell_entry(cell(metrics={}, losses=losses))
    assert entry.points == [Point("epoch_loss/a", 2.0, 1)]


def test_measures_of_an_encoder_are_metrics_with_the_epoch_as_their_step():
    inside = [
        {"epoch": 0.0, "effective_rank/module_1": 5.0, "cka/module_1/module_2": 0.5},
        {"epoch": 1.0, "effective_rank/module_1": 4.0},
    ]
    entry = cell_entry(cell(metrics={}, losses=[], inside=inside))
    assert entry.points == [
        Point("inside/effective_rank/module_1", 5.0, 0),
        Point("inside/cka/module_1/module_2", 0.5, 0),
        Point("inside/effective_rank/module_1", 4.0, 1),
    ]


# -- protocols -------------------------------------------------------------------------------------


def read_under(protocol, *, folder, **changes):
    """Save a result of the cell under a protocol."""
    record = cell()
    result = ProtocolResult(
        **{
            "protocol": protocol,
            "suite": record.suite,
            "method": record.method,
            "seed": record.seed,
            "key": record.key,
            "settings": {"modules": "top", "probe": {"kind": "adam", "steps": 9}},
            "files": {},
            "metrics": {"accuracy": 50.0},
            "chosen": {"class": 0.001},
            "provenance": {"git_commit": "later", "finished_at": "2026-11-01T10:01:00+00:00"},
        }
        | changes
    )
    save_result(folder, result, None)


def test_a_result_of_a_protocol_has_the_metrics_of_a_record_and_the_protocol_as_a_parameter(
    tmp_path,
):
    read_under("clapp", folder=tmp_path, metrics={"accuracy": 50.0, "unconverged": 1})
    (entry,) = protocol_entries(cell(), folder=tmp_path)
    assert numbers(entry) == {"accuracy": 50.0, "unconverged": 1}
    assert entry.params == {
        "protocol": "clapp",
        "modules": "top",
        "probe.kind": "adam",
        "probe.steps": "9",
        "chosen.class": "0.001",
    }
    assert entry.tags["method"] == "gim"
    assert (entry.started_ms, entry.finished_ms) == (END, END)


def test_a_result_of_a_protocol_names_the_code_that_read_the_encoder(tmp_path):
    read_under("knn", folder=tmp_path)
    (entry,) = protocol_entries(cell(), folder=tmp_path)
    assert entry.tags["git_commit"] == "later"
    assert entry.tags["data_sha256"] == "0123"


def test_a_protocol_that_does_not_apply_has_no_run(tmp_path):
    read_under("block_head", folder=tmp_path, metrics={}, reason="no head")
    assert protocol_entries(cell(), folder=tmp_path) == []


def test_a_result_of_other_weights_has_no_run(tmp_path):
    read_under("knn", folder=tmp_path, files={"encoder.safetensors": "0" * 64})
    assert protocol_entries(cell(), folder=tmp_path) == []


# -- summaries -------------------------------------------------------------------------------------


def test_a_summary_holds_mean_spread_and_interval():
    """Values 2, 4, 6, 8: mean 5, standard deviation √(20/3), t(0.975, 3) = 3.1824463."""
    values = (2.0, 4.0, 6.0, 8.0)
    (entry,) = summary_entries([cell(seed=s, accuracy=v) for s, v in enumerate(values)])
    assert entry.name == "gim summary, n=4"
    assert numbers(entry) == pytest.approx(
        {
            "n": 4,
            "accuracy": 5.0,
            "accuracy/std": 2.5819889,
            "accuracy/ci95": 4.1085205,
            "accuracy/module_1": 55.5,
            "accuracy/module_1/std": 0.0,
            "accuracy/module_1/ci95": 0.0,
        }
    )
    assert entry.tags["seeds"] == "0, 1, 2, 3"
    assert entry.params["encoder.width"] == "8"


def test_one_seed_has_a_summary_without_an_interval():
    (entry,) = summary_entries([cell()])
    assert numbers(entry) == {"n": 1, "accuracy": 60.0, "accuracy/module_1": 55.5}


def test_a_summary_is_as_new_as_its_newest_cell():
    """MLflow lists the newest first: a summary stands with its cells, not below the first."""
    late = cell().provenance | {"finished_at": "2026-11-01T11:00:00+00:00"}
    (entry,) = summary_entries([cell(seed=1, provenance=late), cell()])
    assert entry.started_ms == entry.finished_ms == END + 59 * 60_000


def test_failed_cells_have_no_summary():
    records = [cell(), cell("cpc"), cell("random_init", status=Status.FAILED)]
    assert [entry.tags["method"] for entry in summary_entries(records)] == ["gim", "cpc"]


def test_tags_in_which_seeds_differ_are_left_out_of_the_summary():
    moved = cell().provenance | {"git_commit": "later"}
    (entry,) = summary_entries([cell(), cell(seed=1, provenance=moved)])
    assert "git_commit" not in entry.tags
    assert entry.tags["data_sha256"] == "0123"


def test_a_summary_says_whether_its_seeds_are_of_one_experiment():
    moved = cell().provenance | {"git_commit": "later"}
    (entry,) = summary_entries([cell(), cell(seed=1, provenance=moved)])
    assert entry.tags["mixed"] == "git_commit"
    (entry,) = summary_entries([cell(), cell(seed=1)])
    assert entry.tags["mixed"] == "nothing"


# case 4
@pytest.mark.parametrize("origin", [{"data_sha256": "4567"}, {"results_version": 3}])
def test_cells_of_other_data_or_another_version_have_a_summary_of_their_own(origin):
    other = cell().provenance | origin
    first, second = summary_entries([cell(), cell(seed=1, provenance=other)])
    assert (first.tags["seeds"], second.tags["seeds"]) == ("0", "1")
    assert first.identity != second.identity
    assert second.identity | {name: str(v) for name, v in origin.items()} == second.identity


def test_cells_of_other_settings_have_a_summary_of_their_own():
    other = cell().config | {"encoder": {"width": 16}}
    records = [cell(accuracy=60.0), cell(seed=1, accuracy=62.0)]
    records += [cell(seed=s, key=f"w{s}", accuracy=90.0, config=other) for s in (0, 1, 2)]
    eight, sixteen = summary_entries(records)
    assert (eight.params["encoder.width"], numbers(eight)["accuracy"]) == ("8", 61.0)
    assert (sixteen.params["encoder.width"], numbers(sixteen)["accuracy"]) == ("16", 90.0)
    assert eight.identity != sixteen.identity


def test_a_cell_that_ran_on_another_device_counts_in_the_same_summary():
    moved = cell().config | {"device": "cuda"}
    (entry,) = summary_entries([cell(), cell(seed=1, accuracy=62.0, config=moved)])
    assert (numbers(entry)["n"], numbers(entry)["accuracy"]) == (2, 61.0)


def test_seeds_from_after_an_upgrade_count_in_the_summary_that_was_there():
    """A setting that the package learnt later, at its default, makes no other experiment."""
    later = cell(seed=1, accuracy=62.0, config=cell().config | {"blur": 0})

    def complete(config):
        return {"blur": 0, **config}

    (before,) = summary_entries([cell()], complete=complete)
    (after,) = summary_entries([later, cell()], complete=complete)
    assert (numbers(after)["n"], after.identity) == (2, before.identity)


# -- a suite ---------------------------------------------------------------------------------------


def test_records_ask_for_their_cells_sweeps_and_summaries_but_not_while_running(tmp_path):
    records = [
        cell(sweeps={"module_2": SWEPT}),
        cell("cpc", status=Status.FAILED),
        cell("supervised", status=Status.RUNNING),
    ]
    entries = suite_entries(records, folder_of=lambda _: tmp_path)
    assert [entry.name for entry in entries] == [
        "gim seed 0", "cpc seed 0", "gim seed 0 sweep", "gim summary, n=1",
    ]  # fmt: skip


def test_pictures_of_patches_belong_to_the_entry_and_its_digest(tmp_path):
    """New pictures of the same cell, in files of the same name, are another entry."""
    record = cell()

    def entry(content):
        facts = Pictures(key=record.key, weights={}, images=1, pictures=(picture(content),))
        save_pictures(facts, contents={"module_1.png": content}, folder=tmp_path)
        found = cell_entry(record, folder=tmp_path)
        assert [path.name for path in found.pictures] == ["module_1.png"]
        return found.digest()

    without = cell_entry(record, folder=tmp_path).digest()
    digests = [entry(content) for content in (b"one", b"two", b"two")]
    assert len({without, *digests}) == 3
    assert digests[1] == digests[2]
