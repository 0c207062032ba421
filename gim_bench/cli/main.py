"""The command line: its commands, its exit codes, and errors as one line.

Results go to standard output, progress and errors to standard error.
"""

import errno
import sys
from typing import NoReturn

import typer

from gim_bench.cli import data
from gim_bench.cli import list as listing
from gim_bench.cli.check import check
from gim_bench.cli.export import export
from gim_bench.cli.options import CLOSED_PIPE, FAILED, LOST, WRONG_USE
from gim_bench.cli.patches import patches
from gim_bench.cli.probe import probe
from gim_bench.cli.ranks import rank_0_alone
from gim_bench.cli.report import report
from gim_bench.cli.run import run
from gim_bench.cli.show import show
from gim_bench.cli.site import site
from gim_bench.cli.status import cancel, status
from gim_bench.cli.sweep import sweep
from gim_bench.cli.sync import sync
from gim_bench.cli.verify import verify
from gim_bench.errors import BenchError, one_line
from gim_bench.system.interrupts import INTERRUPTED, terminate_as_interrupt
from gim_bench.system.streams import forgiving, results_alone
from gim_bench.system.user import settle_user

PROGRAM = "gim-bench"  # as pip installs it

app = typer.Typer(
    help="Gradient-isolated representation learning, measured beside its baselines.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Typer 0.29 imports pydantic to read a `--help` without a default, even where it is not given.
    context_settings={"default_map": {"help": False, "list": listing.NO_HELP}},
)
COMMANDS_OF_ONE_PROCESS = (
    status, cancel, sweep, probe, patches, sync, report, check, show, site, verify, export,
)  # fmt: skip
app.command()(results_alone()(run))
for command in COMMANDS_OF_ONE_PROCESS:
    app.command()(results_alone()(rank_0_alone()(command)))
app.add_typer(listing.app, name="list")
app.add_typer(data.app, name="data")


def main() -> NoReturn:
    """Run the command line. An error that the user can mend is one line, without a traceback."""
    terminate_as_interrupt()
    settle_user()
    with forgiving() as output:
        code = _exit_code()
        output.flush()
        if output.error is not None:
            code = code or _lost(output.error)
    sys.exit(code)


def _exit_code() -> int:
    """Run a command, and return its exit code."""
    try:
        _run_app()
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else 0
    except KeyboardInterrupt:
        return _said(
            INTERRUPTED, "interrupted; finished cells are kept: run the same command again"
        )
    except BenchError as error:
        return _said(WRONG_USE, f"error: {error}")
    except OSError as error:  # a disk that is full or gone; records are written whole or not at all
        line = one_line(str(error))
        return _said(FAILED, f"error: {line}; finished cells are kept: run the same command again")
    except (MemoryError, RuntimeError) as error:
        from gim_bench.hardware.memory import is_exhausted

        if not is_exhausted(error):
            raise
        line = one_line(str(error))
        return _said(FAILED, f"error: memory does not suffice ({line}): lower the sizes asked for")
    return 0


def _run_app() -> None:
    """Run a command, and raise the interruption that Typer makes an exit of."""
    asked = {"--install-completion", "--show-completion"} & {*sys.argv[1:2]}
    try:
        if asked:  # of a program: `python -m gim_bench` is no word that a shell could complete
            app(prog_name=PROGRAM)
        app()
    except SystemExit as ending:
        context = ending.__context__
        cause = getattr(context, "__cause__", None) or context
        if isinstance(cause, KeyboardInterrupt):
            raise cause from None
        raise


def _lost(error: OSError) -> int:
    """The exit code where results could not be written; a reader that left, as `head` does, knows.

    A command with another exit code than 0 keeps the code: the verdict of `check` stands.
    """
    if error.errno == errno.EPIPE:
        return CLOSED_PIPE
    line = f"error: results cannot be written to standard output ({error.strerror})"
    return _said(LOST, f"{line}: make room, or choose another place")


def _said(code: int, message: str) -> int:
    print(message, file=sys.stderr)
    return code
