"""What users type. Results go to standard output, progress and errors to standard error."""

import io
import sys
from typing import NoReturn

import typer

from gim_bench.cli import data, report, run, sweep, sync
from gim_bench.cli.options import FAILED, INTERRUPTED, WRONG_USE
from gim_bench.errors import BenchError, one_line
from gim_bench.system.interrupts import terminate_as_interrupt

app = typer.Typer(
    help="Gradient-isolated representation learning, measured beside its baselines.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Fetch or check the data of a suite.", no_args_is_help=True)
app.add_typer(data_app, name="data")

for command in (run.run, sweep.sweep, sync.sync, report.report, report.check):
    app.command()(command)
app.command("list")(data.list_)
data_app.command()(data.prepare)
data_app.command()(data.verify)


def main() -> NoReturn:
    """The command line; an error of the user's is one line and exit code 2."""
    terminate_as_interrupt()
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may hold what it cannot write
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except SystemExit as ending:
        # Typer makes an exit of Ctrl-C, and says nothing.
        if ending.__context__ is None or not isinstance(
            ending.__context__.__cause__, KeyboardInterrupt
        ):
            raise
        _say_interrupted()
    except KeyboardInterrupt:  # before Typer has begun, or after it has ended
        _say_interrupted()
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(WRONG_USE)
    except OSError as error:  # a disk that is full or gone; records are written whole or not at all
        line = one_line(str(error))
        print(f"error: {line}; what was finished is kept, run the same again", file=sys.stderr)
        sys.exit(FAILED)
    except MemoryError as error:
        print(
            f"error: memory does not suffice ({error}): lower the sizes asked for", file=sys.stderr
        )
        sys.exit(FAILED)
    sys.exit(0)


def _say_interrupted() -> NoReturn:
    print("interrupted; what was finished is kept, run the same again", file=sys.stderr)
    sys.exit(INTERRUPTED)


# -- run -----------------------------------------------------------------------------------------


# -- sweep ---------------------------------------------------------------------------------------


# -- sync ----------------------------------------------------------------------------------------


# -- report --------------------------------------------------------------------------------------


# -- check ---------------------------------------------------------------------------------------


# -- list ----------------------------------------------------------------------------------------


# -- data ----------------------------------------------------------------------------------------
