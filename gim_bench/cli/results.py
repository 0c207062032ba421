"""The records that `report` and `check` read, and where their text goes."""

import errno
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any

from gim_bench.cli.options import RUNS_DIR
from gim_bench.errors import ConfigError
from gim_bench.records.record import Record
from gim_bench.system.atomic import write_atomically
from gim_bench.system.streams import show

if TYPE_CHECKING:
    from gim_bench.records.folder import RunsFolder
    from gim_bench.report.build import PredictionsOf
    from gim_bench.report.found import Found
    from gim_bench.settings.schema import Suite


def records_of(
    suite: "Suite", runs_dir: Path, *, data: str | None, usual: str | None = None
) -> list[Record]:
    """The records with the settings of the suite, of one data set and any version of results.

    The data is the one whose sha256 begins with `data`, or else `usual` if it has records, or else
    the one that was finished last. Standard error says how many records are left out.

    Raises: ConfigError if `data` names no data of these records, or several.
    """
    from gim_bench.records.folder import RunsFolder
    from gim_bench.report.found import of_one_data

    return list(_said(of_one_data(suite, RunsFolder(runs_dir), data=data, usual=usual)).records)


def found_records(suite: "Suite", runs_dir: Path, *, data: str | None) -> "Found":
    """The records with the settings of the suite, of one data set and one version of results.

    They are of the data whose sha256 begins with `data`, or else of the record that finished last.
    Standard error says how many records are left out.

    Raises: ConfigError if `data` names no data of these records, or several.
    """
    from gim_bench.records.folder import RunsFolder
    from gim_bench.report.found import of_one_origin

    return _said(of_one_origin(suite, RunsFolder(runs_dir), data=data))


def _said(found: "Found") -> "Found":
    for line in found.left_out():
        print(line, file=sys.stderr)
    return found


def report_sources(
    suite: "Suite",
    found: "Found",
    *,
    runs: "RunsFolder",
    notes: Sequence[str] = (),
    metrics: Sequence[str] = (),
) -> dict[str, Any]:
    """The arguments of a report on these records beside the records and the chosen metrics."""
    from gim_bench.cells.resolve import describer
    from gim_bench.records.patches import pictures_of
    from gim_bench.records.protocols import KeptResults
    from gim_bench.report.changes import left_out
    from gim_bench.report.rates import settings_of_rows

    return {
        "suite": with_folder(suite, runs.root),
        "describes": describer(suite),
        "notes": [
            *notes,
            *(note[:1].upper() + note[1:] for note in found.notes()),
            left_out(found.other_settings, kept=found.records),
        ],
        "settings": settings_of_rows(suite),
        "predictions": runs.predictions if metrics else for_intervals(runs),
        "results": KeptResults(runs.folder_of),
        "pictures": lambda record: pictures_of(record, folder=runs.folder_of(record)),
    }


def for_intervals(runs: "RunsFolder") -> "PredictionsOf":
    """The function that reads the predictions of which a report has intervals."""
    from gim_bench.report import has_interval

    return partial(runs.predictions, wanted=has_interval)


def with_folder(suite: "Suite", runs_dir: Path) -> "Suite":
    """The suite, which commands ask for with the folder of its records."""
    return suite if runs_dir == RUNS_DIR else suite.asked_by("--runs-dir", str(runs_dir))


def deliver(text: str, *, output: Path | None) -> None:
    """Print the text, or write it to a file. Raises: ConfigError if it cannot be written."""
    if output is None:
        show(text)
        return
    # Names of files may hold bytes that are no text.
    content = f"{text}\n".encode(errors="backslashreplace")
    try:
        _write(content, to=output)
    except OSError as error:
        raise ConfigError(f"cannot write {output} ({error.strerror}): choose another") from None
    print(f"wrote {output}", file=sys.stderr)


def _write(content: bytes, *, to: Path) -> None:
    """Write a file, wholly or not at all where the file and its folder allow it. Raises: OSError.

    Names too long for a part file, and files that are mounted, are written in place.
    """
    if _is_replaceable(to):
        try:
            write_atomically(to.resolve(), content, keeps_mode=True)
        except OSError as error:
            if error.errno not in (errno.ENAMETOOLONG, errno.EBUSY):
                raise
        else:
            return
    to.write_bytes(content)


def _is_replaceable(path: Path) -> bool:
    """Whether a file can be written beside the path and then take its place, with nothing lost.

    That is a new file, or one with a single name that may be written; neither a pipe nor a device,
    such as /dev/stdout, which may lead to a file. Raises: OSError.
    """
    if path.absolute().is_relative_to("/dev"):
        return False
    try:
        there = path.stat()
    except FileNotFoundError:
        loses_nothing = True
    else:
        loses_nothing = S_ISREG(there.st_mode) and there.st_nlink == 1 and os.access(path, os.W_OK)
    return loses_nothing and os.access(path.resolve().parent, os.W_OK | os.X_OK)
