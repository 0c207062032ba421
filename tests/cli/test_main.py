"""Exit codes, and errors as one line: wrong use, interruptions, closed pipes."""

import errno
import io
import os
import subprocess
import sys

import pytest
import typer

from gim_bench.__main__ import main as begin
from gim_bench.cli.main import main
from gim_bench.system.streams import results_alone, show
from tests.cli.commands import PLAIN, REPORT, RUN, records, statuses

# -- wrong use -------------------------------------------------------------------------------------

WRONG = {
    "unknown suite": (
        ("run", "--suite", "quikstart"),
        "no suite 'quikstart' (--suite). Did you mean 'quickstart'?",
    ),
    "missing suite file": (("run", "--suite", "./mine.toml"), "no suite file './mine.toml'"),
    "unknown method": ((*PLAIN, "--method", "gmi"), "no method 'gmi' (--method). Did you mean"),
    "unknown data set": (
        (*PLAIN, "--set", "dataset.name=photo"),
        "no dataset 'photo' (suite tiny, dataset.name). Did you mean 'photos'?",
    ),
    "unknown setting": (
        (*PLAIN, "--set", "training.epoch=3"),
        "no setting 'epoch' (tiny.toml with --set: training.epoch). Did you mean 'epochs'?",
    ),
    "unknown section": ((*PLAIN, "--set", "trainings.epochs=3"), "no setting 'trainings'"),
    "unknown data option": ((*PLAIN, "--set", "dataset.sise=3"), "no setting 'sise'"),
    "not a key and a value": ((*PLAIN, "--set", "training"), "is not KEY=VALUE"),
    "wrong type": ((*PLAIN, "--set", "training.epochs=many"), "training.epochs = 'many'"),
    "negative": ((*PLAIN, "--set", "training.batch_size=0"), "training.batch_size = 0"),
    "unknown device": ((*PLAIN, "--device", "tpu"), "no device 'tpu' (--device): use auto, cpu"),
    "a gpu that is not there": ((*PLAIN, "--device", "cuda:99"), "no device 'cuda:99' (--device)"),
    "unwritable folder": (
        (*PLAIN, "--runs-dir", "tiny.toml/runs"),
        "cannot write records to tiny.toml/runs (Not a directory): choose another folder",
    ),
    "a plan for a file": (
        (*PLAIN, "--plan", "--runs-dir", "tiny.toml"),
        "cannot write records to tiny.toml (Not a directory): choose another folder",
    ),
    "reasons below a file": (
        (*PLAIN, "--why", "--runs-dir", "tiny.toml/runs"),
        "cannot write records to tiny.toml/runs (Not a directory): choose another folder",
    ),
    "unreachable server": (
        (*RUN, "--tracking-uri", "http://127.0.0.1:9"),
        "cannot track to 'http://127.0.0.1:9': no answer from 127.0.0.1 port 9",
    ),
    "no such store": ((*RUN, "--tracking-uri", "ftp://x"), "cannot track to 'ftp://x'"),
    "crop larger than the image": (
        (*PLAIN, "--set", "augmentation.crop=28"),
        "a crop of 28 pixels does not fit into the unlabelled images of photos, 26×26",
    ),
    "batch larger than the data": (
        (*PLAIN, "--set", "training.batch_size=40"),
        "photos has 32 train images, fewer than one batch of 40",
    ),
    "all held out": (
        (*PLAIN, "--set", "training.held_out=0.999"),
        "fewer than one batch of 20: add images, or lower training.held_out",
    ),
    "too many stripes": ((*PLAIN, "--set", "dataset.stripes=90"), "lower dataset.size"),
    "too few rows": (
        (*PLAIN, "--set", "info_nce.prediction_steps=9"),
        "a crop of 24 pixels gives 5 rows in module_1",
    ),
    "a method for speech on images": (
        (*PLAIN, "--method", "gim_no_ar"),
        "the method 'gim_no_ar' (--method) is made for speech, and suite 'tiny' is one of images",
    ),
    "speech for an encoder of images": (
        (*PLAIN, "--set", 'dataset={name="espeak"}'),
        "the data set 'espeak' holds speech, but an encoder of kind 'resnet' takes images",
    ),
    "an unknown kind of encoder": (
        (*PLAIN, "--set", "encoder.kind=perceptron"),
        "no encoder 'perceptron' (suite tiny, encoder.kind). Available: batch_norm_resnet, ",
    ),
    "an encoder that cannot take the crops": (
        (*PLAIN, "--set", 'encoder={kind="conv_gru"}'),
        "an encoder of kind 'conv_gru' takes speech, but an augmentation",
    ),
    "bad files skipped where there are none": (
        (*PLAIN, "--skip-bad-files"),
        "no setting 'skip_bad_files' (suite tiny: dataset.skip_bad_files)",
    ),
    "protocol without a summary": (
        (*PLAIN, "--set", "protocols.mine.modules=all"),
        "the setting 'protocols.mine.summary' is missing",
    ),
    "protocol with an unknown probe": (
        (*PLAIN, "--set", "protocols.knn.probe.kind=svm"),
        "no kind of probe 'svm' (protocols.knn.probe)",
    ),
    "protocol in a precision of GPUs": (
        (*PLAIN, "--device", "cpu", "--set", "protocols.knn.probe.precision=tf32"),
        "protocols.knn.probe.precision: the precision tf32 is one of GPUs",
    ),
    "data where none is taken": ((*PLAIN, "--data-dir", "."), "takes no --data-dir"),
    "data that are missing": (
        ("run", "--suite", "folder", "--no-tracking", "--data-dir", "nowhere"),
        "nowhere",
    ),
    "data that are not named": (("run", "--suite", "folder", "--no-tracking"), "--data-dir"),
    "no records": (REPORT, "no records of suite 'tiny' with these settings in runs: first run"),
    "unknown suite in a report": (("report", "--suite", "x"), "no suite 'x' (--suite)"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_wrong_use_is_one_line_and_exit_code_2_before_anything_is_trained(
    mistake, gim_bench, tmp_path
):
    command, complaint = WRONG[mistake]
    answer = gim_bench(*command)
    assert answer.code == 2
    assert answer.out == ""
    (line,) = answer.err.splitlines()
    assert line.startswith("error: ")
    assert complaint in line
    assert records(tmp_path) == []


@pytest.mark.parametrize(
    "command",
    [("run",), ("train",), ("run", "--suit", "x"), (*RUN, "--seeds", "0"), ("list", "people")],
    ids=" ".join,
)
def test_an_unknown_command_or_option_is_exit_code_2_without_a_traceback(command, gim_bench):
    answer = gim_bench(*command)
    assert (answer.code, answer.out) == (2, "")
    assert "Traceback" not in answer.err
    assert answer.err


def test_a_broken_suite_file_is_one_line(gim_bench, tmp_path):
    (tmp_path / "tiny.toml").write_text("name = \n")
    answer = gim_bench(*PLAIN)
    assert (answer.code, answer.out) == (2, "")
    (line,) = answer.err.splitlines()
    assert "cannot read the suite tiny.toml" in line


# -- interruptions and closed pipes ----------------------------------------------------------------


def test_ctrl_c_before_the_command_has_begun_is_exit_code_130(gim_bench, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr("gim_bench.cli.main.app", interrupt)
    answer = gim_bench(*PLAIN)
    assert answer == (130, "", "interrupted; finished cells are kept: run the same command again\n")


def test_ctrl_c_while_modules_are_imported_is_exit_code_130(monkeypatch, capsys):
    class Interrupting:
        def find_spec(self, name, *_):
            if name == "gim_bench.cli.main":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "gim_bench.cli.main")
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    with pytest.raises(SystemExit) as ending:
        begin()
    assert (ending.value.code, capsys.readouterr().err) == (
        130,
        "interrupted before anything was done\n",
    )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            RuntimeError("[enforce fail] can't allocate memory: 5 bytes\nframes"),
            "memory does not suffice",
        ),
        (MemoryError("5 bytes"), "memory does not suffice (5 bytes)"),
    ],
)
def test_memory_that_does_not_suffice_before_any_cell_is_one_line(
    error, said, gim_bench, monkeypatch
):
    def exhausted():
        raise error

    monkeypatch.setattr("gim_bench.cli.main.app", exhausted)
    answer = gim_bench(*PLAIN)
    assert (answer.code, answer.out) == (1, "")
    (line,) = answer.err.splitlines()
    assert said in line


