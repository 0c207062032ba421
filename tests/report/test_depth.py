"""The section of isolated units: one encoder cut to several depths."""

from gim_bench.records.statistics import summarise_metrics
from gim_bench.report.columns import Row, heading_of
from gim_bench.report.costs import ON_GPU, ON_HOST
from gim_bench.report.depth import depth_section, families, units_of
from gim_bench.report.document import Figure, Table
from tests.report.cells import cell, config

SEEDS = 4


def row(method, tops, *, units=None, flow="isolated", like="gim", middle=50.0, **memory):
    """A row of an encoder of three modules, a seed for each accuracy of the top module."""
    of_row = config("gim")
    of_row["method"] |= {"name": method, "like": like, "gradient_flow": flow, "units": units}
    records = [
        cell(
            method,
            seed=seed,
            config=of_row,
            metrics={
                "accuracy": top,
                "accuracy/module_1": 40.0 + seed,
                "accuracy/module_2": middle + seed,
                "accuracy/module_3": top,
                "train/seconds": 10.0 * (units or 3),
                **memory,
            },
        )
        for seed, top in enumerate(tops)
    ]
    return Row(method, records, summarise_metrics(records))


ONE = row("one", [70.0, 61.0, 74.0, 65.0], units=1)
TWO = row("two", [69.0, 62.0, 73.5, 65.5], units=2)
THREE = row("gim", [60.0, 52.1, 63.9, 55.5])


def section(*rows, fresh_process=True):
    return depth_section(rows, ["accuracy"], fresh_process=fresh_process)


def test_a_row_has_as_many_units_as_it_says_or_as_its_flow_gives():
    assert [units_of(each) for each in (ONE, TWO, THREE)] == [1, 2, 3]
    assert units_of(row("twin", [70.0], flow="end_to_end")) == 1
    assert units_of(row("random_init", [20.0], flow="none")) is None


def test_without_a_row_that_sets_units_there_is_no_section():
    """GIM beside its twin is what other tables compare."""
    assert section(THREE, row("twin", [70.0], flow="end_to_end")).blocks == []


def test_rows_of_other_settings_are_another_encoder_s_depth():
    other = row("cut_clapp", [50.0], units=2, like="clapp")
    assert {name: list(found) for name, found in families([THREE, TWO, ONE, other]).items()} == {
        "gim": [1, 2, 3],
        "clapp": [2],
    }


def test_the_table_goes_from_end_to_end_to_every_module_alone():
    found = section(THREE, ONE, TWO)
    table = found.blocks[1]
    assert isinstance(table, Table)
    assert [line[:2] for line in table.rows] == [["1", "one"], ["2", "two"], ["3", "gim"]]
    assert [line[-1] for line in table.rows] == ["10.0 ± 0.0", "20.0 ± 0.0", "30.0 ± 0.0"]


def test_differences_are_paired_by_seed():
    """Seeds spread by 5 points, and all of them lose 9 to 10 points."""
    found = section(THREE, ONE, TWO)
    table = found.blocks[2]
    assert isinstance(table, Table)
    assert [line[:2] for line in table.rows] == [
        ["2 units less 1", "+0.0"],
        ["3 units less 2", "-9.6"],
    ]
    assert table.rows[0][3] == "1.000"
    assert "The first step at which more units cost accuracy: 3 units less 2." in found.blocks


def test_seeds_that_one_row_lacks_are_left_out_of_its_comparison():
    fewer = row("two", [69.0, 62.0], units=2)
    table = section(ONE, fewer).blocks[2]
    assert isinstance(table, Table)
    assert table.rows[0][4] == "2"


def test_the_first_module_that_no_longer_helps_is_named():
    flat = row("flat", [50.1, 50.9, 52.2, 52.8], units=2)
    found = section(flat)
    assert "flat: module 3 is the first without a proven gain over the one below." in found.blocks


def test_the_sentences_below_a_table_have_its_corrections():
    """Module 3 gains 2.6 ± 2.1 points: enough for one row, not among the modules of three."""
    tops = [51.2, 53.0, 55.0, 57.2]
    rows = [row(name, tops, units=k) for k, name in ((1, "one"), (2, "two"), (3, "three"))]
    assert "one: every module gains over the one below." in section(rows[0]).blocks
    found = section(*rows)
    table = found.blocks[4]
    assert isinstance(table, Table)
    assert {line[3] for line in table.rows} == {"≤0.001", "0.083"}
    for name in ("one", "two", "three"):
        sentence = f"{name}: module 3 is the first without a proven gain over the one below."
        assert sentence in found.blocks


def test_a_single_seed_decides_nothing():
    found = section(row("one", [70.0], units=1), row("two", [10.0], units=2))
    assert "One seed cannot tell at which number of units accuracy falls: use --seeds." in (
        found.blocks
    )


def test_figures_draw_accuracy_and_time_over_the_units_seed_by_seed():
    figures = [block for block in section(ONE, TWO).blocks if isinstance(block, Figure)]
    assert [figure.x_label for figure in figures] == ["isolated units"] * 2
    (curve,) = figures[0].panels[0].curves
    assert curve.seeds[0] == [(1.0, 70.0), (2.0, 69.0)]


def last_cost_in(found):
    """The last cost in the table of units, which the last figure shows, too."""
    (*_, figure) = (block for block in found.blocks if isinstance(block, Figure))
    heading = found.blocks[1].columns[-1].heading
    assert figure.y_label == heading
    return heading


def test_memory_of_the_host_is_shown_where_every_cell_had_a_process_of_its_own():
    """In a shared process, memory that an earlier cell freed hides a part of a method's."""
    rows = [row(name, [70.0], units=k, **{ON_HOST: 1e9}) for name, k in (("one", 1), ("two", 2))]
    assert last_cost_in(section(*rows)) == heading_of(ON_HOST)
    assert last_cost_in(section(*rows, fresh_process=False)) == heading_of("train/seconds")


def test_memory_of_the_gpu_is_shown_where_cells_shared_a_process_too():
    both = {ON_HOST: 2e9, ON_GPU: 1e9}
    rows = [row(name, [70.0], units=k, **both) for name, k in (("one", 1), ("two", 2))]
    assert last_cost_in(section(*rows, fresh_process=False)) == heading_of(ON_GPU)
