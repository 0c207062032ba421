"""The phases of a model: training, what is measured of it, and the probe of its features."""

import weakref
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from gim_bench import registry
from gim_bench.cells import largest_batch, phases
from gim_bench.cells.build import build
from gim_bench.cells.run import run_cell
from gim_bench.contract import Split
from gim_bench.methods.gim import GreedyInfoMax
from gim_bench.probing.probe import probe
from gim_bench.records import metrics
from gim_bench.records.folder import RunsFolder
from gim_bench.records.record import Status
from gim_bench.training import capacity
from gim_bench.training.audit import Audit, audit, flop_counter, leaks
from gim_bench.training.capacity import Capacity
from gim_bench.training.loop import fit
from tests.cells.tiny_cells import built, probe_names, same
from tests.pages import written
from tests.tiny_suite import (
    SPEECH_TOML,
    TOML,
    Observed,
    noise_registered,
    tiny_bench,
    tiny_cell,
    tiny_suite,
)

# -- weights that are kept ------------------------------------------------------------------------


def test_the_saved_encoder_gives_the_features_that_were_probed(suite, bench, archive, done):
    """Loaded into a fresh encoder, it scores the same by ridge and neighbours as the record."""
    record, cell = done["gim"], tiny_cell(suite, "gim", seed=0)
    learner = built(tiny_cell(suite, "gim", seed=7), bench)
    learner.encoder.load_state_dict(load_file(archive.folder_of(record) / "encoder.safetensors"))
    found = probe(
        learner,
        train=bench.batches(cell, Split.TRAIN),
        test=bench.batches(cell, Split.TEST),
        targets=bench.targets,
        settings=cell.config.probe,
        precision=cell.config.training.precision,
        title="",
        progress=bench.progress,
    )
    assert found.metrics.items() <= record.metrics.items()


def test_the_saved_encoder_is_the_trained_one(done, archive):
    trained, first = (
        load_file(archive.folder_of(done[name]) / "encoder.safetensors")
        for name in ("gim", "random_init")
    )
    assert trained.keys() == first.keys()
    assert all(not torch.equal(trained[name], first[name]) for name in trained if "weight" in name)


@pytest.mark.parametrize(
    ("method", "names"),
    [
        ("gim", {"encoder"}),
        ("random_init", {"encoder"}),
        ("supervised", {"speaker_encoder", "phone_encoder"}),
    ],
)
def test_every_model_leaves_its_encoder(method, names, spoken, archive):
    paths = list(archive.folder_of(spoken[method]).glob("*.safetensors"))
    assert {path.stem for path in paths} == names
    encoders = [load_file(path) for path in paths]
    assert all(len(encoder) == 5 * 2 + 4 for encoder in encoders)
    if len(encoders) == 2:
        assert not any(same(*encoders))


def test_no_epochs_at_all_leave_the_first_weights(bench, tmp_path):
    suite = tiny_suite(tmp_path, "training.epochs=0")
    runs = RunsFolder(tmp_path)
    gim, untrained = (
        run_cell(tiny_cell(suite, name), bench, runs=runs) for name in ("gim", "random_init")
    )
    assert set(gim.metrics) == probe_names()
    assert gim.metrics["accuracy"] == untrained.metrics["accuracy"]


def test_nothing_of_a_cells_first_model_is_kept_while_the_second_one_trains(
    speech_suite, speech_bench, tmp_path, monkeypatch
):
    """Or the second one's peak of memory would hold the weights of both."""
    seen, alive = weakref.WeakSet(), []

    def watched(trainer, *arguments, **options):
        alive.append(len(seen))
        for parameter in trainer.learner.parameters():
            seen.add(parameter)
        return fit(trainer, *arguments, **options)

    monkeypatch.setattr(phases, "fit", watched)
    run_cell(tiny_cell(speech_suite, "supervised"), speech_bench, runs=RunsFolder(tmp_path))
    assert alive == [0, 0]


# -- training -------------------------------------------------------------------------------------


