"""`run --launcher slurm` submits workers; `status` and `cancel` look at them and end them."""

import itertools
import os
import stat
import sys
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest

from gim_bench.records.claims import claimed
from gim_bench.records.folder import RunsFolder
from gim_bench.records.record import Status
from tests.cli.commands import PLAIN, RUN, records, statuses

LAUNCH = (*PLAIN, "--launcher", "slurm")
FILE = ("--launcher-options", "slurm.toml")
BEFORE, LATER = "2001-01-01T00:00:00+00:00", "2999-01-01T00:00:00+00:00"
# Programs that stand for Slurm's: they note what they were given, and answer from a file.
PROGRAM = """\
#!/bin/sh
here={folder}
printf '%s\\n' "$@" > "$here/{name}.arguments"
[ {name} = sbatch ] && cat > "$here/{name}.input"
echo "$MLFLOW_TRACKING_URI" > "$here/{name}.store"
[ -f "$here/{name}.refusal" ] && cat "$here/{name}.refusal" >&2 && exit 1
cat "$here/{name}.answer"
"""


class Slurm:
    def __init__(self, folder):
        self.folder = folder

    def answers(self, program, text):
        (self.folder / f"{program}.answer").write_text(text)

    def refuses(self, program, text):
        (self.folder / f"{program}.refusal").write_text(text)

    def given(self, program, what="arguments"):
        return (self.folder / f"{program}.{what}").read_text()

    def was_asked(self, program):
        return (self.folder / f"{program}.arguments").exists()


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "squeue", "scancel"):
        program = folder / name
        program.write_text(PROGRAM.format(folder=folder, name=name))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = Slurm(folder)
    found.answers("sbatch", "41;here\n")
    found.answers("squeue", "")
    found.answers("scancel", "")
    return found


@pytest.fixture
def options(tmp_path):
    """Writes slurm.toml; time and memory keep `run` from timing steps."""

    def write(text=""):
        (tmp_path / "slurm.toml").write_text(f"minutes = 30\nmemory_gib = 2\n{text}")

    write()
    return write


def on_gpus(tmp_path, *, finished_at=BEFORE, precision=None, **changes):
    """Rewrite the records as those of cells that ended on GPUs."""
    runs = RunsFolder(tmp_path / "runs")
    for record in runs.records("tiny"):
        training = record.config["training"]
        if precision is not None:
            training = {**training, "precision": precision}
        config = {**record.config, "training": training, "device": "cuda"}
        provenance = {**record.provenance, "finished_at": finished_at}
        runs.save(replace(record, config=config, provenance=provenance, **changes))


# -- submitting ------------------------------------------------------------------------------------


def test_an_array_of_workers_is_submitted_and_nothing_is_run_here(
    gim_bench, slurm, options, tmp_path
):
    answer = gim_bench(*LAUNCH, *FILE, "--seeds", "4", "--workers", "3")
    assert answer.code == 0, answer.err
    assert (
        "Slurm job 41: 3 worker(s), each 1 cell(s) at once, 1 CPU(s), 30 min, 2 GiB" in answer.out
    )
    assert "8 of 8 cells are to be run" in answer.out
    assert "--array=0-2" in slurm.given("sbatch").split()
    assert {"--time=30", "--mem=2G", "--cpus-per-task=1", "--requeue"} <= set(
        slurm.given("sbatch").split()
    )
    assert statuses(tmp_path) == {}


def test_a_worker_runs_the_command_that_a_user_could_type(gim_bench, slurm, options, tmp_path):
    given = ("--seeds", "4", "--set", "training.epochs=2", "--method", "gim")
    gim_bench(*LAUNCH, *FILE, *given, "--workers=3", "--device=auto")
    script = slurm.given("sbatch", "input")
    (line,) = [line for line in script.splitlines() if line.startswith(sys.executable)]
    assert line.partition(" --since ")[0] == (
        f"{sys.executable} -m gim_bench run --suite ./tiny.toml --no-tracking --seeds 4 "
        f"--set training.epochs=2 --method gim --device cpu --workers 1"
    )
    assert f"cd {tmp_path}" in script
    assert "export OMP_NUM_THREADS=1\n" in script
    assert (tmp_path / "runs/tiny/slurm/41.sh").read_text() == script


