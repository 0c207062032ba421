"""The measurement of a GPU, rehearsed on a CPU: every part runs, and nothing stops the others."""

import argparse
import json
import os
import subprocess
import time
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import machine, models, peak_memory, probes, steps, traces, worker
from benchmarks.gpu.case import Setting
from benchmarks.gpu.plan import PARTS, REHEARSAL, SIZES
from benchmarks.gpu.report import write_report
from tests.benchmarks.some_parts import HERE, part, refusing_model

CPU = torch.device("cpu")
SIZES_OF_TEST = replace(REHEARSAL, timed_seconds=0.0, training_seconds=0.0, compile_seconds=1e9)


@pytest.fixture
def setting(tmp_path):
    return Setting(
        device=CPU, sizes=SIZES_OF_TEST, folder=tmp_path, deadline=time.monotonic() + 3600
    )


def written(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


# -- parts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tried", PARTS, ids=lambda each: each.name)
def test_every_part_can_be_tried_on_a_cpu(tried, setting, monkeypatch):
    """Its first case; parts that only a GPU has give no rows."""
    cases = list(islice(tried.load()(setting), 1))
    monkeypatch.setattr(type(tried), "load", lambda _: lambda _: cases)
    worker.measure(replace(tried, seconds=3600), setting)
    found = written(setting.folder, tried.name)
    too_long = tried.name in {"compiled", "compiled_more"}
    assert found["status"] == ("not measured" if too_long else "done")
    assert not [row["failed"] for row in found["rows"] if "failed" in row]
    assert bool(found["rows"]) == (tried.name not in {"waits", "nvml"})


class BuiltError(Exception):
    """Ends a case where its model is there, before any step."""


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(
    "tried",
    [each for each in PARTS if each.name not in {"machine", "peaks", "nvml"}],
    ids=lambda each: each.name,
)
def test_the_settings_of_every_case_on_a_gpu_are_valid(tried, sizes, tmp_path, monkeypatch):
    made = models.Model.__init__

    def make(*args, **kwargs):
        made(*args, **kwargs)
        raise BuiltError

    monkeypatch.setattr(models.Model, "__init__", make)
    monkeypatch.setattr(steps, "_has_compiler", lambda device: True)
    monkeypatch.setattr(steps, "_tried_row", lambda setting, make: make())
    monkeypatch.setattr(probes, "suite_bench", lambda *_, **__: SimpleNamespace())
    later, gpu = time.monotonic() + 3600, torch.device("cuda")
    setting = Setting(device=gpu, sizes=SIZES[sizes], folder=tmp_path, deadline=later)
    cases = list(tried.load()(setting))
    assert cases
    for case in cases:
        with pytest.raises(BuiltError):
            case.measure()


def test_the_paper_s_sizes_are_those_of_the_suites():
    paper = SIZES["paper"]
    assert (paper.vision, paper.audio, paper.quickstart, paper.probe) == ((), (), (), ())


def test_every_row_of_table_1_is_timed_at_its_batch_before_another_batch(setting):
    batches = [case.labels["batch"] for case in steps.vision(setting)]
    usual = setting.sizes.batches[0]
    first = list(steps.vision(setting))[: batches.index(next(b for b in batches if b != usual))]
    assert {case.labels["method"] for case in first} >= {
        *("gim", "gim, module 1 alone", "gim, module 2 alone", "gim, module 3 alone"),
        *("cpc", "supervised", "greedy_supervised"),
    }


def test_memory_is_measured_in_the_paper_s_precision_first(setting):
    precisions = [case.labels["precision"] for case in peak_memory.table(setting)]
    assert precisions == sorted(precisions, reverse=True)
    assert precisions[0] == "fp32"


def test_cudnn_tries_its_kernels_in_a_fresh_process(setting):
    """A process keeps the kernels of the shapes that it has met."""
    with pytest.raises(
        RuntimeError, match=r"made in process \d+ with cudnn.benchmark = True"
    ) as made:
        steps._tried_row(setting, refusing_model)
    assert str(os.getpid()) not in str(made.value)
    assert not torch.backends.cudnn.benchmark


def test_graphs_of_a_compiled_row_are_freed_before_the_next_row(setting, monkeypatch):
    seen = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: seen.append("reset"))
    with pytest.raises(RuntimeError, match="made in process"):
        steps.step_row(setting, lambda: seen.append("made") or refusing_model(), with_data=False)
    assert seen == ["reset", "made", "reset"]