def test_a_unit_trained_alone_leaves_the_others_as_they_were(tmp_path):
    suite = tiny_suite(tmp_path, "method.gim.only=module_2")
    cell, bench, runs = tiny_cell(suite, "gim"), tiny_bench(suite), RunsFolder(tmp_path / "runs")
    record = run_cell(cell, bench, runs=runs)
    assert record.status is Status.DONE, record.error
    assert [set(row) for row in record.losses] == [{"epoch", "module_2"}]
    trained = load_file(runs.folder_of(record) / "encoder.safetensors")
    untrained = build(cell, bench, target=bench.targets[0]).encoder.state_dict()
    moved = {
        name.split(".")[1] for name in trained if not torch.equal(trained[name], untrained[name])
    }
    assert moved == {"1"}
    assert record.metrics["loss"] == record.metrics["loss/module_2"]
    whole = run_cell(tiny_cell(tiny_suite(tmp_path), "gim"), bench, runs=runs)
    assert record.metrics["train/parameters"] < whole.metrics["train/parameters"]


def test_a_unit_that_is_not_there_is_one_line(tmp_path):
    suite = tiny_suite(tmp_path, "method.gim.only=module_9")
    record = run_cell(
        tiny_cell(suite, "gim"), tiny_bench(suite), runs=RunsFolder(tmp_path / "runs")
    )
    assert record.status is Status.FAILED
    assert "no unit 'module_9'" in str(record.error)
    assert "Available: module_1, module_2" in str(record.error)


def test_the_validation_loss_of_every_module_is_recorded(tmp_path):
    suite = tiny_suite(tmp_path, "training.held_out=0.5")
    record = run_cell(
        tiny_cell(suite, "gim"), tiny_bench(suite), runs=RunsFolder(tmp_path / "runs")
    )
    assert record.status is Status.DONE, record.error
    found = {name: x for name, x in record.metrics.items() if "validation" in name}
    assert set(found) == {
        "validation_loss", "validation_loss/module_1", "validation_loss/module_2",
    }  # fmt: skip
    assert found["validation_loss"] == found["validation_loss/module_2"]
    assert record.metrics["train/steps"] == 1  # 48 images, 24 held out, a batch of 20
    for name in found:
        assert metrics.unit_of(name, record.config) == "nats"


def test_without_a_probe_nothing_is_extracted_or_measured(tmp_path):
    suite = tiny_suite(tmp_path, toml=TOML[: TOML.index("[probe]")])
    record = run_cell(
        tiny_cell(suite, "gim"), tiny_bench(suite), runs=RunsFolder(tmp_path / "runs")
    )
    assert record.status is Status.DONE, record.error
    assert not [name for name in record.metrics if "accuracy" in name or "probe" in name]
    assert "loss" in record.metrics


# -- the audit ------------------------------------------------------------------------------------


def holding(megabytes, then):
    """`then`, after so much memory was written and freed."""

    def held(*arguments, **options):
        written(megabytes * 10**6)
        return then(*arguments, **options)

    return held


def grown(before, after, name):
    """By how much the metric is larger in the second record."""
    return after.metrics[name] - before.metrics[name]


def test_gradients_of_every_cell_reach_what_its_method_declares(done, spoken):
    """Rows are the losses, named as they are in the record; columns are all modules."""
    for record in (*done.values(), *spoken.values()):
        assert leaks(record) == []
        losses = [set(row) - {"epoch"} for row in record.losses[-1:]]
        assert set(record.isolation) == (losses[0] if losses else set())
    assert list(spoken["supervised"].isolation) == ["speaker_module_6", "phone_module_6"]
    assert list(spoken["gim"].isolation["module_2"]) == [f"module_{m}" for m in range(1, 7)]


def test_the_twin_of_a_local_method_is_trained_end_to_end(bench, tmp_path):
    """Two lines of TOML: gradients of the top loss reach the module below."""
    lines = '[method.twin]\nlike = "gim"\ngradient_flow = "end_to_end"\n'
    suite = tiny_suite(tmp_path, toml=f"{TOML}\n{lines}")
    record = run_cell(tiny_cell(suite, "twin"), bench, runs=RunsFolder(tmp_path / "runs"))
    assert record.status is Status.DONE, record.error
    assert record.config["method"]["gradient_flow"] == "end_to_end"
    assert [set(row) for row in record.losses] == [{"epoch", "module_2"}]
    assert {unit: set(row) for unit, row in record.isolation.items()} == {
        "module_2": {"module_1", "module_2"}
    }
    assert all(norm > 0 for norm in record.isolation["module_2"].values())
    assert leaks(record) == []


