"""The section on the reach of gradients."""

from tests.report.cells import cell, config, report_on

STEPS = {"train/steps": 10.0}
BLOCKS = {
    "module_1": {"module_1": 0.31, "module_2": 0.0},
    "module_2": {"module_1": 0.0, "module_2": 2.0},
}
ROW = {"module_2": {"module_1": 1.0, "module_2": 2.0}}
TITLE = "## Where gradients reach, measured after training\n"


def section(*records):
    """The section's text; None where there is none."""
    text = report_on(records)
    _, found, rest = text.partition(TITLE)
    return rest.partition("\n## ")[0].strip() if found else None


def test_a_method_whose_gradients_reach_as_declared_is_one_line():
    speech = {f"{target}_{unit}": row for target in ("speaker", "phone")
              for unit, row in ROW.items()}  # fmt: skip
    assert section(
        cell("gim", metrics=STEPS, isolation=BLOCKS),
        cell("gim", seed=1, metrics=STEPS, isolation=BLOCKS),
        cell("cpc", metrics=STEPS, isolation=ROW),
        cell("supervised", metrics=STEPS, isolation=speech),
        cell("random_init", metrics={"accuracy": 50.0}),
    ) == (
        """\
| method     | gradient flow declared | losses | each reaches   | as declared |
|------------|------------------------|-------:|----------------|-------------|
| gim        | isolated               |      2 | its own module | yes         |
| cpc        | end to end             |      1 | all 2 modules  | yes         |
| supervised | end to end             |      2 | all 2 modules  | yes         |"""
    )


def test_a_row_of_fewer_units_than_modules_says_how_many_and_that_each_reaches_its_own():
    of_row = config("cut")
    of_row["method"] |= {"like": "gim", "units": 2}
    isolation = {
        "module_1": {"module_1": 0.3, "module_2": 0.0, "module_3": 0.0},
        "module_3": {"module_1": 0.0, "module_2": 1.0, "module_3": 2.0},
    }
    text = section(cell("cut", metrics=STEPS, isolation=isolation, config=of_row))
    line = text.splitlines()[2]
    assert [part.strip() for part in line.strip("|").split("|")] == [
        "cut", "isolated, 2 units", "2", "the modules of its own unit", "yes",
    ]  # fmt: skip


def test_a_contradiction_comes_with_every_norm_of_its_cell():
    leaky = {**BLOCKS, "module_2": {"module_1": 0.0125, "module_2": 2.0}}
    assert section(
        cell("gim", metrics=STEPS, isolation=BLOCKS),
        cell("gim", seed=1, metrics=STEPS, isolation=leaky),
    ) == (
        """\
| method | gradient flow declared | losses | each reaches | as declared |
|--------|------------------------|-------:|--------------|-------------|
| gim    | isolated               |      2 | see below    | NO          |

gim, seed 1: norms of ∂loss/∂θ

- the loss of module_2 reaches module_1 (norm 0.0125), but the flow declared is isolated

| loss     | module_1 | module_2 |
|----------|---------:|---------:|
| module_1 |     0.31 |        0 |
| module_2 |    0.013 |        2 |"""
    )


def test_a_flow_that_is_not_as_declared_says_how_far_its_losses_reach():
    wrong = section(cell("gim", metrics=STEPS, isolation=ROW))
    assert "| gim    | isolated               |      1 | all 2 modules | NO          |" in wrong
    wrong = section(cell("cpc", metrics=STEPS, isolation=BLOCKS))
    assert "| cpc    | end to end             |      2 | its own module | NO          |" in wrong


def test_a_method_with_a_record_of_an_earlier_version_is_not_measured():
    """It is not passed for one that is as declared."""
    found = section(
        cell("cpc", metrics=STEPS, isolation=ROW),
        cell("gim", metrics=STEPS, isolation=BLOCKS),
        cell("gim", seed=1, metrics=STEPS),
    )
    assert "| gim    | isolated               |      – | –             | not measured |" in found


def test_without_any_measurement_there_is_no_section():
    assert section(cell("gim", metrics=STEPS)) is None


def test_a_norm_that_json_could_not_hold_is_named():
    rows = {"module_2": {"module_1": None, "module_2": 2.0}}
    assert "| module_2 | not finite |        2 |" in section(
        cell("gim", metrics=STEPS, isolation=rows)
    )


def test_the_web_page_has_the_section_too():
    page = report_on([cell("gim", metrics=STEPS, isolation=BLOCKS)], fmt="html")
    assert "its own module" in page


def test_operations_are_printed_in_tflop():
    text = report_on([cell("gim", metrics={"train/operations": 2.25e12})])
    assert "| gim    | unlabelled |  2.25 |" in text
