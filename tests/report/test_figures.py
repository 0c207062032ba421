"""The curves that a report draws from its records, and their look in the page."""

import math
import re
import subprocess
import sys
from collections import Counter

import matplotlib as mpl
import pytest

from gim_bench.report.build import build
from gim_bench.report.document import Curve, Figure, Panel
from gim_bench.report.figures import as_svg, draw
from tests.report.cells import Suite, cell, config, describes, report_on
from tests.report.test_formats import TagBalance

OBJECTIVES = {"supervised": "cross_entropy", "greedy_supervised": "cross_entropy"}


def trained(method="gim", *, losses, seed=0, negatives=16):
    """A cell with the loss of its units in every epoch, {unit: [nats, …]}."""
    settings = {
        "method": {"name": method, "objective": OBJECTIVES.get(method, "info_nce")},
        "info_nce": {"negatives": negatives},
    }
    epochs = [dict(zip(losses, row, strict=True)) for row in zip(*losses.values(), strict=True)]
    numbered = [{"epoch": n, **row} for n, row in enumerate(epochs, start=1)]
    return cell(method, seed=seed, metrics={}, losses=numbered, config=settings)


def probed(method="gim", *, curves, seed=0):
    return cell(method, seed=seed, metrics={}, probe_curves=curves)


def figures(*records, methods=()):
    document = build(records, suite=Suite(methods=methods), describes=describes)
    return [b for s in document.sections for b in s.blocks if isinstance(b, Figure)]


def shown(figure):
    """{panel: {(method, validation): mean curve}}."""
    return {
        panel.title: {(c.method, c.validation): c.mean() for c in panel.curves}
        for panel in figure.panels
    }


# -- losses over epochs ----------------------------------------------------------------------------


def test_a_panel_for_each_module_holds_training_and_validation_of_every_method():
    together = {"module_1": [2.5, 2.0], "module_2": [2.75, 2.5], "validation_module_1": [2.25, 1.5]}
    in_turn = {"module_1": [2.5, 2.25], "module_2": [2.0, 1.5]}
    (figure,) = figures(
        trained("gim", losses=together), trained("gim_iterative", losses=in_turn), methods=["gim"]
    )
    assert shown(figure) == {
        "module 1": {
            ("gim", False): [(1, 2.5), (2, 2.0)],
            ("gim", True): [(1, 2.25), (2, 1.5)],
            ("gim_iterative", False): [(1, 2.5), (2, 2.25)],
        },
        "module 2": {
            ("gim", False): [(1, 2.75), (2, 2.5)],
            ("gim_iterative", False): [(1, 2.0), (2, 1.5)],
        },
    }
    assert (figure.x_label, figure.y_label) == ("epochs", "InfoNCE, nats")
    assert not figure.log_x


def test_the_curve_is_the_mean_over_seeds_which_are_kept():
    records = [trained(losses={"module_1": [3.0, y]}, seed=seed) for seed, y in enumerate((1, 2))]
    (curve,) = figures(*records)[0].panels[0].curves
    assert curve.mean() == [(1, 3.0), (2, 1.5)]
    assert curve.seeds == [[(1, 3.0), (2, 1.0)], [(1, 3.0), (2, 2.0)]]


def test_a_mean_is_in_the_order_of_x_and_over_the_seeds_that_go_so_far():
    curve = Curve(method="gim", seeds=[[(2.0, 4.0)], [(1.0, 3.0), (2.0, 2.0)]])
    assert curve.mean() == [(1.0, 3.0), (2.0, 3.0)]


def test_a_seed_without_validation_does_not_count_in_its_mean():
    first = trained(losses={"module_1": [3.0, 2.0], "validation_module_1": [2.0, 1.0]})
    second = trained(losses={"module_1": [4.0, 3.0]}, seed=1)
    (figure,) = figures(first, second)
    assert shown(figure)["module 1"] == {
        ("gim", False): [(1, 3.5), (2, 2.5)],
        ("gim", True): [(1, 2.0), (2, 1.0)],
    }


def test_modules_are_in_order_beyond_nine():
    (figure,) = figures(trained(losses={f"module_{n}": [2.0, 1.0] for n in (10, 2, 1)}))
    assert [panel.title for panel in figure.panels] == ["module 1", "module 2", "module 10"]