@pytest.mark.parametrize("device", [CPU, torch.device("cuda")], ids=str)
def test_compiled_rows_without_a_compiler_say_so_and_are_no_failure(device, setting, monkeypatch):
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(steps.shutil, "which", lambda name: None)
    cases = list(steps.compiled(replace(setting, device=device)))
    rows = [row for case in cases for row in worker._rows(case, setting)]
    assert rows == [{"note": steps.NO_COMPILER}] * 3
    assert worker._status(rows) == "done"


def test_waits_of_a_step_are_those_that_the_step_itself_asks_for(setting, monkeypatch):
    """The measurement and the profiler wait for the whole device."""

    events = [
        SimpleNamespace(key=key, count=6, device_type=DeviceType.CPU, self_cpu_time_total=1)
        for key in ("mm", "cudaDeviceSynchronize", "cudaStreamSynchronize")
    ]
    profiled = nullcontext(SimpleNamespace(key_averages=lambda: events))
    monkeypatch.setattr(traces, "profile", lambda **_: profiled)
    (case, *_) = traces.kernels(setting)
    summary, *_ = case.measure()
    assert summary["waits_per_step"] == 6 / traces.STEPS


def test_the_driver_is_asked_about_the_measured_card(monkeypatch):
    """nvidia-smi numbers all cards, PyTorch those that CUDA_VISIBLE_DEVICES leaves."""
    place = SimpleNamespace(pci_domain_id=0, pci_bus_id=0x3B, pci_device_id=1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: place)
    asked = []

    def run(command, **_):
        asked.extend(command)
        return SimpleNamespace(stdout="H200, 30\n")

    monkeypatch.setattr(machine.subprocess, "run", run)
    found = machine.nvidia_smi("name", "temperature.gpu", device=torch.device("cuda:1"))
    assert found == {"name": "H200", "temperature.gpu": "30"}
    assert "--id=00000000:3b:01.0" in asked


# -- a measurement ---------------------------------------------------------------------------------


def measured(folder, *, plan, minutes):
    given = argparse.Namespace(device="cpu", output=folder, sizes=None, part=None)
    began = time.monotonic()
    found = command.Measurement(given, ending=began + 60 * minutes, plan=f"{HERE}:{plan}")
    found.run()
    found.report()
    return found.parts(), (found.folder / "report.md").read_text()


def test_what_hangs_dies_or_fails_is_a_line_and_the_other_parts_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "GRACE_SECONDS", 1.0)
    parts, report = measured(tmp_path, plan="GOOD_AFTER_BAD", minutes=10)
    statuses = {name: (found["status"], found.get("why")) for name, found in parts.items()}
    assert statuses == {
        "hanging": ("stopped", "ended after 1 s"),
        "dying": ("stopped", "its process ended with exit code 9"),
        "failing": ("failed", "RuntimeError: the part itself"),
        "good": ("done", None),
    }
    for name in ("hanging", "dying"):
        assert parts[name]["rows"] == [{"case": "before", "value": 1}]
    assert "| Hanging | stopped |" in report
    *failed, costly, last = parts["failing"]["rows"]
    assert failed == [
        {"case": "fails", "failed": "ValueError: no such kernel"},
        {"case": "fails", "failed": "out of memory"},
    ]
    assert costly["not_measured"].startswith("10000 s needed, ")
    assert last == {"case": "one", "value": 1}


def test_a_measurement_ends_in_time_with_what_it_has(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "LEAST_SECONDS", 0.0)
    began = time.monotonic()
    parts, report = measured(tmp_path, plan="HANGING", minutes=1)
    assert time.monotonic() - began < 60
    assert parts["hanging"]["why"] == "no time left"
    assert parts["good"] == {}
    assert "| Good | not begun |" in report


@pytest.mark.parametrize(
    ("name", "status"), [("good", "done"), ("costly", "not measured"), ("refused", "failed")]
)
def test_a_part_is_done_if_a_row_was_measured(name, status, setting):
    worker.measure(part(name), setting)
    assert written(setting.folder, name)["status"] == status