@pytest.mark.parametrize("gpus", [0, 1])
def test_workers_for_cells_with_processes_of_their_own_run_one_cell_at_a_time(
    gpus, gim_bench, slurm, options
):
    """As many workers as are asked for; none of them refuses its own command."""
    options(f"gpus = {gpus}\n")
    own = ("--set", "training.schedule=pipeline")
    answer = gim_bench(*LAUNCH, *FILE, *own, "--seeds", "4", "--workers", "3", "--method", "gim")
    assert answer.code == 0, answer.err
    assert "--array=0-2" in slurm.given("sbatch").split()
    assert "--workers 1 --since" in slurm.given("sbatch", "input")


def test_options_of_the_file_reach_sbatch_and_the_script(gim_bench, slurm, options):
    options(
        'partition = "long"\naccount = "vision"\nqos = "high"\nconstraint = "a100"\n'
        'setup = ["module load cuda"]\nsbatch = ["--exclude=n3"]\nrequeues = 7\n'
    )
    assert gim_bench(*LAUNCH, *FILE).code == 0
    assert {
        "--partition=long", "--account=vision", "--qos=high", "--constraint=a100", "--exclude=n3",
    } <= set(slurm.given("sbatch").split())  # fmt: skip
    assert "\nmodule load cuda\n" in slurm.given("sbatch", "input")
    assert "-lt 7 ]]" in slurm.given("sbatch", "input")


def test_a_login_node_without_a_gpu_submits_workers_that_have_one(gim_bench, slurm, tmp_path):
    (tmp_path / "slurm.toml").write_text('gpus = 1\ngpu_type = "h100"\n')
    answer = gim_bench(*LAUNCH, *FILE, "--seeds", "4")
    assert answer.code == 0, answer.err
    assert "--gres=gpu:h100:1" in slurm.given("sbatch").split()
    assert "--time" not in slurm.given("sbatch")
    assert "--device cuda --workers 4" in slurm.given("sbatch", "input")
    assert "this machine has no GPU to plan on" in answer.err


def test_time_and_memory_are_those_of_the_plan(gim_bench, slurm):
    answer = gim_bench(*LAUNCH)
    assert answer.code == 0, answer.err
    assert "--time=10\n" in slurm.given("sbatch")
    assert "--mem=" in slurm.given("sbatch")


def test_a_plan_prints_the_script_and_submits_nothing(gim_bench, slurm, options, tmp_path):
    answer = gim_bench(*LAUNCH, *FILE, "--plan")
    assert answer.out.startswith("#!/bin/bash\n")
    assert "2 of 2 cells are to be run" in answer.out
    assert not slurm.was_asked("sbatch")
    assert not (tmp_path / "runs").exists()


def test_the_address_of_a_store_reaches_workers_and_stands_in_no_file(
    gim_bench, slurm, options, store, tmp_path
):
    assert gim_bench(*RUN, *store, "--launcher", "slurm", *FILE).code == 0
    assert slurm.given("sbatch", "store").strip() == store[1]
    assert "mlflow.db" not in slurm.given("sbatch", "input") + slurm.given("sbatch")


def test_finished_cells_need_no_worker(finished, gim_bench, slurm, options):
    answer = gim_bench(*LAUNCH, *FILE)
    assert answer.code == 0
    assert answer.out.startswith("all 2 cells are done: python -m gim_bench report")
    assert not slurm.was_asked("sbatch")
    assert "2 of 4 cells are to be run" in gim_bench(*LAUNCH, *FILE, "--seeds", "2").out
    assert "2 of 2 cells are to be run" in gim_bench(*LAUNCH, *FILE, "--rerun").out


