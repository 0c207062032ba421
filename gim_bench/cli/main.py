"""The command line: its commands, its exit codes, and errors as one line.

Results go to standard output, progress and errors to standard error.
"""

import io
import os
import sys
from typing import NoReturn

import typer

from gim_bench.cli import data
from gim_bench.cli import list as listing
from gim_bench.cli.check import check
from gim_bench.cli.options import CLOSED_PIPE, FAILED, INTERRUPTED, WRONG_USE
from gim_bench.cli.patches import patches
from gim_bench.cli.probe import probe
from gim_bench.cli.report import report
from gim_bench.cli.run import run
from gim_bench.cli.sweep import sweep
from gim_bench.cli.sync import sync
from gim_bench.errors import BenchError, one_line
from gim_bench.system.interrupts import terminate_as_interrupt

app = typer.Typer(
    help="Gradient-isolated representation learning, measured beside its baselines.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Typer 0.29 imports pydantic to read a `--help` without a default, even where it is not given.
    context_settings={"default_map": {"help": False, "list": listing.NO_HELP}},
)
for command in (run, sweep, probe, patches, sync, report, check):
    app.command()(command)
app.add_typer(listing.app, name="list")
app.add_typer(data.app, name="data")


def main() -> NoReturn:
    """Run the command line. An error that the user can mend is one line, without a traceback."""
    terminate_as_interrupt()
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names may hold what it cannot encode
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _run_app()
    except KeyboardInterrupt:
        _end(INTERRUPTED, "interrupted; finished cells are kept: run the same command again")
    except BrokenPipeError:  # as of `report | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(CLOSED_PIPE)
    except BenchError as error:
        _end(WRONG_USE, f"error: {error}")
    except OSError as error:  # a disk that is full or gone; records are written whole or not at all
        line = one_line(str(error))
        _end(FAILED, f"error: {line}; finished cells are kept: run the same command again")
    except MemoryError as error:
        _end(FAILED, f"error: memory does not suffice ({error}): lower the sizes asked for")
    sys.exit(0)


def _run_app() -> None:
    """Run a command, and raise the interruption or closed pipe that Typer makes an exit of."""
    try:
        app()
    except SystemExit as ending:
        context = ending.__context__
        cause = getattr(context, "__cause__", None) or context
        if isinstance(cause, KeyboardInterrupt | BrokenPipeError):
            raise cause from None
        raise
    finally:
        sys.stdout.flush()  # or a closed pipe would show while the interpreter ends


def _end(code: int, message: str) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(code)