def test_a_measurement_finds_no_kernels_that_were_compiled_before(tmp_path, monkeypatch):
    """Else the first step of a compiled row would read them."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "of the user")
    monkeypatch.setattr(command, "_kill", lambda process: None)
    given = []

    class Ended:
        returncode = 0

        def __init__(self, *_, env, **__):
            given.append(Path(env["TORCHINDUCTOR_CACHE_DIR"]))
            assert list(given[0].iterdir()) == []

        def poll(self):
            return 0

    monkeypatch.setattr(command.subprocess, "Popen", Ended)
    measured(tmp_path, plan="HANGING", minutes=1)
    assert len(given) == 1
    assert not given[0].exists()


def test_a_part_for_which_no_time_is_left_is_not_begun(setting):
    worker.measure(part("good"), replace(setting, deadline=time.monotonic()))
    assert not (setting.folder / "good.json").exists()


def test_a_device_that_is_not_there_is_said_at_once(tmp_path, capsys):
    given = ["--device", "cuda:99", "--minutes", "5", "--output", str(tmp_path)]
    assert command.main(given) == command.FAILED
    assert "no device 'cuda:99'" in capsys.readouterr().out


@pytest.mark.parametrize("raising", ["memory", "torch"])
@pytest.mark.parametrize("name", ["good", "raising_at_once"])
def test_a_device_that_answers_no_more_ends_the_process(name, raising, setting, monkeypatch):
    """After an illegal access every call raises, and the first one frees memory."""

    def leave(code):
        raise SystemExit(code)

    def broken(*_, **__):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    attribute = {"memory": "free", "torch": "ones"}[raising]
    monkeypatch.setattr(getattr(worker, raising), attribute, broken)
    monkeypatch.setattr(worker.os, "_exit", leave)
    with pytest.raises(SystemExit) as ended:
        worker.measure(part(name), setting)
    assert ended.value.code == worker.BROKEN
    found = written(setting.folder, name)
    assert found["status"] == "failed"
    assert found["rows"] == ([{"case": "one", "value": 1}] if name == "good" else [])


def test_a_process_that_no_signal_ends_is_not_waited_for(monkeypatch):
    """As one that hangs in the driver."""
    monkeypatch.setattr(command.os, "killpg", lambda *_: None)
    monkeypatch.setattr(command, "DYING_SECONDS", 0.01)
    with subprocess.Popen(["sleep", "30"]) as process:
        began = time.monotonic()
        command._kill(process)
        assert time.monotonic() - began < 10
        process.kill()


# -- the report ------------------------------------------------------------------------------------


def test_a_report_has_a_column_for_everything_known_and_units_of_bytes(tmp_path):
    rows = [{"method": "gim", "peak_bytes": 1_500_000_000}, {"method": "c|c", "share_of_x": 0.4}]
    found = {"status": "done", "seconds": 1.0, "rows": rows}
    write_report(tmp_path / "report.md", [(part("good"), found)], facts={"sizes": "paper"})
    report = (tmp_path / "report.md").read_text()
    assert "| method | peak, GB | share of x |" in report
    assert "| gim | 1.500 |  |" in report
    assert "| c\\|c |  | 40.0 % |" in report
    assert "rehearsal" not in report


def test_a_report_counts_the_rows_of_a_part_that_hold_no_measurement(tmp_path):
    rows = [{"x": 1}, {"failed": "why"}, *2 * [{"not_measured": "no time"}]]
    found = {"status": "done", "seconds": 1.0, "rows": rows}
    write_report(tmp_path / "report.md", [(part("good"), found)], facts={"sizes": "paper"})
    report = (tmp_path / "report.md").read_text()
    assert "| part | status | seconds | rows | failed rows | not measured rows |" in report
    assert "| Good | done | 1 | 4 | 1 | 2 |" in report


def test_the_share_of_the_peak_is_of_the_measured_product(setting):
    from benchmarks.gpu.peaks import PRODUCTS, peak_flops

    assert peak_flops(setting) is None
    work = PRODUCTS.format(setting.sizes.matrix)
    rows = [
        {"work": "copy on the device", "gb_per_second": 9.0},
        {"work": work, "precision": "fp32", "tflop_per_second": 9.0},
        {"work": work, "precision": "bf16", "tflop_per_second": 5.0},
        {"work": work, "precision": "bf16", "failed": "out of memory"},
    ]
    (setting.folder / "peaks.json").write_text(json.dumps({"rows": rows}))
    assert peak_flops(setting) == 5e12


def test_generated_images_are_of_one_direction_each_and_fill_the_grey_levels():
    from benchmarks.gpu.models import patterns

    images = patterns(600, side=32, device=CPU)
    assert (images.shape, str(images.dtype)) == ((600, 3, 32, 32), "uint8")
    spectra = torch.fft.fft2(torch.from_numpy(images[:, 0]).float() - 127.5).abs()
    strongest = spectra.flatten(1).square().topk(30, dim=1).values.sum(dim=1)
    assert (strongest / spectra.flatten(1).square().sum(dim=1)).median() > 0.7
    assert 30 < images.std() < 60