def test_settings_that_need_gpus_are_judged_by_those_of_a_task(
    gim_bench, slurm, tmp_path, monkeypatch
):
    """A login node has none, or fewer."""
    (tmp_path / "slurm.toml").write_text("gpus = 4\nminutes = 30\nmemory_gib = 2\n")
    tf32 = ("--set", "training.precision=tf32")
    assert gim_bench(*LAUNCH, *FILE, *tf32).code == 0
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    processes = ("--set", "training.processes={}", "--device", "cuda", "--method", "gim")
    four, five = ([each.format(n) for each in processes] for n in (4, 5))
    assert gim_bench(*LAUNCH, *FILE, *tf32, *four).code == 0
    assert "a task has 4: write gpus = 5" in gim_bench(*LAUNCH, *FILE, *tf32, *five).err


def test_on_a_login_node_finished_cells_with_tf32_count(finished, gim_bench, slurm, tmp_path):
    (tmp_path / "slurm.toml").write_text("gpus = 1\n")
    on_gpus(tmp_path, precision="tf32")
    tf32 = ("--set", "training.precision=tf32")
    assert "all 2 cells are done" in gim_bench(*LAUNCH, *FILE, *tf32).out
    assert "2 of 2 cells are to be run" in gim_bench(*LAUNCH, *FILE).out


def test_on_a_login_node_finished_cells_of_gpus_count(finished, gim_bench, slurm, tmp_path):
    """Their records have the device and the precision of the GPU."""
    (tmp_path / "slurm.toml").write_text("gpus = 1\n")
    assert "2 of 2 cells are to be run" in gim_bench(*LAUNCH, *FILE).out
    on_gpus(tmp_path, precision="bf16")
    auto = ("--set", "training.precision=auto")
    assert "all 2 cells are done" in gim_bench(*LAUNCH, *FILE, *auto).out


# -- wrong use -------------------------------------------------------------------------------------

WRONG = {
    "unknown launcher": (
        (*PLAIN, "--launcher", "slrum"),
        "",
        "no launcher 'slrum' (--launcher). Did you mean 'slurm'? Available: local, ray, slurm",
    ),
    "options without a cluster": (
        (*PLAIN, *FILE),
        "",
        "--launcher-options slurm.toml has no reader: add --launcher slurm or ray",
    ),
    "unknown option": (
        (*LAUNCH, *FILE),
        'partiton = "long"',
        "no setting 'partiton' (slurm.toml: partiton). Did you mean 'partition'?",
    ),
    "wrong type": ((*LAUNCH, *FILE), 'cpus = "two"', "slurm.toml: cpus = 'two'"),
    "no TOML": ((*LAUNCH, *FILE), "cpus 2", "cannot read the launcher options slurm.toml"),
    "no file": (
        (*LAUNCH, "--launcher-options", "none.toml"),
        "",
        "cannot read the launcher options none.toml",
    ),
    "an option that is none": (
        (*LAUNCH, *FILE),
        'sbatch = ["gpu"]',
        "slurm.toml: sbatch.0 = 'gpu'",
    ),
    "two devices": (
        (*LAUNCH, *FILE, "--device", "cpu"),
        "gpus = 1",
        "the launcher options have gpus = 1, and --device is cpu",
    ),
    "no time": ((*PLAIN, "--since", "yesterday"), "", "--since 'yesterday' is no time"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_wrong_use_is_one_line_and_exit_code_2(mistake, gim_bench, slurm, options):
    command, text, complaint = WRONG[mistake]
    options(text)
    answer = gim_bench(*command)
    assert answer.code == 2
    assert answer.err.startswith("error: ")
    assert complaint in answer.err
    assert answer.err.count("\n") == 1
    assert not slurm.was_asked("sbatch")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('address = "127.0.0.1:1"', "no Ray cluster answers at 127.0.0.1:1 (Connection refused)"),
        ('address = "head"', "address = 'head' in the launcher options is none of Ray: use "),
        ("gpus = 9", "a worker asks for 9 GPU(s), and this machine has 0: lower gpus in the "),
        (
            'partition = "long"',
            "no setting 'partition' (ray.toml: partition). Available: ",
        ),
    ],
)
def test_a_ray_that_is_not_there_is_one_line_and_exit_code_2(text, complaint, gim_bench, tmp_path):
    file = tmp_path / "ray.toml"
    file.write_text(text)
    answer = gim_bench(*PLAIN, "--launcher", "ray", "--launcher-options", str(file))
    assert answer.code == 2
    assert answer.err.splitlines()[-1].startswith(f"error: {complaint}")


