"""Every command that the README and the docs tell people to type can be typed."""

import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import typer

from gim_bench import registry
from gim_bench.cells.resolve import configs
from gim_bench.check.reference import reference_path
from gim_bench.cli.main import app
from gim_bench.seals import sha256_of
from gim_bench.settings.suites import load_suite, shipped_suites

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
OF_METHODS = ROOT / "docs" / "methods"
PROGRAMS = ("python -m gim_bench", "gim-bench")
PLACEHOLDERS = set("<>…$[]{}|")  # lines with these are patterns, not commands


def commands(text):
    """The arguments of every gim_bench command in the code blocks of a page, line by line."""
    fenced = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^ {4}(?:python|gim-bench)(?:.*\\\n)*.*\n", text, re.MULTILINE)
    for block in (*fenced, *(textwrap.dedent(block) for block in indented)):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.removeprefix("$ ").split("&&"):
                command = part.strip()
                for program in PROGRAMS:
                    if command == program or command.startswith(program + " "):
                        yield command.removeprefix(program).strip()


def cases():
    return [
        pytest.param(command, id=f"{page.name}: {command}")
        for page in PAGES
        for command in dict.fromkeys(commands(page.read_text(encoding="utf-8")))
    ]


def parsed(arguments):
    """The options of a command line, checked but not run. Raises: what typer raises."""
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        if not arguments or arguments[0] not in command.commands:
            pytest.fail(f"no command {' '.join(arguments)!r}: {', '.join(command.commands)}")
        command, arguments = command.commands[arguments[0]], arguments[1:]
    return command.make_context("gim_bench", list(arguments)).params


def check(command):
    """Fails on what does not exist."""
    if PLACEHOLDERS & set(command):
        pytest.skip("a pattern, not a command")
    options = parsed(shlex.split(command, comments=True))
    suites, methods = (options.get(name) or () for name in ("suite", "method"))
    suites, methods = ([x] if isinstance(x, str) else x for x in (suites, methods))
    for suite in suites:
        if suite.endswith(".toml"):
            continue
        assert suite in shipped_suites(), f"no suite {suite!r}"
        loaded = load_suite(suite, overrides=options.get("set_") or ())
        configs(loaded, methods=methods, device=torch.device("cpu"))
        if options.get("weight_decay"):
            assert loaded.probe.kind == "adam", "a penalty has no weight decay"
    if not suites:  # a suite knows its rows, which may have names of their own
        assert set(methods) <= set(registry.methods())


@pytest.mark.parametrize("command", cases())
def test_a_command_of_the_documentation_can_be_typed(command):
    check(command)


@pytest.mark.parametrize("method", registry.methods())
def test_a_page_has_source_settings_deviations_and_a_command_of_the_method(method):
    pages = [page.read_text(encoding="utf-8") for page in OF_METHODS.glob("*.md")]
    (page,) = (text for text in pages if re.search(rf"^\| `{method}` +\|", text, re.MULTILINE))
    assert re.search(r"\bsource", page, re.IGNORECASE)
    assert {"## Settings", "## Deviations"} <= set(page.splitlines())
    assert any(f"--method {method}" in re.split(r" (?=-)", command) for command in commands(page))


@pytest.mark.parametrize("encoder", registry.encoders())
def test_a_section_has_source_settings_deviations_and_a_command_of_the_encoder(encoder):
    page = (OF_METHODS / "encoders.md").read_text(encoding="utf-8")
    (section,) = (part for part in page.split("\n## ") if part.startswith(f"`{encoder}`:"))
    assert "\nSource: " in section
    assert "\n| setting |" in section
    assert "deviation" in section or re.search(r"\| ours \|$", section, re.MULTILINE)
    assert [*commands(section)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_links_to_are_there(page):
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


def test_the_readme_shows_how_to_start_and_how_to_test():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "pip install . && python -m gim_bench run --suite quickstart" in text
    assert "pip install tox && tox" in text


def test_the_readme_s_picture_is_drawn_from_the_reference_of_the_quickstart(tmp_path):
    """With a point for every module and a line for every method."""
    drawn = tmp_path / "quickstart.svg"
    subprocess.run([sys.executable, ROOT / "docs" / "picture.py", drawn], check=True)
    shown = (ROOT / "docs" / "quickstart.svg").read_text(encoding="utf-8")
    assert "(docs/quickstart.svg)" in (ROOT / "README.md").read_text(encoding="utf-8")
    for svg in (shown, drawn.read_text(encoding="utf-8")):
        texts = set(re.findall(r">([^<>\n]+)</text>", svg))
        assert {"gim", "cpc", "supervised", "greedy_supervised", "random_init"} <= texts
        assert {"1", "2", "3"} <= texts
        assert f"sha256 {sha256_of(reference_path('quickstart'))} " in svg  # else draw it anew


def test_every_shipped_suite_is_named_in_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in shipped_suites())


def test_every_setting_that_the_readme_changes_by_set_exists():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for override in re.findall(r"--set ([\w.]+=[^\s`]+)", text):
        suite = load_suite("quickstart", overrides=[override])
        configs(suite, methods=(), device=torch.device("cpu"))


# -- the check itself ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    ["trai --suite stl10", "run --suit stl10", "run --suite stl11", "run", "list people",
     "run --suite stl10 --method gmi", "run --suite stl10 --set training.epoch=3",
     "run --suite stl10 --set encoder.widht=3", "data"],
)  # fmt: skip
def test_a_command_that_cannot_be_typed_is_noticed(command):
    with pytest.raises((Exception, pytest.fail.Exception)):
        check(command)


def test_commands_are_found_in_code_blocks_alone():
    page = (
        "Type `python -m gim_bench list all`.\n\n```\npip install . && python -m gim_bench run \\\n"
        "  --suite stl10\nls\n```\n\n```console\n$ gim-bench list methods\n```\n"
    )
    assert [" ".join(c.split()) for c in commands(page)] == ["run --suite stl10", "list methods"]


def test_every_test_that_a_promise_names_is_there():
    text = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[^`]*)`", text)
    assert len(named) > 30
    for name in named:
        file, _, test = name.partition("::")
        assert (ROOT / file).exists(), name
        if test:
            assert f"\ndef {test}(" in (ROOT / file).read_text(encoding="utf-8"), name