def test_an_uninformed_predictor_scores_the_chance_line():
    (figure,) = figures(trained(losses={"module_1": [2.5, 2.0]}, negatives=16))
    assert figure.panels[0].levels == {"chance, ln(1 + 16)": pytest.approx(math.log(17))}


def test_objectives_and_targets_have_figures_of_their_own():
    """A supervised method trains a model for each target; its loss is no InfoNCE."""
    words = {
        "speaker_module_6": [3.0, 2.0],
        "phone_module_6": [4.0, 3.5],
        "phone_validation_module_6": [4.0, 3.75],
    }
    found = figures(
        trained("gim", losses={"module_1": [2.5, 2.0]}), trained("supervised", losses=words)
    )
    assert [figure.title for figure in found] == [
        "InfoNCE of every module over epochs",
        "Cross-entropy of every module over epochs: speaker",
        "Cross-entropy of every module over epochs: phone",
    ]
    assert shown(found[1]) == {"module 6": {("supervised", False): [(1, 3.0), (2, 2.0)]}}
    assert shown(found[2])["module 6"][("supervised", True)] == [(1, 4.0), (2, 3.75)]
    assert [bool(figure.panels[0].levels) for figure in found] == [True, False, False]


def test_a_single_epoch_is_no_curve():
    assert figures(trained(losses={"module_1": [2.5]})) == []
    assert figures(cell(metrics={"accuracy": 60.0})) == []


# -- the probe's learning rates --------------------------------------------------------------------


def test_the_probe_has_a_figure_for_each_target_over_a_logarithmic_axis():
    curves = {
        "speaker/module_1": [[1e-3, 50.0], [1e-2, 60.0]],
        "speaker/module_2": [[1e-3, 70.0], [1e-2, 80.0]],
        "phone/module_1": [[1e-3, 20.0], [1e-2, 30.0]],
    }
    speaker, phone = figures(probed(curves=curves))
    assert shown(speaker) == {
        "module 1": {("gim", False): [(1e-3, 50.0), (1e-2, 60.0)]},
        "module 2": {("gim", False): [(1e-3, 70.0), (1e-2, 80.0)]},
    }
    assert list(shown(phone)) == ["module 1"]
    assert speaker.title == "Linear probe of every module over learning rates: speaker"
    assert speaker.log_x
    assert (speaker.x_label, speaker.y_label) == ("learning rate", "validation accuracy, %")


def test_rates_of_an_unsorted_grid_are_drawn_from_left_to_right():
    (drawn,) = figures(probed(curves={"module_1": [[1e-1, 60.0], [1e-3, 40.0], [1e-2, 50.0]]}))
    (seed,) = drawn.panels[0].curves[0].seeds
    assert seed == [(1e-3, 40.0), (1e-2, 50.0), (1e-1, 60.0)]


def test_features_that_are_no_stack_do_not_pass_for_the_first_module():
    one = {"module_1": [[1e-3, 50.0]]}
    two = one | {"module_2": [[1e-3, 60.0]]}
    (figure,) = figures(probed("gim", curves=two), probed("mfcc", curves=one))
    assert [curve.method for curve in figure.panels[0].curves] == ["gim"]
    (alone,) = figures(probed("mfcc", curves=one))
    assert [curve.method for curve in alone.panels[0].curves] == ["mfcc"]


# -- in the formats --------------------------------------------------------------------------------


def test_markdown_points_to_the_page_in_one_line():
    text = report_on([trained(losses={"module_1": [2.5, 2.0]})])
    assert "Figure (drawn by --format html): InfoNCE of every module over epochs\n" in text
    assert "<svg" not in text


def test_chosen_metrics_are_not_followed_by_figures():
    record = trained(losses={"module_1": [2.5, 2.0]})
    assert "<svg" in report_on([record], fmt="html")
    assert "<svg" not in report_on([record], fmt="html", metrics=["accuracy"])


def page(*records):
    return report_on(records, fmt="html")


def full_page():
    losses = {"module_1": [2.5, 2.0], "module_2": [2.75, 2.5], "validation_module_1": [2.25, 1.5]}
    rates = {"module_1": [[1e-3, 50.0], [1e-2, 60.0]]}
    return page(trained("cpc", losses=losses), probed("gim", curves=rates))


