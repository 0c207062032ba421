"""The section of measures inside the encoders: last values as a table, curves as figures."""

from gim_bench.report.columns import Row
from gim_bench.report.document import Figure, Table
from gim_bench.report.inside import inside_section
from tests.report.cells import cell, report_on


def observed(method="gim", *, seed=0, rank=4.0, **more):
    """A cell of two modules with measures before training and after two epochs."""
    inside = [
        {
            "epoch": float(epoch),
            "effective_rank/module_1": rank + epoch,
            "effective_rank/module_2": 9.0,
            "gradient_cosine/module_1": -0.25,
            "cka/module_1/module_2": 0.5,
            "cka/module_1/module_3": 0.9,
            **more,
        }
        for epoch in range(3)
    ]
    return cell(method, seed=seed, metrics={"accuracy": 50.0}, inside=inside)


def section_of(*rows):
    return inside_section([Row(method, records, {}) for method, records in rows])


def test_the_table_has_the_last_value_with_the_first_in_brackets_as_means_over_seeds():
    section = section_of(("gim", [observed(), observed(seed=1, rank=6.0)]))
    table = section.blocks[0]
    assert isinstance(table, Table)
    assert [column.heading for column in table.columns] == [
        "method",
        "module",
        "effective rank",
        "cosine with end-to-end gradient",
        "CKA with the module above",
    ]
    assert table.rows == [
        ["gim", "module 1", "7.0 (5.0)", "-0.25 (-0.25)", "0.50 (0.50)"],
        ["gim", "module 2", "9.0 (9.0)", "–", "–"],
    ]


def test_a_measure_that_is_not_defined_at_the_end_has_no_last_value():
    """A module whose encodings become 0 has no rank from then on."""
    collapsed, healthy = observed(), observed(seed=1, rank=6.0)
    del collapsed.inside[-1]["effective_rank/module_1"]
    for records, cell_ in (
        ([collapsed], "not defined (4.0)"),
        ([collapsed, healthy], "8.0, n=1 (5.0)"),
    ):
        assert section_of(("gim", records)).blocks[0].rows[0][2] == cell_


def test_a_figure_for_every_measure_has_a_panel_for_every_module_and_a_curve_for_every_method():
    section = section_of(
        ("gim", [observed()]),
        ("random_init", [cell("random_init", metrics={})]),
        ("cpc", [observed("cpc", **{"information_bound/module_2": 0.7})]),
    )
    figures = [block for block in section.blocks if isinstance(block, Figure)]
    assert [figure.y_label for figure in figures] == [
        "effective rank", "cosine", "linear CKA", "bound, nats",
    ]  # fmt: skip
    ranks, *_, bound = figures
    assert [panel.title for panel in ranks.panels] == ["module 1", "module 2"]
    assert [curve.method for curve in ranks.panels[0].curves] == ["gim", "cpc"]
    assert ranks.panels[0].curves[0].seeds == [[(0.0, 4.0), (1.0, 5.0), (2.0, 6.0)]]
    assert ranks.methods == ["gim", "random_init", "cpc"]
    assert [curve.method for curve in bound.panels[0].curves] == ["cpc"]


def test_models_of_several_targets_have_lines_of_their_own():
    inside = [{"epoch": 0.0, "speaker_effective_rank/module_1": 3.0}]
    section = section_of(("supervised", [cell("supervised", metrics={}, inside=inside)]))
    assert section.blocks[0].rows == [["supervised, speaker", "module 1", "3.0 (3.0)"]]


def test_the_report_shows_the_section_only_if_an_encoder_was_looked_into():
    assert "Inside the encoders" not in report_on([cell(metrics={"accuracy": 50.0})])
    report = report_on([observed()])
    assert "## Inside the encoders" in report
    assert "Figure (drawn by --format html): Effective rank of the encodings" in report


def test_the_page_draws_the_curves():
    figures = [
        report_on([record], fmt="html").count("<figure")
        for record in (cell(metrics={"accuracy": 50.0}), observed())
    ]
    assert figures[1] == figures[0] + 3


def test_a_model_of_fewer_epochs_has_its_own_last_value():
    """The phones' model took an epoch less than the speakers'."""
    record = observed()
    record.inside[:] = [
        {
            "epoch": 0.0,
            "speaker_effective_rank/module_1": 2.0,
            "phone_effective_rank/module_1": 3.0,
        },
        {
            "epoch": 1.0,
            "speaker_effective_rank/module_1": 4.0,
            "phone_effective_rank/module_1": 5.0,
        },
        {"epoch": 2.0, "speaker_effective_rank/module_1": 6.0},
    ]
    rows = section_of(("supervised", [record])).blocks[0].rows
    assert [row[2] for row in rows] == ["6.0 (2.0)", "5.0 (3.0)"]
