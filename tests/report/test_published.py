"""The numbers of the paper, compared with the paper's own text where it is quoted here."""

import re
import tomllib
from itertools import combinations
from pathlib import Path

import pytest

from gim_bench.errors import ConfigError
from gim_bench.report import published
from gim_bench.report.published import load
from gim_bench.report.tags import UNKNOWN

QUOTED = {
    "loewe2019/table1": {"deep_infomax", "predsim"},
    "loewe2019/table3": {"random_init", "mfcc"},
    "oord2018/librispeech": {"cpc", "random_init", "mfcc"},
}
FOLDER = Path(__file__).parents[2] / "results" / "published"
MEMORY = "memory/gpu_allocated_over_baseline_bytes"
TWO_TABLES = """
short = "{short}"
[table1]
place = "Table 1"
page = 2
margin = 1.0
margin_reason = "half of a gap"
results = [
    {{ method = "gim", metric = "accuracy", value = {value}, unit = "%" }},
    {{ method = "cpc", metric = "accuracy", value = 50.0, unit = "%" }},
]
[table2]
place = "Table 2"
page = 3
margin = {{ accuracy = 2.0, phone_accuracy = 3.0 }}
margin_reason = "half of a gap"
results = [
    {{ method = "gim", metric = "accuracy", value = 61.0, unit = "%" }},
    {{ method = "gim", metric = "phone_accuracy", value = 2.0, unit = "%" }},
]
"""


def numbers(reference):
    """The numbers of a single table."""
    (found,) = load([reference]).values()
    return found


@pytest.fixture
def two_papers(tmp_path, monkeypatch):
    """A folder of two papers, "one" and "two"."""
    for name, value in (("one", 61.0), ("two", 62.0)):
        text = TWO_TABLES.format(short=f"{name.title()} et al.", value=value)
        (tmp_path / f"{name}.toml").write_text(text)
    monkeypatch.setattr(published, "_folder", lambda: tmp_path)


def test_table_1_holds_the_papers_accuracies():
    table = {method: (p.value, p.std) for (method, _), p in numbers("loewe2019/table1").items()}
    assert table == {
        "deep_infomax": (78.2, None),
        "predsim": (80.8, None),
        "random_init": (27.0, None),
        "supervised": (71.4, None),
        "greedy_supervised": (65.2, None),
        "cpc": (80.5, 3.1),
        "gim": (81.9, 0.3),
        "gim_iterative": (79.8, None),
    }


def test_table_2_is_converted_to_the_metrics_bytes():
    table = {method: p.value for (method, _), p in numbers("loewe2019/table2").items()}
    assert table == pytest.approx(
        {"supervised": 6.3e9, "cpc": 7.7e9, "gim_joint": 7.0e9, "gim_module_1": 2.5e9}
    )


def test_table_3_puts_phones_first_and_speakers_second():
    """A swap of the columns would give GIM 99.4 % of the phones."""
    table = numbers("loewe2019/table3")
    assert [table["gim", f"{task}_accuracy"].value for task in ("phone", "speaker")] == [62.5, 99.4]
    assert [table["cpc", f"{task}_accuracy"].value for task in ("phone", "speaker")] == [64.9, 99.6]


def test_table_4_repeats_table_3_for_gim():
    third, fourth = numbers("loewe2019/table3"), numbers("loewe2019/table4")
    for task in ("phone_accuracy", "speaker_accuracy"):
        assert third["gim", task].value == fourth["gim", task].value


def test_a_number_says_where_it_stands():
    table = numbers("loewe2019/table1")
    gim, iterative = table["gim", "accuracy"], table["gim_iterative", "accuracy"]
    assert (gim.source, gim.table, gim.page, gim.runs) == ("Löwe et al. 2019", "Table 1", 5, 4)
    assert (iterative.table, iterative.page) == ("section 4.1, text", 6)


def test_the_rounding_of_a_number_is_half_of_its_last_printed_digit():
    """7.0 GB stands for 6.95 to 7.05."""
    assert numbers("loewe2019/table1")["gim", "accuracy"].rounding == pytest.approx(0.05)
    (memory,) = {number.rounding for number in numbers("loewe2019/table2").values()}
    assert memory == pytest.approx(0.05e9)


def test_the_margin_of_a_table_is_for_all_metrics_or_for_each():
    one, two = numbers("loewe2019/table1"), numbers("loewe2019/table3")
    assert one["gim", "accuracy"].margin == 1.0
    assert [two["gim", f"{task}_accuracy"].margin for task in ("phone", "speaker")] == [1.2, 0.25]
    assert numbers("loewe2019/table2")["cpc", MEMORY].margin == pytest.approx(0.35e9)


def test_methods_whose_numbers_are_within_one_margin_are_named_by_its_reason():
    """Numbers of one protocol nearer than twice the margin, if not by the paper's own deviation."""
    unnamed = []
    for table in tables():
        for ((ours, metric), one), ((theirs, other), two) in combinations(table.items(), 2):
            apart = round(abs(one.value - two.value), 6)
            explained = apart < max(one.std or 0, two.std or 0)
            near = metric == other and one.tags == two.tags and apart < 2 * one.margin
            named = set(re.findall(r"\w+", one.margin_reason))
            if near and not explained and not {ours, theirs} <= named:
                unnamed.append((one.source, one.table, ours, theirs))
    assert unnamed == []


