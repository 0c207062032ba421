"""The options of the conformance tests, and the cases that they ask for.

pytest reads a plugin before it sets up its own checks of annotations, so nothing heavy is imported
at the top.
"""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gim_bench.errors import ConfigError

if TYPE_CHECKING:
    from gim_bench.testing.cases import Case, EncoderCase

HERE = Path(__file__).parent
USAGE = (
    "name what to test: python -m pytest -p gim_bench.testing --pyargs gim_bench.testing "
    "--method my_package:MyMethod, or --encoder my_package:MyEncoder, or both"
)

ENCODERS = pytest.StashKey["list[EncoderCase]"]()
CASES = pytest.StashKey["list[Case]"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("gim_bench", "conformance tests of gim_bench")
    for option, metavar, text in (
        ("--method", "PACKAGE:CLASS", "a method to test"),
        ("--encoder", "PACKAGE:CLASS", "an encoder to test, and to test the methods on"),
        ("--method-option", "NAME=VALUE", "an option of the methods; the value is TOML"),
        ("--encoder-option", "NAME=VALUE", "an option of the encoders"),
        ("--objective-option", "NAME=VALUE", "an option of the methods' objective"),
    ):
        group.addoption(option, action="append", default=[], metavar=metavar, help=text)
    group.addoption(
        "--shape", metavar="SIZES", help="of one augmented example: 1,32,32 (image) or 3200"
    )


def pytest_sessionstart(session: pytest.Session) -> None:
    """Find the cases before any test is collected. Raises: UsageError in one line."""
    config = session.config
    if not config.option.method and not config.option.encoder:
        raise pytest.UsageError(USAGE)
    try:
        config.stash[ENCODERS], config.stash[CASES] = asked_for(config.option)
    except ConfigError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the tests of methods where no method is named, and likewise of encoders."""
    if collection_path == HERE / "test_encoder.py" and not config.stash[ENCODERS]:
        return True
    of_methods = (HERE / "test_method.py", HERE / "test_traits.py")
    if collection_path in of_methods and not config.stash[CASES]:
        return True
    return None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each conformance test for every case."""
    if metafunc.module.__package__ != __package__:
        return
    cases = metafunc.config.stash[CASES]
    encoders = metafunc.config.stash[ENCODERS]
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", cases, ids=str)
    if "encoder_case" in metafunc.fixturenames:
        metafunc.parametrize("encoder_case", encoders, ids=str)


def asked_for(given: Namespace) -> "tuple[list[EncoderCase], list[Case]]":
    """The cases of encoders and of methods that the options name. Raises: ConfigError."""
    from gim_bench import registry
    from gim_bench.contract import Encoder, Learner
    from gim_bench.testing.cases import encoder_case, method_cases, tiny_encoders

    for kind in ("method", "encoder"):
        if getattr(given, f"{kind}_option") and not getattr(given, kind):
            raise ConfigError(f"--{kind}-option is given without --{kind}: name the {kind}, too")
    shape = None if given.shape is None else shape_of(given.shape)
    encoders = [
        encoder_case(
            registry.load("encoder", name, target=name, base=Encoder)
            if ":" in name
            else registry.encoder(name, where="--encoder"),
            options=table_of(given.encoder_option, option="--encoder-option"),
            shape=shape,
        )
        for name in given.encoder
    ]
    cases: list[Case] = []
    for name in given.method:
        cases += method_cases(
            registry.load("method", name, target=name, base=Learner)
            if ":" in name
            else registry.method(name, where="--method"),
            name=name.rpartition(":")[2],
            encoders=encoders or tiny_encoders(shape),
            options=table_of(given.method_option, option="--method-option"),
            objective=table_of(given.objective_option, option="--objective-option"),
        )
    return encoders, cases


def table_of(entries: Sequence[str], *, option: str) -> dict[str, Any]:
    """The table that entries NAME=VALUE make. Raises: ConfigError."""
    from gim_bench.settings.suites import setting_value

    table = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not name or not equals:
            raise ConfigError(f"{option} {entry!r} is not NAME=VALUE, as in {option} width=4")
        table[name] = setting_value(value)
    return table


def shape_of(text: str) -> tuple[int, ...]:
    """The shape of one example. Raises: ConfigError where the text is no list of sizes."""
    sizes = text.split(",")
    if not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise ConfigError(f"--shape {text!r} is no list of sizes, as in --shape 1,32,32")
    return tuple(map(int, sizes))
