"""The command: python -m benchmarks.gpu --minutes 8 --output results/measured.

Starts the process that measures, and watches over it: a part that hangs is ended, and another
process goes on with the next part. The report is there from the first part on, and the command ends
within its minutes.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.gpu.plan import SIZES, Part, named
from benchmarks.gpu.report import write_report

CHECKOUT = Path(__file__).parents[2]
PLAN = "benchmarks.gpu.plan:PARTS"
LOOK_SECONDS = 0.5
# The process that measures stops beginning cases so long before the command must end.
FAREWELL_SECONDS = 6.0
GRACE_SECONDS = 15.0  # that a part may overrun its limit before it counts as hanging
DYING_SECONDS = 2.0  # that a process may take to end after SIGKILL
LEAST_SECONDS = 15.0  # that must be left to begin another process
FAILED, INTERRUPTED = 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 if every part is done; 1 if a part failed, was stopped or measured nothing."""
    given = _options().parse_args(arguments)
    began = time.monotonic()
    measured = Measurement(given, ending=began + 60 * given.minutes)
    print(f"measuring for up to {given.minutes:g} minutes into {measured.folder}", flush=True)
    # As Ctrl-C, so that the process that measures is ended and the report written.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        measured.run()
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        measured.report()
        print(f"{time.monotonic() - began:.0f} s; report: {measured.folder / 'report.md'}")
    return (
        0 if all(found.get("status") == "done" for found in measured.parts().values()) else FAILED
    )


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    options.add_argument("--minutes", type=float, default=8, help="the command ends within them")
    options.add_argument("--output", type=Path, default=Path("results/measured"),
                         help="a folder; a folder named after the time is made in it")  # fmt: skip
    options.add_argument("--device", default="cuda", help="cuda, cuda:<number>, or cpu to try")
    options.add_argument("--sizes", choices=SIZES,
                         help="default: paper on a GPU, rehearsal on a CPU")  # fmt: skip
    options.add_argument("--part", action="append", choices=[part.name for part in named(PLAN)],
                         help="only this part; may be repeated")  # fmt: skip
    return options


class Measurement:
    """The files of a measurement, and the process that writes them."""

    def __init__(self, given: argparse.Namespace, *, ending: float, plan: str = PLAN) -> None:
        """`ending` is when everything must be over, of time.monotonic(); `plan` names the parts."""
        self.given = given
        self.ending = ending
        self.plan = plan
        parts: Sequence[Part] = named(plan)
        self.wanted = [part for part in parts if given.part is None or part.name in given.part]
        self.began = datetime.now(UTC)
        self.folder = (
            given.output / f"{self.began:%Y-%m-%d-%H%M%S}-{given.device.partition(':')[0]}"
        )
        self.folder.mkdir(parents=True)
        self.said: set[str] = set()
        self.reported: Mapping[str, Mapping[str, Any]] | None = None

    def run(self) -> None:
        """Begin processes until every part was begun or the time is over."""
        while (left := self._not_begun()) and self._seconds_left > LEAST_SECONDS:
            self._one_process(left)
            had_time = self._seconds_left > LEAST_SECONDS
            if self._not_begun() == left and had_time:  # another would end as this one did
                *_, last = (self.folder / "log.txt").read_text().splitlines() or ["nothing"]
                print(f"the process that measures did not begin; it said: {last}")
                return

    def parts(self) -> Mapping[str, Mapping[str, Any]]:
        """What is there of every part that was wanted, by name."""
        paths = {part.name: self.folder / f"{part.name}.json" for part in self.wanted}
        return {
            name: json.loads(path.read_text()) if path.exists() else {}
            for name, path in paths.items()
        }

    def report(self) -> None:
        """Write the report of what is there, and say which parts have ended since the last one."""
        parts = self.parts()
        if parts == self.reported:
            return
        self.reported = parts
        write_report(
            self.folder / "report.md",
            [(part, parts[part.name]) for part in self.wanted],
            facts={
                "begun": self.began.isoformat(timespec="seconds"),
                "command": f"python -m benchmarks.gpu {' '.join(sys.argv[1:])}".strip(),
                "device": self.given.device,
                "sizes": self._sizes,
            },
        )
        for name, found in parts.items():
            if found.get("status", "running") != "running" and name not in self.said:
                self.said.add(name)
                why = f": {found['why']}" if "why" in found else ""
                status, seconds = found["status"], found["seconds"]
                print(f"{name:<14} {status:<12} {seconds:6.1f} s{why}", flush=True)

    @property
    def _seconds_left(self) -> float:
        return self.ending - time.monotonic()

    @property
    def _sizes(self) -> str:
        default = "rehearsal" if self.given.device == "cpu" else "paper"
        return self.given.sizes or default

    def _not_begun(self) -> list[str]:
        return [name for name, found in self.parts().items() if not found]

    def _one_process(self, left: Sequence[str]) -> None:
        """Run the parts that are `left` in a process, until it ends or has to be ended.

        It finds no kernels that another process compiled.
        """
        with (
            (self.folder / "log.txt").open("a") as log,
            TemporaryDirectory(ignore_cleanup_errors=True) as compiled,
        ):
            process = subprocess.Popen(  # noqa: S603 - our own module
                [
                    sys.executable, "-m", "benchmarks.gpu.worker", str(self.folder.resolve()),
                    "--device", self.given.device, "--sizes", self._sizes, "--plan", self.plan,
                    "--parent", str(os.getpid()),
                    "--deadline", str(self.ending - FAREWELL_SECONDS), "--parts", ",".join(left),
                ],
                cwd=CHECKOUT,
                env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": compiled},
                stdout=log,
                stderr=log,
                start_new_session=True,  # compilers that it starts end with it
            )  # fmt: skip
            why = "interrupted"
            try:
                why = self._watch(process)
            finally:
                _kill(process)
                self._close(why or f"its process ended with exit code {process.returncode}")

    def _watch(self, process: subprocess.Popen) -> str:
        """Report until the process ends; or why it has to be ended."""
        while process.poll() is None:
            time.sleep(LOOK_SECONDS)
            self.report()
            if self._seconds_left < FAREWELL_SECONDS / 2:
                return "no time left"
            for found in self.parts().values():
                if found.get("status") == "running" and _overdue(found):
                    return f"ended after {found['limit_seconds'] + GRACE_SECONDS:.0f} s"
        return ""

    def _close(self, why: str) -> None:
        """A part that was running has stopped; its rows stay."""
        for name, found in self.parts().items():
            if found.get("status") == "running":
                seconds = time.monotonic() - found["began"]
                stopped = {**found, "status": "stopped", "why": why, "seconds": seconds}
                (self.folder / f"{name}.json").write_text(json.dumps(stopped, indent=1))
        self.report()


def _overdue(found: Mapping[str, Any]) -> bool:
    return time.monotonic() > found["began"] + found["limit_seconds"] + GRACE_SECONDS


def _kill(process: subprocess.Popen) -> None:
    """End the process and all that it started, or leave it behind if it hangs in the driver."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=DYING_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
