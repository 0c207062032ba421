"""The command `list`. It answers without importing PyTorch, pydantic or a method's module."""

import tomllib
from collections.abc import Mapping
from typing import no_type_check

import typer

from gim_bench import registry
from gim_bench.settings.shipped import shipped_suites

# Subcommands instead of an argument: typer needs pydantic to read an argument.
app = typer.Typer()


@app.callback(invoke_without_command=True)
@no_type_check  # typer hands over an instance of the class that typer.Context is derived from
def everything(context: typer.Context) -> None:
    """List suites, methods, encoders, data sets and metrics; by default all of them."""
    if context.invoked_subcommand is None:
        for position, (title, command) in enumerate(COMMANDS.items()):
            print(f"{'' if position == 0 else chr(10)}{title}:")
            command()


@app.command()
def suites() -> None:
    """List the suites that come with the package."""
    _print(
        {
            name: tomllib.loads(path.read_text(encoding="utf-8"))["summary"]
            for name, path in shipped_suites().items()
        }
    )


@app.command()
def methods() -> None:
    """List the methods of all installed packages."""
    _print(_summaries(registry.methods()))


@app.command()
def encoders() -> None:
    """List the encoders of all installed packages."""
    _print(_summaries(registry.encoders()))


@app.command()
def datasets() -> None:
    """List the data sets of all installed packages."""
    _print(_summaries(registry.datasets()))


@app.command()
def metrics() -> None:
    """List the metrics that a record may hold, with their units and better directions.

    The metric of one module ends in /module_<k>; the bare name belongs to the top module.
    """
    from gim_bench.records.metrics import METRICS

    _print({m.name: f"{m.meaning} ({m.unit}; {m.better} is better)" for m in METRICS.values()})


COMMANDS = {
    "suites": suites,
    "methods": methods,
    "encoders": encoders,
    "datasets": datasets,
    "metrics": metrics,
}
NO_HELP = {"help": False, **{name: {"help": False} for name in COMMANDS}}


def _summaries(targets: Mapping[str, str]) -> dict[str, str]:
    return {name: registry.summary(target) for name, target in sorted(targets.items())}


def _print(summaries: Mapping[str, str]) -> None:
    """A line for each name, with the summaries below each other."""
    width = max(map(len, summaries))
    for name, summary in summaries.items():
        print(f"{name:<{width}}  {summary}".rstrip())
