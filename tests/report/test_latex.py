"""The summary table for a paper."""

from gim_bench.records.record import Status
from gim_bench.report.latex import escaped
from tests.report.cells import cell, config, provenance, report_on


def latex(records, **options):
    return report_on(records, fmt="latex", **options)


def rows(text):
    body = text.partition(r"\midrule")[2].partition(r"\bottomrule")[0].strip()
    return [line.removesuffix(r" \\").split(" & ") for line in body.splitlines()]


def test_each_method_has_a_line_with_intervals_and_costs():
    """60 and 62: t(0.975, 1) = 12.706 times 1 is the half width."""
    costs = [{"train/seconds": s, "train/operations": 2.5e12} for s in (10.0, 12.0)]
    records = [
        cell("gim", seed=seed, metrics={"accuracy": 60.0 + 2 * seed} | costs[seed])
        for seed in (0, 1)
    ]
    text = latex([*records, cell("random_init", metrics={"accuracy": 40.0})])
    assert r"\begin{tabular}{lrrrr}" in text
    assert r"method & seeds & linear probe, \% & train s & TFLOP \\" in text
    assert rows(text) == [
        ["gim", "2", r"61.0 $\pm$ 12.7", r"11.0 $\pm$ 1.4", "2.50"],
        [r"random\_init", "1", "40.0", "--", "--"],
    ]


def test_the_two_meanings_of_plus_and_minus_are_printed_with_the_table():
    one = latex([cell("gim", metrics={"accuracy": 60.0})])
    two = latex([cell("gim", seed=s, metrics={"accuracy": 60.0 + s}) for s in (0, 1)])
    last = two.partition(r"\bottomrule")[2].strip().splitlines()[0]
    assert last.startswith(
        r"\multicolumn{3}{l}{\footnotesize $\pm$: of accuracies, half of a 95\,\%"
    )
    assert last.endswith(r"} \\")
    assert "multicolumn" not in one


def test_the_comments_say_where_the_numbers_come_from():
    text = latex([cell(metrics={"accuracy": 60.0})], notes=["Left out: 1 record"])
    comments = [line for line in text.splitlines() if line.startswith("% ")]
    assert comments[0].startswith("% Suite quickstart: linear probe on frozen features")
    assert "% Left out: 1 record" in comments
    assert any("commit abcdef012345" in line for line in comments)
    assert any("A CPU, 2 threads" in line for line in comments)


def test_numbers_of_two_machines_are_marked_in_a_comment():
    away = cell("cpc", metrics={"accuracy": 60.0}, provenance=provenance(cpu="another"))
    assert "% MIXED cpu: A CPU: gim; another: cpc" in latex(
        [cell(metrics={"accuracy": 60.0}), away]
    )


def test_what_makes_a_number_doubtful_stands_in_comments():
    leak = "SEEN IN TRAINING: 3 test images"
    records = [
        cell("gim", metrics={"accuracy": 60.0, "unconverged": 1.0}),
        cell("gim", seed=1, metrics={}, status=Status.FAILED, error="killed"),
        cell("cpc", metrics={"accuracy": 60.0}, config=config("cpc", epochs=9)),
        cell("random_init", metrics={"accuracy": 40.0}, provenance=provenance(data_notes=[leak])),
    ]
    comments = [line for line in latex(records).splitlines() if line.startswith("% ")]
    assert "% gim: seed 1 failed and is in no mean" in comments
    assert "% UNDECLARED training.epochs: 6: gim, random_init; 9: cpc" in comments
    assert any(line.startswith("% gim, seed 0: 1 linear probe(s) ran out") for line in comments)
    assert f"% {leak}" in comments


def test_chosen_metrics_stand_in_place_of_the_accuracies():
    record = cell(metrics={"accuracy": 60.0, "knn_accuracy": 50.0})
    assert [row[2] for row in rows(latex([record], metrics=["knn_accuracy"]))] == ["50.0"]


def test_signs_that_mean_something_to_latex_are_escaped():
    assert escaped("a_b & 50 % #1 $x$ {y} ~ ^ \\") == (
        r"a\_b \& 50 \% \#1 \$x\$ \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{}"
    )
