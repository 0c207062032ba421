"""Records and references that were altered, cut off, or written by something else."""

import json
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import strategies as st

from gim_bench.check.making import update
from gim_bench.records.folder import RECORD, RunsFolder
from gim_bench.seals import sealed
from gim_bench.tracking.entries import suite_entries
from tests.bad_input.feed import (
    VALUES,
    Answer,
    altered,
    check_answer,
    damaged,
    fed,
    folder_of_its_own,
    gim_bench,
)
from tests.check.cells import cells
from tests.tiny_suite import TOML, tiny_suite

COMMANDS = {
    "report": ("report", "--suite", "./tiny.toml"),
    "page": ("report", "--suite", "./tiny.toml", "--format", "html"),
    "list": ("report", "--suite", "./tiny.toml", "--format", "csv"),
    "data": ("report", "--suite", "./tiny.toml", "--format", "json"),
    "site": ("site", "--suite", "./tiny.toml", "--output", "public"),
    "check": ("check", "--suite", "./tiny.toml", "--against", "reference.json"),
    "update": (
        "check",
        "--suite",
        "./tiny.toml",
        "--against",
        "new.json",
        "--update",
        "--reason=x",
    ),
}
CODES = (0, 1, 2, 3)  # a check finds cells worse, or that it cannot judge


@cache
def _good() -> tuple[dict, str, list]:
    """A record, the reference, and all records."""
    with folder_of_its_own() as folder:
        suite = tiny_suite(folder)
        records = [_complete(record) for record in cells(suite)]
        update(folder / "reference.json", records, suite=suite, reason="the tests")
        first = json.loads(json.dumps(records[0].as_dict()))
        return first, (folder / "reference.json").read_text(), records


def _complete(record):
    """With all that a record of a trained and swept cell holds."""
    tried = {"learning_rate": 1e-3, "weight_decay": 0.0, "validation_accuracy": 61.0,
             "test_accuracy": 60.0}  # fmt: skip
    curve = [{"learning_rate": rate, "weight_decay": 0.0, "validation_accuracy": 61.0,
              "validation_loss": 1.5} for rate in (1e-3, 1e-2)]  # fmt: skip
    swept = {"trials": 2, "test_reads": 1, "best": tried, "paper": tried,
             "decades_within_one_point": 1.5, "curve": curve}  # fmt: skip
    units = ("module_1", "module_2")
    trains = record.method != "random_init"
    return replace(
        record,
        metrics={**record.metrics, **({"train/steps": 4.0} if trains else {})},
        losses=[{"epoch": e, "module_1": 2.3, "module_2": 2.0} for e in (1, 2)] if trains else [],
        probe_curves={unit: [[1e-3, 50.0], [1e-1, 61.0]] for unit in units},
        isolation={u: {v: float(u == v) for v in units} for u in units} if trains else {},
        sweeps={"module_2": swept},
    )


def _fed(content: bytes, command, *, reference: bytes | None = None) -> Answer:
    """The answer to a command where the first record, or the reference, is `content`."""
    _, good, records = _good()
    with folder_of_its_own() as folder:
        (folder / "tiny.toml").write_text(TOML)
        (folder / "reference.json").write_bytes(good.encode() if reference is None else reference)
        runs = RunsFolder(folder / "runs")
        for record in records:
            runs.save(record)
        if reference is None:
            (runs.folder_of(records[0]) / RECORD).write_bytes(content)
        with pytest.MonkeyPatch.context() as patch:
            if command == "site":  # its figures are those of "page", which take seconds
                patch.setattr("gim_bench.report.webpage._figure", lambda _: "")
            answer = gim_bench(*COMMANDS[command])
    check_answer(answer, codes=CODES)
    return answer


def _json(tree) -> bytes:
    """As json.dumps writes it, which has words for what is not finite."""
    return json.dumps(tree).encode()


@fed(40, data=st.data(), command=st.sampled_from(list(COMMANDS)))
def test_a_record_with_one_thing_wrong_is_answered_in_a_line(data, command):
    """With a seal of its own: another program wrote it so."""
    record, _, _ = _good()
    wrong = data.draw(altered(record))
    _fed(_json(sealed(wrong) if isinstance(wrong, dict) else wrong), command)


OF_OTHER_KINDS = {
    "a list for a sum": ("provenance", "data_sha256", b'["x"]'),
    "a word for a version": ("provenance", "results_version", b'"five"'),
    "a metric beyond all floats": ("metrics", "accuracy", b"1e999"),
    "a metric of 400 digits": ("metrics", "accuracy", b"1" + b"0" * 400),
}


@pytest.mark.parametrize("command", ["report", "site"])
@pytest.mark.parametrize("wrong", OF_OTHER_KINDS.values(), ids=OF_OTHER_KINDS)
def test_a_sealed_value_of_another_kind_leaves_its_record_out(wrong, command):
    record, _, _ = _good()
    table, name, value = wrong
    changed = sealed(record | {table: record[table] | {name: json.loads(value)}})
    content = _json(changed | {table: changed[table] | {name: "HERE"}}).replace(b'"HERE"', value)
    answer = _fed(content, command)
    assert answer.code == 0
    assert answer.err.startswith("left out: 1 record(s) that were altered, cut off, moved or")


@fed(60, data=st.data())
def test_a_record_with_one_thing_wrong_is_mirrored_or_does_not_count(data):
    """All that MLflow would be sent, but for MLflow, which takes seconds."""
    record, _, _ = _good()
    with folder_of_its_own() as folder:
        path = folder / "tiny" / "gim" / "seed-0-00000000" / RECORD
        path.parent.mkdir(parents=True)
        path.write_bytes(_json(sealed(data.draw(altered(record)))))
        runs = RunsFolder(folder)
        for entry in suite_entries(runs.records("tiny"), folder_of=runs.folder_of):
            assert len(entry.digest()) == 64


@fed(20, data=st.data(), command=st.sampled_from(list(COMMANDS)))
def test_a_damaged_record_is_answered_in_a_line(data, command):
    record, _, _ = _good()
    _fed(data.draw(damaged((_json(record),))), command)


@fed(20, content=VALUES.map(_json), command=st.sampled_from(list(COMMANDS)))
def test_other_json_than_a_record_is_answered_in_a_line(content, command):
    _fed(content, command)


@fed(30, data=st.data())
def test_a_reference_with_one_thing_wrong_is_answered_in_a_line(data):
    _, reference, _ = _good()
    tree = data.draw(altered(json.loads(reference)))
    _fed(b"", "check", reference=_json(tree))


@fed(15, data=st.data())
def test_a_damaged_reference_is_answered_in_a_line(data):
    _, reference, _ = _good()
    _fed(b"", "check", reference=data.draw(damaged((reference.encode(),))))
