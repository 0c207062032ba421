"""Runs that diverged or still learn are flagged below the table of accuracies."""

import math
from dataclasses import replace

from gim_bench.report.flags import RULE, flagged
from tests.report.cells import cell, report_on

CHANCE = math.log(11)


def run(*losses: float, uninformed: float | None = CHANCE, prefix: str = ""):
    """A cell with one module, whose loss was that in each epoch."""
    named = {} if uninformed is None else {f"{prefix}uninformed_loss/module_1": uninformed}
    rows = [{"epoch": n, f"{prefix}module_1": loss} for n, loss in enumerate(losses, start=1)]
    return cell("cpc", seed=2, metrics={"accuracy": 50.0, **named}, losses=rows)


def lines(*records) -> list[str]:
    return flagged(records)


def test_a_loss_above_the_uninformed_one_is_flagged():
    assert lines(run(2.1, 35.123)) == [
        "cpc, seed 2: diverged: the loss of module 1 ends at 35.12 nats, where 2.40 is uninformed"
    ]


def test_probes_that_ran_out_of_iterations_are_flagged():
    metrics = {"accuracy": 50.0, "phone_unconverged": 1.0, "unconverged": 2.0}
    said = "ran out of iterations, and may read far too little"
    assert lines(cell("gim", seed=1, metrics=metrics, losses=[])) == [
        f"gim, seed 1: 1 linear probe(s) for phone {said}",
        f"gim, seed 1: 2 linear probe(s) {said}",
    ]


def test_the_number_of_these_probes_is_no_time():
    assert "unconverged" not in report_on(
        [cell("gim", metrics={"accuracy": 50.0, "unconverged": 2.0, "train/seconds": 1.0})]
    )


def test_models_that_took_fewer_epochs_are_flagged_by_their_own_last_epoch():
    """The model for phones of a cell took two epochs, the model for speakers three."""
    losses = [
        {"epoch": 1, "speaker_module_1": 1.0, "phone_module_1": 2.0},
        {"epoch": 2, "speaker_module_1": 0.5, "phone_module_1": 1.5},
        {"epoch": 3, "speaker_module_1": 0.5},
    ]
    metrics = {"accuracy": 50.0, "phone_uninformed_loss/module_1": 3.0}
    (line,) = lines(cell("cpc", seed=2, metrics=metrics, losses=losses))
    assert (
        "the last epoch brought 33% of what phone module 1 learnt (loss 2.000, then 1.500)" in line
    )
    metrics["phone_uninformed_loss/module_1"] = 1.0
    (line,) = lines(cell("cpc", seed=2, metrics=metrics, losses=losses))
    assert "diverged: the loss of phone module 1 ends at 1.50" in line


def test_a_loss_a_tenth_above_the_uninformed_one_learnt_nothing():
    (line,) = lines(run(2.4, 1.09 * CHANCE))
    assert line.startswith("cpc, seed 2: learnt nothing: the loss of module 1 ends at 2.61 nats, ")


def test_a_loss_below_the_uninformed_one_that_no_longer_falls_is_not_flagged():
    """From 2.40 to 1.40 in all, a hundredth of it in the last epoch."""
    assert lines(run(1.9, CHANCE - 0.99, CHANCE - 1.0)) == []


def test_a_loss_that_still_falls_is_flagged_with_its_share():
    (line,) = lines(run(1.9, CHANCE - 0.9, CHANCE - 1.0))
    assert line.startswith(
        "cpc, seed 2: still learning: the last epoch brought 10% of what module 1"
    )
    assert line.endswith("learnt (loss 1.498, then 1.398)")


def test_runs_of_a_method_that_still_learn_share_a_line():
    less, most = run(1.9, CHANCE - 0.95, CHANCE - 1.0), run(1.9, CHANCE - 0.8, CHANCE - 1.0)
    (line,) = lines(replace(less, seed=0), replace(most, seed=1), replace(less, seed=3))
    assert line.startswith("cpc, seed 1: still learning: the last epoch brought 20%")
    assert line.endswith("; less with seed 0, 3")


def test_of_many_runs_that_still_learn_the_seeds_are_spans():
    runs = [replace(run(1.9, CHANCE - 0.9, CHANCE - 1.0), seed=seed) for seed in range(100)]
    (line,) = lines(*runs)
    assert line.endswith("; less with seed 1 to 99")


def test_a_loss_that_rises_a_little_is_not_flagged():
    assert lines(run(1.0, 1.1)) == []


def test_the_last_epoch_brings_at_most_all_that_was_learnt():
    """The loss rose above the uninformed 2.398, and then fell below it by 0.008."""
    (line,) = lines(run(2.41, 2.39, uninformed=2.398))
    assert "brought 100% of what module 1 learnt (loss 2.410, then 2.390)" in line


def test_without_an_uninformed_loss_the_fall_counts_from_the_first_epoch():
    assert lines(run(100.0, 50.0, 49.5, uninformed=None)) == []
    assert "brought 4%" in lines(run(100.0, 50.0, 48.0, uninformed=None))[0]


def test_one_epoch_alone_says_nothing_about_the_next():
    assert lines(run(1.0)) == []


def test_models_of_targets_are_flagged_by_name():
    assert "the loss of phone module 1 ends at 9.00" in lines(run(1.0, 9.0, prefix="phone_"))[0]


def test_the_validation_loss_is_not_judged():
    record = run(1.0, 1.0)
    for row in record.losses:
        row["validation_module_1"] = 30.0 - 10 * row["epoch"]
    assert lines(record) == []


def test_flags_and_their_rule_stand_below_the_accuracies():
    text = report_on([run(2.1, 35.1), run(2.1, 35.1)])
    accuracy = text.index("## Accuracy")
    assert accuracy < text.index("diverged: the loss of module 1") < text.index(RULE)


def test_flags_stand_below_chosen_metrics():
    assert "diverged: the loss of module 1" in report_on([run(2.1, 35.1)], metrics=["accuracy"])


def test_a_report_without_flagged_runs_has_no_rule():
    assert RULE not in report_on([run(1.0, 1.0)])
