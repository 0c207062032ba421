"""The file that holds a reference: what goes in, what comes back, what is refused."""

import json
from dataclasses import replace

import pytest

from gim_bench import RESULTS_VERSION
from gim_bench.check.making import update
from gim_bench.check.reference import read_reference, reference_path
from gim_bench.errors import ConfigError
from gim_bench.records import provenance
from gim_bench.records.record import Status
from tests.check.cells import COMMITTED, audited, cell, cells, changed, reference_of

LEAK = {"module_2": {"module_1": 0.01, "module_2": 0.2}}


@pytest.fixture
def file(tmp_path, suite):
    path = tmp_path / "references" / "tiny.json"
    update(path, cells(suite), suite=suite, reason="first")
    return path


def complaint(path, suite="tiny"):
    with pytest.raises(ConfigError) as caught:
        read_reference(path, suite=suite)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def altered(file, alter):
    table = json.loads(file.read_text())
    alter(table)
    file.write_text(json.dumps(table))


def test_values_stand_by_seed_beside_where_they_come_from(file, suite):
    kept = read_reference(file, suite="tiny")
    gim = kept.methods["gim"]
    assert gim.seeds == (0, 1, 2)
    assert gim.metrics["loss"] == pytest.approx({0: 1.98, 1: 2.0, 2: 2.02})
    assert "train/seconds" not in gim.metrics
    assert "loss/module_2" not in gim.metrics  # the top module's, which "loss" is
    assert "device" not in gim.config
    assert gim.config["training"]["epochs"] == 1
    assert (kept.reason, kept.protocol, kept.data_sha256) == ("first", suite.protocol, "0" * 64)
    assert kept.machine.device == "cpu"


def test_an_earlier_reference_goes_to_the_history_of_the_file(file, suite):
    before = read_reference(file, suite="tiny")
    for reason in ("second", "third,\n of two lines"):
        update(file, cells(suite), suite=suite, reason=reason)
    kept = read_reference(file, suite="tiny")
    assert [change.reason for change in kept.history] == ["first", "second"]
    assert kept.history[0].date == before.date
    assert kept.reason == "third, of two lines"


# case 7
def test_a_reference_saved_with_a_byte_order_mark_is_read_as_without(file):
    before = read_reference(file, suite="tiny")
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert read_reference(file, suite="tiny") == before


@pytest.mark.parametrize("reason", ["", "  "])
def test_a_new_reference_needs_a_reason(reason, file, suite):
    before = file.read_text()
    with pytest.raises(ConfigError, match="needs a reason: --update --reason"):
        update(file, cells(suite), suite=suite, reason=reason)
    assert file.read_text() == before


def test_records_that_cannot_be_judged_by_make_no_reference(file, suite):
    before = file.read_text()
    longer = suite.model_copy(update={"training": suite.training.model_copy(update={"epochs": 2})})
    for records, why in (
        ([], "no cell of gim"),
        (cells(suite, seeds=[0]), "gim has 1 seed"),
        ([*cells(suite), cell(suite, seed=3, status=Status.FAILED, error="no")], "seed 3 failed"),
        ([*changed(cells(suite)[:1], git_commit="another"), *cells(suite)[1:]], "mixed git_commit"),
        ([without(cells(suite)[0], "loss"), *cells(suite)[1:]], "gim seed 0 has no loss, as"),
        (changed(cells(suite), git_dirty=True), "a-dirty, .*: commit first"),
        ([audited(cells(suite)[0], LEAK), *cells(suite)[1:]], "gim seed 0: the loss of module_2"),
        ([*cells(suite)[:3], *cells(longer)[3:]], "undeclared difference: training.epochs"),
        (changed(cells(suite), git_commit="b" * 40), f"are of commit {'b' * 40}, the code is aaa"),
        (trained(cells(suite)), "gradients of gim were not measured in seed 0, 1, 2"),
        (changed(cells(suite), resumed_at_step=[50]), "gim seed 0 was interrupted and resumed"),
    ):
        with pytest.raises(ConfigError, match=f"make no reference: .*{why}"):
            update(file, records, suite=suite, reason="x")
    assert file.read_text() == before


def test_a_checkout_that_another_reference_was_just_written_to_is_not_other_code(
    suite, tmp_path, monkeypatch
):
    """Both of a commit: the second one is of the same cells as the first, and as clean."""
    monkeypatch.setattr(provenance, "git_state", lambda: {**COMMITTED, "git_dirty": True})
    update(tmp_path / "second.json", cells(suite), suite=suite, reason="second")
    assert read_reference(tmp_path / "second.json", suite="tiny").reason == "second"


def test_what_cells_cost_that_shared_the_machine_is_not_in_their_reference(suite, tmp_path):
    """Nothing would ever be compared with it."""
    shared = changed(cells(suite), workers=2)
    *_, last = update(tmp_path / "shared.json", shared, suite=suite, reason="x")
    assert last == "memory and speed are left out, as 2 workers shared the machine"
    of_shared, of_alone = (
        reference_of(records, suite=suite).methods["gim"].metrics.keys()
        for records in (shared, cells(suite))
    )
    assert of_alone - of_shared == {
        "memory/host_over_baseline_bytes",
        "train/step_per_calibration",
    }
    assert "accuracy" in of_shared


def trained(records):
    """The records, saying that they took steps."""
    return [replace(r, metrics={**r.metrics, "train/steps": 2.0}) for r in records]


def without(record, metric):
    kept = {name: x for name, x in record.metrics.items() if name != metric}
    return replace(record, metrics=kept)


def test_a_file_that_is_not_there_says_how_to_write_one(tmp_path):
    assert "No such file" in (message := complaint(tmp_path / "none.json"))
    assert "--against" in message
    assert "--update --reason" in message


def test_a_file_that_is_no_json_is_one_line(file):
    file.write_text('{"format": 1,')
    assert "invalid JSON" in complaint(file)


@pytest.mark.parametrize(
    ("alter", "place"),
    [
        (lambda t: t.update(format=2), "format: input should be 1"),
        (lambda t: t.pop("data_sha256"), "data_sha256: field required"),
        (lambda t: t.update(seeds=3), "seeds: extra inputs"),
        (lambda t: t["methods"]["gim"].update(seeds=[0]), "methods.gim: accuracy has values"),
        (lambda t: t["methods"]["gim"]["metrics"]["loss"].update({"0": "x"}), "metrics.loss.0"),
        (lambda t: t["machine"].update(threads="two"), "machine.threads"),
    ],
)
def test_a_broken_file_is_named_with_the_place_and_what_to_do(alter, place, file):
    altered(file, alter)
    message = complaint(file)
    assert place in message
    assert "restore the file from version control" in message


@pytest.mark.parametrize("name", ["los", "train/seconds"])
def test_a_metric_that_is_not_judged_is_refused(name, file):
    altered(file, lambda t: t["methods"]["gim"]["metrics"].update({name: dict.fromkeys("012", 1)}))
    message = complaint(file)
    assert f"no compared metric {name!r}" in message
    assert "methods.gim.metrics" in message


def test_another_suites_reference_is_refused(file):
    assert "is the reference of suite 'tiny', not of 'stl10'" in complaint(file, suite="stl10")


def test_shipped_references_lie_beside_the_package_and_can_be_read():
    for path in reference_path("smoke").parent.glob("*.json"):
        kept = read_reference(path, suite=path.stem)
        assert kept.results_version == RESULTS_VERSION  # else no check can be judged
    assert reference_path("smoke").is_file()