def test_the_same_records_give_the_same_bytes_whatever_the_reader_has_set():
    first = full_page()
    with mpl.rc_context({"axes.facecolor": "red", "svg.hashsalt": "mine", "font.size": 30}):
        assert full_page() == first


def test_figures_need_nothing_from_elsewhere_and_close_their_tags():
    text = full_page()
    assert text.count("<svg") == 4  # two figures, each for a wide and for a narrow page
    namespaces = {"http://www.w3.org/1999/xlink", "http://www.w3.org/2000/svg"}
    assert set(re.findall(r'https?:[^"]*', text)) == namespaces
    assert set(re.findall(r'href="(.)', text)) == {"#"}
    assert "<metadata" not in text
    assert Tags().check(text) == []


class Tags(TagBalance):
    """Elements of SVG may close themselves."""

    def handle_startendtag(self, tag, attrs): ...


def test_whatever_is_referred_to_in_the_page_is_there_once():
    text = full_page()
    names = Counter(re.findall(r' id="([^"]*)"', text))
    referred = {*re.findall(r'href="#([^"]*)"', text), *re.findall(r"url\(#([^)]*)\)", text)}
    assert referred
    assert all(names[name] == 1 for name in referred)
    assert max(names.values()) == 1


def test_text_in_a_figure_is_escaped_and_no_formula():
    (drawn,) = figures(trained("a$b$<i>", losses={"module_1": [2.5, 2.0]}))
    assert ">a$b$&lt;i&gt;</text>" in as_svg(drawn)


def test_a_report_without_figures_does_not_import_matplotlib():
    """It is not needed for tables, and takes a moment."""
    program = "import sys, gim_bench.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# -- accuracy over cost ----------------------------------------------------------------------------


def test_untrained_encoders_are_levels_beside_the_costs_of_the_others():
    """Fixed features without an encoder, such as pixels, are none."""
    fixed = cell("pixels", metrics={"accuracy": 41.0}, config=config("random_init"))
    fixed.config["method"]["ablation"] = "pixels"
    records = [
        cell("gim", metrics={"accuracy": 63.0, "train/seconds": 60.0}),
        *(cell("random_init", seed=s, metrics={"accuracy": 52.0 + s}) for s in (0, 1)),
        fixed,
    ]
    summary = build(records, suite=Suite(), describes=describes).summary
    (drawn,) = (block for block in summary if isinstance(block, Figure))
    (panel,) = drawn.panels
    assert [(dot.method, dot.x, dot.y) for dot in panel.dots] == [("gim", 60.0, 63.0)]
    assert panel.levels == {"random_init": 52.5}


# -- drawn -----------------------------------------------------------------------------------------

RISING = [(1.0, 1.0), (2.0, 3.0)]
FALLING = [(1.0, 3.0), (2.0, 1.0)]


def figure(*curves, methods=("gim",), levels=(), **changes):
    panels = [Panel(title="module 1", curves=curves, levels=dict(levels))]
    labels = {"x_label": "epochs", "y_label": "nats"}
    return Figure(**{"title": "t", "panels": panels, "methods": methods} | labels | changes)


def lines(drawn):
    return drawn.axes[0].get_lines()


def legend(drawn):
    return [text.get_text() for text in drawn.legends[0].get_texts()]


def test_training_is_solid_and_validation_dashed():
    drawn = draw(
        figure(
            Curve(method="gim", seeds=[RISING]),
            Curve(method="gim", seeds=[FALLING], validation=True),
        )
    )
    assert [line.get_linestyle() for line in lines(drawn)] == ["-", "--"]
    assert [list(line.get_ydata()) for line in lines(drawn)] == [[1, 3], [3, 1]]
    assert legend(drawn) == ["gim", "training", "validation"]


def test_several_seeds_are_thin_lines_beside_their_mean():
    drawn = draw(figure(Curve(method="gim", seeds=[RISING, FALLING])))
    first, second, mean = lines(drawn)
    assert list(mean.get_ydata()) == [2, 2]
    assert [list(line.get_ydata()) for line in (first, second)] == [[1, 3], [3, 1]]
    assert max(first.get_linewidth(), second.get_linewidth()) < mean.get_linewidth()
    assert {line.get_color() for line in (first, second)} == {mean.get_color()}
    assert legend(drawn) == ["gim", "one seed"]


