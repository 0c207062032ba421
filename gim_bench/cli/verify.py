"""The command `verify`."""

import secrets
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gim_bench.cli.options import DataDirOption, DeviceOption, QuietOption, SuiteOption
from gim_bench.errors import ConfigError
from gim_bench.system.streams import show

if TYPE_CHECKING:
    from gim_bench.records.record import Record
    from gim_bench.settings.schema import Suite


def verify(
    submission: Annotated[
        Path, typer.Option(help="Records that somebody sent: submissions/<who>.")
    ],
    suite: SuiteOption,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Draws the cells that run again, with the records' digest.  [default: at random]",
            show_default=False,
        ),
    ] = None,
    cells: Annotated[int, typer.Option(min=1, help="How many cells run again.")] = 1,
    device: DeviceOption = "auto",
    data_dir: DataDirOption = None,
    quiet: QuietOption = False,
) -> None:
    """Run cells of a submission again. Exit code 1: a number does not hold. 3: no verdict.

    The outcome is kept beside the records, where `site` reads it.
    """
    import sys

    from gim_bench.check.outcome import EXIT_CODES, Outcome
    from gim_bench.settings.suites import load_suite
    from gim_bench.site.again import CannotJudgeError, verified
    from gim_bench.site.submissions import Refused, misfit, read_submission
    from gim_bench.site.verification import save_verification

    loaded = load_suite(suite)
    read = read_submission(submission, suite=loaded.name)
    if isinstance(read, Refused):
        raise ConfigError(read.line)
    if unfit := misfit(read, loaded):
        raise ConfigError(unfit.line)
    seed = secrets.randbelow(2**32) if seed is None else seed
    found = []
    for claim in read.drawn(seed=seed, count=cells):
        print(
            f"{read.name}, sha256 {read.digest[:12]}…, draw {seed}: {claim.method} seed "
            f"{claim.seed} runs again",
            file=sys.stderr,
        )
        again = _run_again(claim, loaded, device=device, data_dir=data_dir, quiet=quiet)
        try:
            found.append(verified(read, claim=claim, again=again, seed=seed))
        except CannotJudgeError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(EXIT_CODES[Outcome.UNJUDGED]) from None
        show(found[-1].line)
    path = save_verification(read, found)
    print(f"wrote {path}", file=sys.stderr)
    holds = all(each.outcome is Outcome.PASSES for each in found)
    raise typer.Exit(EXIT_CODES[Outcome.PASSES if holds else Outcome.WORSE])


def _run_again(
    claim: "Record",
    suite: "Suite",
    *,
    device: str,
    data_dir: Path | None,
    quiet: bool,
) -> "Record":
    """The record of the same cell, run on this machine."""
    from gim_bench.cli.workload import workload_of

    with tempfile.TemporaryDirectory(prefix="gim-bench-verify-") as folder:
        work = workload_of(
            suite,
            methods=[claim.method],
            seeds=1,
            device=device,
            data_dir=data_dir,
            runs_dir=Path(folder),
            quiet=quiet,
        )
        work = replace(work, cells=[replace(cell, seed=claim.seed) for cell in work.cells])
        work.check()
        share = work.share({}, workers=1)
        (record,) = work.run(share, records=work.records(), rerun=False)
    return record
