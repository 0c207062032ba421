"""Suites and `--set` values that make no sense."""

import os
import tomllib

import pytest
import tomli_w
from hypothesis import strategies as st

from tests.bad_input.feed import (
    TEXTS,
    altered,
    check_answer,
    check_line,
    damaged,
    fed,
    folder_of_its_own,
    gim_bench,
)
from tests.tiny_suite import TOML

TINY = tomllib.loads(TOML)
PLAN = ("run", "--suite", "./bad.toml", "--plan", "--no-tracking")
REPORT = ("report", "--suite", "./bad.toml")


# What is planned is timed: numbers that would keep a computer busy for a day are no bad input.
SMALL = st.one_of(
    st.integers(-3, 40), st.floats(-1, 2), TEXTS, st.sampled_from([True, [], {}, None])
)


def _toml(tree) -> str:
    """Nothing stands for null in TOML."""
    return tomli_w.dumps(_without_nulls(tree))


def _without_nulls(tree):
    if isinstance(tree, dict):
        return {n: _without_nulls(v) for n, v in tree.items() if v is not None}
    if isinstance(tree, list):
        return [_without_nulls(value) for value in tree if value is not None]
    return tree


SETTINGS = [
    f"{section}.{name}"
    for section, table in TINY.items()
    if isinstance(table, dict)
    for name in table
]
KEYS = st.one_of(
    st.sampled_from(SETTINGS), TEXTS, st.lists(TEXTS, max_size=4).map(".".join),
    st.sampled_from(["training." * 2_000 + "a", "encoder.kind.x", "method.gim.x", "method.x.y"]),
)  # fmt: skip
ASSIGNED = st.one_of(
    TEXTS,
    st.sampled_from(
        ["nan", "-inf", "{}", "[[]]", "[" * 5_000, "9" * 5_000, "1979-05-27", '"\\ud8"']
    ),
)


def _fed(content, command, *more, codes=(0, 2)):
    with folder_of_its_own() as folder:
        if isinstance(content, str):
            content = content.encode("utf-8", "surrogatepass")
        (folder / "bad.toml").write_bytes(content)
        check_answer(gim_bench(*command, *more), codes=codes)


@fed(60, tree=altered(TINY))
def test_a_suite_with_one_thing_wrong_is_refused_in_a_line(tree):
    _fed(_toml(tree), REPORT)


@fed(20, tree=altered(TINY, SMALL))
def test_a_suite_with_one_thing_wrong_is_planned_or_refused(tree):
    _fed(_toml(tree), PLAN)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("encoder.width=10000000", "gim seed 0 does not fit into memory"),
        ("encoder.width=10000000000000000000000", "gim seed 0 would fail"),
        ("dataset.train_crops=1000000000000", "memory does not suffice"),
        ("training.epochs=" + "9" * 5_000, "training.epochs = '999"),
        ("training.epochs=" + "[" * 5_000, "training.epochs = '[[["),
        ("a." * 2_000 + "b=1", "nested too deep"),
        ("probe.stepps=3", "Did you mean 'steps'? Available: augment, batch_size,"),
        ("probe=3", "probe = 3: input should be a table"),
        ('methods=["../../outside"]', "methods.0 = '../../outside': string should match pattern"),
        ('name="a\\nb"', "name = 'a\\nb': string should match pattern"),
    ],
)
def test_a_setting_of_absurd_size_or_form_is_refused_in_a_line(setting, reason):
    with folder_of_its_own() as folder:
        (folder / "bad.toml").write_text(TOML)
        answer = gim_bench(*PLAN, f"--set={setting}")
    assert answer.code in (1, 2)
    assert reason in answer.err
    check_line(answer.err.removesuffix("\n"))


def test_a_suite_file_whose_name_is_too_long_is_not_there():
    answer = gim_bench("report", "--suite", "a" * 5_000 + ".toml")
    assert answer.code == 2
    check_answer(answer)


def test_folders_whose_names_are_no_text_are_named_all_the_same():
    """Names of files are bytes; a terminal takes UTF-8."""
    with folder_of_its_own() as folder:
        (folder / "bad.toml").write_text(TOML)
        run = ("run", "--suite", "./bad.toml", "--no-tracking", "--method", "random_init")
        answer = gim_bench(*run, "--runs-dir", os.fsdecode(b"runs\xff"))
    assert answer.code == 0
    assert "Records: runs\\udcff/tiny" in answer.out


@fed(40, content=damaged((TOML.encode(),)))
def test_a_damaged_suite_file_is_refused_in_a_line(content):
    _fed(content, REPORT)


@fed(
    20,
    content=st.one_of(
        st.binary(), TEXTS, st.sampled_from(["a=" + "[" * 5_000, "a=" + "9" * 5_000])
    ),
)
def test_what_is_no_suite_is_refused_in_a_line(content):
    _fed(content, REPORT)


@fed(60, key=KEYS, value=ASSIGNED, equals=st.sampled_from(["=", "=", "=", "", "=="]))
def test_any_text_given_to_set_is_answered_in_a_line(key, value, equals):
    _fed(TOML, REPORT, f"--set={key}{equals}{value}")