def test_levels_are_dotted_lines_that_the_legend_explains():
    drawn = draw(figure(Curve(method="gim", seeds=[RISING]), levels={"chance": 2.5}))
    level = lines(drawn)[0]
    assert (set(level.get_ydata()), level.get_linestyle()) == ({2.5}, ":")
    assert legend(drawn) == ["gim", "chance"]


@pytest.mark.parametrize("columns", [1, 3])
def test_a_legend_of_long_names_stays_within_the_figure(columns):
    methods = [f"{n}_blockwise_barlow_twins" for n in range(9)]
    curves = [Curve(method=method, seeds=[RISING]) for method in methods]
    drawn = draw(figure(*curves, methods=methods), columns=columns)
    drawn.draw_without_rendering()
    extent = drawn.legends[0].get_window_extent()
    assert extent.x0 >= 0
    assert extent.x1 <= drawn.bbox.x1


def test_panels_have_titles_units_and_the_same_scale():
    panels = [
        Panel(title=f"module {n}", curves=[Curve(method="gim", seeds=[[(1.0, n), (2.0, 2 * n)]])])
        for n in range(1, 6)
    ]
    drawn = draw(figure(panels=panels))
    assert [axes.get_title() for axes in drawn.axes] == [f"module {n}" for n in range(1, 6)]
    assert {axes.get_xlabel() for axes in drawn.axes} == {"epochs"}
    assert [a.get_ylabel() for a in drawn.axes] == ["nats", "", "", "nats", ""]
    assert len({axes.get_ylim() for axes in drawn.axes}) == 1
    assert all(tick == int(tick) for tick in drawn.axes[0].get_xticks())


def test_the_axis_of_learning_rates_is_logarithmic():
    assert (
        draw(figure(Curve(method="gim", seeds=[RISING]), log_x=True)).axes[0].get_xscale() == "log"
    )
    assert draw(figure(Curve(method="gim", seeds=[RISING]))).axes[0].get_xscale() == "linear"


def test_a_method_looks_the_same_in_every_figure_and_like_no_other():
    methods = [f"method {n}" for n in range(30)]
    everyone = [Curve(method=method, seeds=[RISING]) for method in methods]
    looks = {
        line.get_label(): (line.get_color(), line.get_marker())
        for line in draw(figure(*everyone, methods=methods)).legends[0].get_lines()
    }
    assert len(set(looks.values())) == 30
    (alone,) = lines(draw(figure(everyone[20], methods=methods)))
    assert (alone.get_color(), alone.get_marker()) == looks["method 20"]


def test_drawing_twice_gives_the_same_bytes():
    drawn = figure(Curve(method="gim", seeds=[RISING]))
    assert as_svg(drawn) == as_svg(drawn)


# -- error over modules ----------------------------------------------------------------------------


def test_the_error_of_every_module_is_drawn_for_methods_with_several():
    deep = {"accuracy": 3.0, "accuracy/module_1": 1.0, "accuracy/module_2": 3.0}
    flat = cell("mfcc", metrics={"accuracy": 5.0, "accuracy/module_1": 5.0})
    (figure,) = figures(cell("gim", metrics=deep), flat, methods=("gim", "mfcc"))
    assert shown(figure) == {"linear probe": {("gim", False): [(1.0, 99.0), (2.0, 97.0)]}}
    assert figure.log_y
    assert figures(flat, methods=("mfcc",)) == []


@pytest.mark.parametrize(
    ("tops", "mean", "drawn_last"), [((98.0, 100.0), 1.0, [2.0, 10.0, 1.0]), ((100.0,), 0.0, [10])]
)
def test_a_module_without_an_error_counts_in_the_mean_and_is_not_drawn(tops, mean, drawn_last):
    """Errors of 2 and 0 have a mean of 1; a logarithmic axis has no 0."""
    (figure,) = figures(
        *(
            cell(
                seed=seed,
                metrics={"accuracy": top, "accuracy/module_1": 90, "accuracy/module_2": top},
            )
            for seed, top in enumerate(tops)
        )
    )
    assert shown(figure)["linear probe"][("gim", False)] == [(1.0, 10.0), (2.0, mean)]
    assert [line.get_ydata()[-1] for line in lines(draw(figure))] == drawn_last