@pytest.mark.parametrize("method", ["gim", "supervised"])
def test_the_audit_moves_no_number(method, bench, tmp_path, monkeypatch):
    """Metrics, losses and weights are bit for bit those of a cell that is not audited."""
    cell = tiny_cell(tiny_suite(tmp_path), method)
    audited, bare = (RunsFolder(tmp_path / name) for name in ("audited", "bare"))
    first = run_cell(cell, bench, runs=audited)
    monkeypatch.setattr(phases, "audit", lambda *_, **__: Audit())
    second = run_cell(cell, bench, runs=bare)
    assert (first.losses, first.probe_curves) == (second.losses, second.probe_curves)
    moved = {name for name, value in first.metrics.items() if value != second.metrics.get(name)}
    assert all("second" in n or "memory" in n or "calib" in n or "operations" in n for n in moved)
    ours, theirs = (
        load_file(runs.folder_of(first) / "encoder.safetensors") for runs in (audited, bare)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_audit_is_no_part_of_training_s_peak_memory(suite, bench, tmp_path, monkeypatch):
    """Training's peak grows by less than half of what the audit holds."""
    cell = tiny_cell(suite, "gim")
    without = run_cell(cell, bench, runs=RunsFolder(tmp_path / "without"))
    monkeypatch.setattr(phases, "audit", holding(400, audit))
    beside = run_cell(cell, bench, runs=RunsFolder(tmp_path / "beside"))
    assert grown(without, beside, "memory/host_over_baseline_bytes") / 400e6 < 0.5


def test_an_audit_for_which_memory_does_not_suffice_costs_no_cell(tmp_path, bench, monkeypatch):
    def exhausted(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(phases, "audit", exhausted)
    cell = tiny_cell(tiny_suite(tmp_path), "gim")
    record = run_cell(cell, bench, runs=RunsFolder(tmp_path / "runs"))
    assert record.error is None
    assert "train/operations" not in record.metrics
    assert record.isolation == {}


def test_outputs_that_are_kept_are_computed_once_in_the_count_of_operations(tmp_path):
    """Of 4 epochs' augmentations one is kept: module 1's forward runs 2 times in place of 8."""
    flops = []
    for kept in ((), ("training.kept_outputs.epochs=1",)):
        suite = tiny_suite(tmp_path, "training.epochs=4", *kept)
        record = run_cell(
            tiny_cell(suite, "gim_iterative"), tiny_bench(suite), runs=RunsFolder(tmp_path / "runs")
        )
        assert record.status is Status.DONE, record.error
        flops.append(record.metrics["train/operations"])
    cell, bench = tiny_cell(suite, "gim_iterative"), tiny_bench(suite)
    learner = built(cell, bench)
    with flop_counter() as counter:
        learner.outputs(next(bench.batches(cell, Split.UNLABELLED).epoch(1)), unit="module_1")
    assert flops[0] - flops[1] == (8 - 2) * counter.get_total_flops()


# -- memory ---------------------------------------------------------------------------------------


def test_each_peak_is_of_its_own_phase(suite, bench, tmp_path, monkeypatch):
    """Each peak grows by what its phase holds, not by what is held as the learner is built."""
    cell = tiny_cell(suite, "gim")
    without = run_cell(cell, bench, runs=RunsFolder(tmp_path / "without"))
    monkeypatch.setattr(phases, "build", holding(900, build))
    monkeypatch.setattr(phases, "fit", holding(200, fit))
    monkeypatch.setattr(phases, "probe", holding(500, probe))
    beside = run_cell(cell, bench, runs=RunsFolder(tmp_path / "beside"))
    assert 0.5 < grown(without, beside, "memory/host_over_baseline_bytes") / 200e6 < 1.5
    assert 0.5 < grown(without, beside, "memory/probe_host_over_baseline_bytes") / 500e6 < 1.5


@pytest.fixture
def gpu_that_refuses(monkeypatch):
    """The search as on a GPU, though on the CPU; learners refuse batches larger than 50."""

    def refuse(learner, batch, **options):
        if len(batch.inputs) > 50:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return GreedyInfoMax.losses(learner, batch, **options)

    def searched(attempt, *, start, up_to, device):
        monkeypatch.setattr(Observed, "losses", refuse)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
        fits = partial(capacity._fits, attempt, smaller_fits=True, device=device)
        return Capacity(capacity.largest(fits, start=start, up_to=up_to), "as on a GPU")

    table = {**registry.methods(), "observed": "tests.tiny_suite:Observed"}
    monkeypatch.setattr(registry, "methods", lambda: table)
    monkeypatch.setattr(capacity, "largest_batch", searched)


@pytest.mark.usefixtures("gpu_that_refuses")
def test_the_largest_batch_is_one_that_new_learners_take(bench, tmp_path, monkeypatch):
    """From the 20 of the suite on; the learner that was trained is gone by then."""
    alive, seen = [], weakref.WeakSet()

    def watched(*arguments, **options):
        learner = build(*arguments, **options)
        alive.append(len(seen))
        seen.add(learner)
        return learner

    for module in (phases, largest_batch):
        monkeypatch.setattr(module, "build", watched)
    suite = tiny_suite(tmp_path, "capacity.up_to=100")
    record = run_cell(tiny_cell(suite, "observed"), bench, runs=RunsFolder(tmp_path))
    assert record.status is Status.DONE, record.error
    assert record.metrics["memory/largest_batch"] == 50  # of 20, 40, 80, 60, 50, 55, 52
    assert record.provenance["memory"]["largest_batch"] == "as on a GPU"
    assert alive == [0] * 8


@pytest.mark.usefixtures("gpu_that_refuses")
def test_all_models_of_a_cell_are_tried(speech_bench, tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(
        capacity, "take_steps", lambda trainer, batch: tried.append(len(batch.inputs))
    )
    with noise_registered():
        suite = tiny_suite(tmp_path, "capacity.up_to=8", toml=SPEECH_TOML)
        record = run_cell(tiny_cell(suite, "supervised"), speech_bench, runs=RunsFolder(tmp_path))
    assert record.metrics["memory/largest_batch"] == 8
    assert tried == [4, 4, 8, 8]


@pytest.mark.usefixtures("gpu_that_refuses")
@pytest.mark.parametrize("compiled", [False, True])
def test_layers_are_compiled_anew_for_each_batch_that_is_tried(
    compiled, bench, tmp_path, monkeypatch
):
    """Else the memory of the graphs of a smaller batch would be missing for a larger one."""
    seen = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda layer, **_: None)
    monkeypatch.setattr(torch.compiler, "reset", lambda: seen.append("reset"))
    monkeypatch.setattr(
        capacity, "take_steps", lambda trainer, batch: seen.append(len(batch.inputs))
    )
    settings = ["capacity.up_to=40", *(["training.compile=true"] if compiled else [])]
    cell = tiny_cell(tiny_suite(tmp_path, *settings), "gim")
    record = run_cell(cell, bench, runs=RunsFolder(tmp_path))
    assert record.status is Status.DONE, record.error
    wanted = ["reset", 20, "reset", "reset", 40, "reset"]
    assert seen == (wanted if compiled else [20, 40])


@pytest.mark.parametrize(
    ("method", "reason"),
    [("gim", "not measured: on a CPU"), ("random_init", "not measured: nothing is trained")],
)
def test_where_there_is_no_largest_batch_the_record_says_why(method, reason, bench, tmp_path):
    suite = tiny_suite(tmp_path, "capacity.up_to=100")
    record = run_cell(tiny_cell(suite, method), bench, runs=RunsFolder(tmp_path))
    assert record.status is Status.DONE, record.error
    assert "memory/largest_batch" not in record.metrics
    assert record.provenance["memory"]["largest_batch"].startswith(reason)