def test_the_plan_of_tasks_of_ray_is_the_command_that_they_run(gim_bench):
    answer = gim_bench(*PLAIN, "--launcher", "ray", "--plan")
    assert answer.code == 0
    command, described = answer.out.splitlines()
    assert command.startswith(sys.executable)
    assert "--launcher" not in command
    assert "2 of 2 cells are to be run" in described


def test_a_slurm_that_refuses_is_one_line_and_exit_code_2(gim_bench, slurm, options, tmp_path):
    slurm.refuses("sbatch", "sbatch: error: invalid partition\nsbatch: error: Batch failed\n")
    answer = gim_bench(*LAUNCH, *FILE)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == (
        "error: Slurm refuses (sbatch: error: invalid partition; sbatch: error: Batch failed): "
        "correct the file of --launcher-options\n"
    )
    assert not list(tmp_path.glob("runs/tiny/slurm/*.sh"))


# -- Ray -------------------------------------------------------------------------------------------

ON_RAY = (*PLAIN, "--launcher", "ray", "--launcher-options", "ray.toml")


@pytest.fixture
def ray(monkeypatch, tmp_path):
    """Gives `--launcher ray` a cluster of GPUs, in which tasks do what the test says."""
    (tmp_path / "ray.toml").write_text('address = "head:6379"\ngpus = 1\n')

    def does(work):
        given = []

        def run(tasks):
            given.extend(tasks)
            yield ""
            yield from work() or ()

        monkeypatch.setattr(
            "gim_bench.system.ray_tasks.cluster", lambda at: nullcontext(f"Ray {at}")
        )
        monkeypatch.setattr("gim_bench.system.ray_tasks.run", run)
        return given

    return does


def test_a_machine_without_a_gpu_prints_the_records_of_the_cluster_s_gpus(
    finished, gim_bench, ray, tmp_path
):
    """Records of its own CPU are of other cells."""
    ray(lambda: on_gpus(tmp_path, finished_at=LATER))
    answer = gim_bench(*ON_RAY)
    assert answer.code == 0, answer.err
    assert "2 of 2 cells are to be run" in answer.err
    assert "gim" in answer.out


def test_each_task_of_ray_has_a_log_and_the_store_in_its_environment(
    gim_bench, ray, store, tmp_path
):
    tasks = ray(lambda: None)
    options = ("--launcher-options", "ray.toml", "--set", "fresh_process=true")
    gim_bench(*RUN, *store, "--launcher", "ray", *options)
    (task,) = tasks
    assert task.environment["MLFLOW_TRACKING_URI"] == store[1]
    assert store[1] not in task.command
    assert task.log == tmp_path / "runs/tiny/ray/1.log"
    assert (task.gpus, task.memory_bytes, task.retries) == (1, None, 100)


def test_records_that_take_long_to_count_are_counted_now_and_then(
    finished, gim_bench, ray, monkeypatch
):
    """A second each, and fifty looks of a second at the tasks."""
    seconds = itertools.count()
    counted = []
    clock = SimpleNamespace(monotonic=lambda: next(seconds))
    monkeypatch.setattr("gim_bench.cli.launch_ray.time", clock)
    monkeypatch.setattr("gim_bench.cli.launch.left_of", lambda *_, **__: counted.append(1) or 2)
    ray(lambda: [""] * 50)
    gim_bench(*ON_RAY)
    assert 3 <= len(counted) <= 50 / 10 + 2


