"""The command `show`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from gim_bench.cli.options import DeviceOption, MethodOption, SetOption, suites
from gim_bench.errors import ConfigError
from gim_bench.system import streams

if TYPE_CHECKING:
    from gim_bench.settings.origins import Setting

SuiteArgument = Annotated[
    str | None,
    typer.Argument(metavar="SUITE", help="A shipped suite, or a TOML file.", autocompletion=suites),
]
SameOption = Annotated[
    str | None,
    typer.Option("--suite", help="The same, as other commands take it.", autocompletion=suites),
]
ChangedOption = Annotated[
    bool, typer.Option("--stated", help="Leave out settings at their defaults.")
]


def show(
    named: SuiteArgument = None,
    suite: SameOption = None,
    method: MethodOption = None,
    device: DeviceOption = "auto",
    set_: SetOption = None,
    stated: ChangedOption = False,
) -> None:
    """Print the settings of a suite's rows, and where each comes from."""
    from gim_bench.settings.suites import load_suite

    if named is not None and suite is not None:
        raise ConfigError(f"two suites, {named!r} and --suite {suite!r}: name one")
    suite = named or suite
    if suite is None:
        raise ConfigError("no suite: name one, as in python -m gim_bench show quickstart")
    loaded = load_suite(suite, overrides=set_ or ())
    from gim_bench.cells.resolve import configs
    from gim_bench.hardware.devices import resolve_device
    from gim_bench.report import check_sources
    from gim_bench.settings.origins import DEFAULT, settings_of

    check_sources(loaded)
    rows = {
        name: [
            setting
            for setting in settings_of(config, suite=suite, overrides=set_ or ())
            if not stated or setting.origin != DEFAULT
        ]
        for name, config in configs(
            loaded, methods=method or (), device=resolve_device(device)
        ).items()
    }
    first, *others = rows.values()
    shared = [setting for setting in first if all(setting in other for other in others)]
    _print("all rows" if others else next(iter(rows)), shared)
    for name, settings in rows.items():
        if own := [setting for setting in settings if setting not in shared]:
            streams.show("")
            _print(name, own)


def _print(title: str, settings: "Sequence[Setting]") -> None:
    """A line for each setting, as `--set` takes it, with its origin."""
    streams.show(f"# {title}")
    width = min(60, max((len(str(setting)) for setting in settings), default=0))
    for setting in settings:
        streams.show(f"{setting!s:<{width}}  # {setting.origin}")