# case 9
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["list", "suites"], ["report", "--help"]], ids=" ".join)
def test_a_reader_that_closes_the_pipe_ends_a_command_quietly(arguments, unbuffered):
    """As `head` does; exit code 141 is that of a program which SIGPIPE ends.

    A short output is written when a command has ended, an unbuffered one line by line before.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "gim_bench", *arguments],
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


class Full(io.TextIOBase):
    """A stream that holds what is written until it is flushed, and then has no room."""

    def write(self, text):
        return len(text)

    def flush(self):
        raise OSError(errno.ENOSPC, "No space left on device")


class Gone(Full):
    """A stream whose reader has left."""

    def flush(self):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def exit_code_with(monkeypatch, arguments, **streams):
    """The exit code of a command with these streams in place of the standard ones."""
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    monkeypatch.setattr(sys, "argv", ["gim_bench", *arguments])
    with pytest.raises(SystemExit) as ending:
        main()
    return ending.value.code


# case 9
@pytest.mark.parametrize(
    ("verdict", "stream", "code"),
    [(0, Gone, 141), (0, Full, 74), (1, Gone, 1), (1, Full, 1), (3, Gone, 3), (3, Full, 3)],
)
def test_a_verdict_stands_and_results_that_are_lost_are_no_verdict(
    verdict, stream, code, monkeypatch, capsys
):
    def check():
        show("a table")
        raise typer.Exit(verdict)

    alone = typer.Typer()
    alone.command()(results_alone()(check))
    monkeypatch.setattr("gim_bench.cli.main.app", alone)
    assert exit_code_with(monkeypatch, [], stdout=stream()) == code
    assert ("No space left" in capsys.readouterr().err) == (code == 74)


# case 9
def test_a_check_whose_reader_has_left_is_not_worse(gim_bench, monkeypatch):
    check = ("check", "--suite", "smoke", "--runs-dir", "fresh")
    assert exit_code_with(monkeypatch, check, stdout=Gone()) == gim_bench(*check).code == 3


# case 9
@pytest.mark.parametrize("stream", [Gone, Full])
def test_a_reader_of_progress_that_is_gone_costs_lines_alone(
    stream, finished, gim_bench, monkeypatch, tmp_path
):
    more = (*PLAIN, "--seeds", "2")
    assert exit_code_with(monkeypatch, more, stderr=stream()) == 0
    assert set(statuses(tmp_path).values()) == {"done"}
    assert len(statuses(tmp_path)) == 4


# case 29
def test_what_libraries_print_does_not_reach_standard_output():
    """Neither by `print` nor by the descriptor, as libraries in C do, also from child processes."""
    noise = (
        "import os, subprocess, sys, typer\n"
        "from gim_bench.cli import main\n"
        "from gim_bench.system.streams import results_alone, show\n"
        "def command():\n"
        "    print('printed'); os.write(1, b'written'); sys.__stdout__.write('kept')\n"
        "    subprocess.run(['echo', 'echoed'])\n"
        "    show('result')\n"
        "main.app = typer.Typer(); main.app.command()(results_alone()(command))\n"
        "main.main()"
    )
    buffered = {name: text for name, text in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", noise]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=buffered)
    assert done.stdout == "result\n"
    assert all(word in done.stderr for word in ("printed", "written", "kept", "echoed"))


def test_closed_standard_streams_cost_nothing():
    """A file that is opened later must not get the descriptor of standard error."""
    command = f"{sys.executable} -m gim_bench list suites <&- 2>&-"
    assert "quickstart" in subprocess.check_output(command, shell=True, text=True)  # noqa: S602