def test_cells_that_no_task_ran_are_exit_code_1(finished, gim_bench, ray):
    ray(lambda: ["a worker gave up: it died"])
    answer = gim_bench(*ON_RAY)
    assert answer.code == 1
    assert "a worker gave up: it died" in answer.err
    assert (
        answer.err.splitlines()[-1]
        == "error: 2 cell(s) were not run to their end: see runs/tiny/ray"
    )


def test_finished_cells_that_no_task_ran_again_are_exit_code_1(finished, gim_bench, ray, tmp_path):
    ray(lambda: None)
    on_gpus(tmp_path)
    assert gim_bench(*ON_RAY).code == 0
    answer = gim_bench(*ON_RAY, "--rerun")
    assert answer.code == 1
    assert "error: 2 cell(s) were not run to their end" in answer.err
    ray(lambda: on_gpus(tmp_path, finished_at=LATER))
    assert gim_bench(*ON_RAY, "--rerun").code == 0


def test_a_cell_of_a_task_that_fails_is_named(finished, gim_bench, ray, tmp_path):
    ray(lambda: on_gpus(tmp_path, finished_at=LATER, status=Status.FAILED, error="no kernel"))
    answer = gim_bench(*ON_RAY)
    assert answer.code == 1
    assert "error: 2 cell(s) failed: gim seed 0, random_init seed 0" in answer.err


def test_a_newer_record_of_other_settings_hides_no_finished_cell(
    finished, gim_bench, ray, tmp_path
):
    on_gpus(tmp_path)
    runs = RunsFolder(tmp_path / "runs")
    for record in runs.records("tiny"):
        training = {**record.config["training"], "epochs": 77}
        config = {**record.config, "training": training}
        provenance = {**record.provenance, "finished_at": LATER}
        runs.save(replace(record, key="0" * 64, config=config, provenance=provenance))
    ray(lambda: pytest.fail("a task was started"))
    assert gim_bench(*ON_RAY).code == 0


# -- cells that have ended since -------------------------------------------------------------------


def test_a_cell_that_failed_since_the_launch_is_not_tried_again(gim_bench, misbehaving, tmp_path):
    command = (*PLAIN, "--method", "broken")
    gim_bench(*command)
    (path,) = tmp_path.glob("runs/tiny/broken/*/record.json")
    written = path.stat().st_mtime_ns
    ended = records(tmp_path)[0]["provenance"]["finished_at"]
    assert gim_bench(*command, "--since", ended).code == 1
    assert path.stat().st_mtime_ns == written
    assert gim_bench(*command, "--since", "2999-01-01").code == 1
    assert path.stat().st_mtime_ns > written


def test_a_worker_that_begins_again_reruns_no_cell_that_has_been_rerun(
    finished, gim_bench, tmp_path
):
    before = records(tmp_path)
    gim_bench(*PLAIN, "--rerun", "--since", before[0]["provenance"]["started_at"])
    assert records(tmp_path) == before


def test_slurm_has_nothing_to_do_where_cells_failed_since_and_the_line_counts_them(
    gim_bench, misbehaving, slurm, options
):
    gim_bench(*PLAIN, "--method", "broken", "--method", "gim")
    given = ("--method", "broken", "--method", "gim", "--since", "2020-01-01")
    answer = gim_bench(*LAUNCH, *FILE, *given)
    assert "all 2 cells have ended, 1 of them without a result: " in answer.out


# -- status and cancel -----------------------------------------------------------------------------

STATUS = ("status", "--suite", "./tiny.toml")
CANCEL = ("cancel", "--suite", "./tiny.toml")


def test_status_says_which_cells_are_done_and_which_wait(finished, gim_bench):
    answer = gim_bench(*STATUS, "--seeds", "2")
    assert answer.err == ""
    lines = answer.out.splitlines()
    assert [line.split()[:4] for line in lines[:4]] == [
        ["gim", "seed", "0", "done"],
        ["random_init", "seed", "0", "done"],
        ["gim", "seed", "1", "waiting"],
        ["random_init", "seed", "1", "waiting"],
    ]
    assert lines[4] == "4 cells: 2 done, 2 waiting"