def test_every_margin_is_wider_than_the_rounding_and_has_a_reason():
    for table in tables():
        for number in table.values():
            assert number.margin > 2 * number.rounding
            assert len(number.margin_reason) > 20


def tables():
    """The numbers of each table of each paper."""
    for path in FOLDER.glob("*.toml"):
        for name, table in tomllib.loads(path.read_text(encoding="utf-8")).items():
            if isinstance(table, dict):
                yield numbers(f"{path.stem}/{name}")


def test_the_probe_of_phones_has_another_rate_than_the_probe_of_speakers():
    table = numbers("loewe2019/table3")
    assert [table["gim", f"{t}_accuracy"].probe_rate for t in ("phone", "speaker")] == [1e-4, 1e-3]
    assert numbers("loewe2019/table2")["cpc", MEMORY].probe_rate is None


def test_a_number_that_is_quoted_has_neither_the_rate_nor_the_verdict_of_the_quoting_table():
    """Its probe is of its own paper; parts of a protocol that were not read fit no record."""
    for reference in ("loewe2019/table1", "loewe2019/table3", "oord2018/librispeech"):
        quoted = {row[0]: each for row, each in numbers(reference).items() if each.tags}
        assert quoted.keys() == QUOTED[reference]
        assert {each.probe_rate for each in quoted.values()} == {None}
    for each in quoted.values():
        unknown = {tag.dimension for tag in each.tags if tag.means == UNKNOWN}
        assert unknown == {"encoder", "head", "augmentation"}


def test_no_method_has_two_numbers_for_one_metric_in_a_table():
    for path in FOLDER.glob("*.toml"):
        for name, table in tomllib.loads(path.read_text(encoding="utf-8")).items():
            if isinstance(table, dict):
                assert len(numbers(f"{path.stem}/{name}")) == len(table["results"])


def test_no_reference_gives_no_paper():
    assert load(()) == {}


@pytest.mark.usefixtures("two_papers")
def test_numbers_of_several_papers_stand_beside_each_other_by_short_name():
    found = load(["two/table1", "one/table1"])
    assert list(found) == ["Two et al.", "One et al."]
    assert found["One et al."]["gim", "accuracy"].value == 61.0
    assert found["Two et al."]["gim", "accuracy"].value == 62.0


@pytest.mark.usefixtures("two_papers")
def test_tables_of_one_paper_are_merged_and_a_repeated_number_is_the_first_ones():
    (merged,) = load(["one/table1", "one/table2"]).values()
    assert {cell: p.value for cell, p in merged.items()} == {
        ("gim", "accuracy"): 61.0,
        ("cpc", "accuracy"): 50.0,
        ("gim", "phone_accuracy"): 2.0,
    }
    assert merged["gim", "accuracy"].table == "Table 1"
    (other_way,) = load(["one/table2", "one/table1"]).values()
    assert other_way["gim", "accuracy"].table == "Table 2"


@pytest.mark.usefixtures("two_papers")
def test_tables_of_one_paper_with_different_numbers_of_a_method_are_refused():
    """Such as InfoPro's tables of K = 2 and K = 4: the second number would vanish."""
    expected = r"Two et al\., Table 1 and Table 2 .* accuracy of gim: name one table"
    with pytest.raises(ConfigError, match=expected):
        load(["two/table1", "two/table2"])


@pytest.mark.usefixtures("two_papers")
def test_one_unknown_table_among_known_ones_is_answered():
    with pytest.raises(ConfigError, match=r"no published table 'two/table3'.*two/table2"):
        load(["one/table1", "two/table3"])


@pytest.mark.parametrize("reference", ["loewe2019/table9", "loewe2020/table1", "x", "", "a/b/c"])
def test_an_unknown_table_is_answered_with_the_known_ones(reference):
    with pytest.raises(ConfigError, match=r"no published table .*loewe2019/table1"):
        load([reference])


def test_a_papers_heading_is_not_a_table():
    with pytest.raises(ConfigError, match="no published table 'loewe2019/short'"):
        load(["loewe2019/short"])


def test_an_installed_package_reads_its_own_copy(tmp_path, monkeypatch):
    """A wheel carries the folder inside the package; it wins over one beside the package."""
    own = tmp_path / "gim_bench" / "results" / "published"
    own.mkdir(parents=True)
    (own / "mine.toml").write_text(
        'short = "Mine"\n[table1]\nplace = "Table 1"\npage = 2\n'
        'margin = 1\nmargin_reason = "half of a gap"\n'
        'results = [{ method = "gim", metric = "accuracy", value = 1.0, unit = "%" }]\n'
    )
    monkeypatch.setattr(published.resources, "files", lambda _: tmp_path / "gim_bench")
    assert numbers("mine/table1")["gim", "accuracy"].page == 2