def test_status_of_cells_of_an_earlier_results_version_is_waiting(finished, gim_bench, monkeypatch):
    monkeypatch.setattr("gim_bench.RESULTS_VERSION", 999)
    answer = gim_bench(*STATUS)
    assert answer.out.splitlines()[-1] == "2 cells: 2 waiting"
    assert answer.err == (
        "left out: 2 record(s) of another results version than 999; run runs their cells again\n"
    )


def test_status_says_who_works_at_a_cell_and_what_has_stopped(finished, gim_bench, tmp_path):
    from dataclasses import replace

    from gim_bench.records.folder import RunsFolder
    from gim_bench.records.record import Status

    runs = RunsFolder(tmp_path / "runs")
    for record in runs.records("tiny"):
        runs.save(replace(record, status=Status.RUNNING))
    (folder,) = tmp_path.glob("runs/tiny/gim/seed-0-*")
    with claimed(folder, lock=tmp_path / "runs/tiny/.lock"):
        out = gim_bench(*STATUS).out
    assert f"running   process {os.getpid()} on " in out
    assert "random_init seed 0           stopped   the next run resumes it" in out


def test_status_says_why_a_cell_failed(gim_bench, misbehaving):
    gim_bench(*PLAIN, "--method", "broken")
    out = gim_bench(*STATUS, "--method", "broken").out
    assert "failed    RuntimeError: the forward pass fell over" in out


def test_status_of_a_method_that_is_not_known_is_one_line(gim_bench):
    answer = gim_bench(*STATUS, "--method", "gmi")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: no method 'gmi' (--method). Did you mean 'gim'? Available")
    assert answer.err.count("\n") == 1


def test_status_before_anything_is_run(gim_bench):
    answer = gim_bench(*STATUS)
    assert (answer.code, answer.out.splitlines()[-1]) == (0, "2 cells: 2 waiting")
    assert answer.err == "no folder runs: name the folder of the records with --runs-dir\n"


def test_status_counts_the_workers_in_the_queue(gim_bench, slurm, options):
    gim_bench(*LAUNCH, *FILE)
    slurm.answers(
        "squeue", "41 RUNNING gim_bench:tiny\n41 PENDING gim_bench:tiny\n7 RUNNING gim_bench:tiny\n"
    )
    assert "Slurm job 41: 1 running, 1 pending\n" in gim_bench(*STATUS).out


def test_a_laptop_without_slurm_sees_the_cells(gim_bench, slurm, options, monkeypatch, tmp_path):
    gim_bench(*LAUNCH, *FILE)
    monkeypatch.setenv("PATH", str(tmp_path))
    out = gim_bench(*STATUS).out
    assert "2 cells: 2 waiting\nSlurm's queue is not seen from here: there is no squeue" in out


def test_cancel_ends_the_jobs_of_the_suite_and_no_others(gim_bench, slurm, options):
    gim_bench(*LAUNCH, *FILE)
    slurm.answers("squeue", "40 RUNNING gim_bench:tiny\n41 RUNNING gim_bench:tiny\n")
    assert gim_bench(*CANCEL).out == "cancelled Slurm job 41\n"
    assert slurm.given("scancel") == "41\n"


def test_a_number_that_another_job_has_by_now_is_not_cancelled(gim_bench, slurm, options):
    gim_bench(*LAUNCH, *FILE)
    slurm.answers("squeue", "41 RUNNING my protein folding\n")
    answer = gim_bench(*CANCEL)
    assert answer.out == "no Slurm job of suite tiny from runs is queued or running\n"
    assert not slurm.was_asked("scancel")


def test_cancel_names_processes_that_are_no_jobs(finished, gim_bench, tmp_path):
    (folder,) = tmp_path.glob("runs/tiny/gim/seed-0-*")
    with claimed(folder, lock=tmp_path / "runs/tiny/.lock"):
        out = gim_bench(*CANCEL).out
    assert f"gim seed 0 is run by process {os.getpid()} on " in out
