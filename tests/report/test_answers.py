"""The three answers on top of a report, for records that were made to make them wrong."""

from dataclasses import replace

import pytest

from gim_bench.records.record import Status
from tests.report.cells import Suite, answered, cell, config, provenance, report_on

WORKS, COSTS, SAVES = "Does it work?", "What does it cost?", "What does it save?"
ON_GPU = "memory/gpu_allocated_over_baseline_bytes"
ON_HOST = "memory/host_over_baseline_bytes"
RUN = "python -m gim_bench run --suite quickstart"


def answer(question, records, **options):
    """The paragraph that answers the question."""
    page = report_on(records, **options)
    (line,) = (line for line in page.splitlines() if line.startswith(f"**{question}"))
    return line


def cells(method, *accuracies, **changes):
    """A cell for each accuracy, with seeds from 0 on, and with as many steps as all others."""
    trained = {} if method == "random_init" else {"train/steps": 100.0, "train/samples": 3200.0}
    costs = changes.pop("costs", {})
    return [
        cell(method, seed=seed, metrics={"accuracy": x} | trained | costs, **changes)
        for seed, x in enumerate(accuracies)
    ]


GIM, CPC, RANDOM = (60.0, 61.0, 62.0), (60.5, 61.5, 60.0), (40.0, 40.5, 41.0)


def all_three(gim=GIM, cpc=CPC, random=RANDOM, **of_gim):
    return [*cells("gim", *gim, **of_gim), *cells("cpc", *cpc), *cells("random_init", *random)]


# -- does it work? ---------------------------------------------------------------------------------


def test_gim_stands_against_end_to_end_and_against_untrained_with_intervals():
    """61 less 60.67: variances 1/3 and 0.583/3; 61 less 40.5: variances 1/3 and 0.25/3.

    Holm's levels: 0.025 for the untrained, then 0.05 for cpc.
    """
    said = answer(WORKS, all_three())
    assert "Yes: better than an untrained encoder, not told apart from end to end." in said
    assert "gim reaches 61.0 ± 2.5 % (3 seeds)" in said
    assert "0.3 ± 2.1 points above cpc (end to end; no proven difference)" in said
    assert "20.5 ± 2.7 points above random_init (untrained)" in said
    assert "Run" not in said


def test_the_numbers_are_those_of_the_table_of_differences():
    page = report_on(all_three())
    (difference,) = (
        line for line in page.splitlines() if line.startswith("| random_init | linear probe")
    )
    assert "-20.5 |  ± 2.7" in difference


@pytest.mark.parametrize(
    ("gim", "verdict", "said"),
    [
        ((70.0, 71.0, 72.0), "Yes, and better than end to end.", "points above cpc (end to end)"),
        (
            (50.0, 51.0, 52.0),
            "In part: better than an untrained encoder, worse than end to end.",
            "points below cpc (end to end)",
        ),
        (
            (30.0, 31.0, 32.0),
            "No: worse than an untrained encoder.",
            "points below random_init (untrained)",
        ),
        (
            (39.5, 40.5, 41.5),
            "Not shown: not told apart from an untrained encoder.",
            "random_init (untrained; no proven difference)",
        ),
    ],
)
def test_the_verdict_follows_the_signs_of_what_is_proven(gim, verdict, said):
    found = answer(WORKS, all_three(gim))
    assert f"**{WORKS}** {verdict}" in found
    assert said in found


def test_one_seed_has_no_interval_and_nothing_is_claimed():
    said = answer(WORKS, all_three((90.0,), (50.0,), (10.0,)))
    assert (
        f"**{WORKS}** Not known. gim reaches 90.0 % with one seed, which has no interval." in said
    )
    assert "points" not in said
    assert f"`{RUN} --method gim --method cpc --seeds 3`" in said
    assert f"`{RUN} --method gim --method random_init --seeds 3`" in said


def test_seeds_without_a_number_are_not_counted():
    """60.5 is the mean of two seeds; the third has no finite accuracy."""
    said = answer(WORKS, all_three((60.0, 61.0, float("nan"))))
    assert "gim reaches 60.5 ± 6.4 % (2 of 3 seeds)" in said
    alone = answer(WORKS, all_three((60.0, float("nan"), float("nan"))))
    assert "Against end to end: gim with one seed has no interval" in alone


def test_the_two_meanings_of_plus_and_minus_are_told_apart():
    page = report_on(all_three())
    assert page.index(SAVES) < page.index("In the answers, ± is half of a 95 % interval")
    assert "In the answers" not in report_on(all_three((90.0,), (50.0,), (10.0,)))


def test_predictions_of_one_seed_are_no_interval_over_seeds():
    """They cover the choice of the test examples: this network, and no other."""
    records = all_three((75.0,), (50.0,), (25.0,))
    right = {"gim": "1110", "cpc": "1100", "random_init": "1000"}
    said = answer(
        WORKS, records, predictions=lambda record: answered({"accuracy": right[record.method]})
    )
    assert "Not known. gim reaches 75.0 % with one seed" in said
    assert "±" not in said


@pytest.mark.parametrize(
    ("absent", "said", "missing"),
    [
        (
            "cpc",
            "Better than an untrained encoder; against end to end, not known.",
            f"trains its objective end to end, has no finished cell. Run `{RUN} --method cpc`",
        ),
        (
            "random_init",
            "Not told apart from end to end; against an untrained encoder, not known.",
            f"an untrained encoder, has no finished cell. Run `{RUN} --method random_init`",
        ),
    ],
)
def test_a_missing_baseline_is_named_with_the_command_that_runs_it(absent, said, missing):
    records = [record for record in all_three() if record.method != absent]
    found = answer(WORKS, records)
    assert f"**{WORKS}** {said}" in found
    assert missing in found


def test_a_suite_without_a_baseline_says_that_the_suite_has_none():
    found = answer(WORKS, cells("gim", *GIM), suite=Suite(methods=("gim",)))
    assert "no row of the suite trains its objective end to end" in found
    assert "no row of the suite is an untrained encoder" in found


def test_without_gim_there_is_no_answer_but_a_command():
    records = [record for record in all_three() if record.method != "gim"]
    for question in (WORKS, COSTS, SAVES):
        expected = f"Not known. No finished cell of gim. Run `{RUN} --method gim`."
        assert answer(question, records) == f"**{question}** {expected}"


@pytest.mark.parametrize("method", ["cpc", "random_init"])
def test_the_baseline_with_the_encoder_of_gim_is_taken_whatever_its_place(method):
    """Of a wide encoder that the suite lists first, no sentence could be said."""
    wide = config(method)
    wide["encoder"]["width"] = 64
    wide["method"]["name"] = f"{method}_wide"
    suite = Suite(methods=("gim", f"{method}_wide", "cpc", "random_init"))
    of_wide = cells(f"{method}_wide", 10.0, 11.0, 12.0, config=wide)
    found = answer(WORKS, [*all_three(), *of_wide], suite=suite)
    assert "better than an untrained encoder, not told apart from end to end" in found
    assert "wide" not in found


def test_a_baseline_of_another_objective_is_no_twin():
    """Supervised is end to end, too, but learns from labels."""
    records = [*cells("gim", *GIM), *cells("supervised", *CPC), *cells("random_init", *RANDOM)]
    found = answer(WORKS, records)
    assert "supervised" not in found
    assert f"Run `{RUN} --method cpc`" in found


@pytest.mark.parametrize("fact", ["cpu", "gpu", "device", "precision", "data_sha256"])
def test_no_accuracy_is_compared_across_machines_or_data(fact):
    records = all_three(provenance=provenance(**{fact: "another"}))
    found = answer(WORKS, records)
    assert f"**{WORKS}** Not known." in found
    assert f"{fact} differs" in found
    assert "another: gim" in found
    assert "points" not in found
    assert f"`{RUN} --method gim --method cpc --rerun`" in found


def test_seeds_of_one_method_on_two_machines_are_not_compared():
    away = cells("gim", *GIM, provenance=provenance(cpu="another"))[:1]
    records = [*away, *all_three()[1:]]
    found = answer(WORKS, records)
    assert f"**{WORKS}** Not known." in found
    assert "another: gim seed 0" in found


@pytest.mark.parametrize("count", ["train/steps", "train/samples"])
def test_no_accuracy_is_compared_across_budgets(count):
    found = answer(WORKS, all_three(costs={count: 9600.0}))
    assert "Better than an untrained encoder; against end to end, not known." in found
    assert f"{count} differs" in found
    assert "cpc (end to end" not in found


def test_a_difference_of_settings_that_nobody_declares_is_no_comparison():
    records = all_three(config=config("gim", epochs=60))
    found = answer(WORKS, records)
    assert "training.epochs differs (60: gim; 6: cpc)" in found
    assert "against end to end, not known" in found


LOSSES = [{"epoch": 1, "module_1": 2.5}, {"epoch": 2, "module_1": 2.0}]
FLAT = [{"epoch": 1, "module_1": 2.0}, {"epoch": 2, "module_1": 2.0}]


@pytest.mark.parametrize(
    ("gim", "cpc", "said"),
    [
        (LOSSES, FLAT, "As training ends, gim in 3 of 3 seeds still learns: longer training may"),
        (FLAT, LOSSES, "As training ends, cpc in 3 of 3 seeds still learns: longer training may"),
        (LOSSES, LOSSES, "gim in 3 of 3 seeds and cpc in 3 of 3 seeds still learn: longer"),
        (FLAT, FLAT, ""),
    ],
)
def test_a_side_that_still_learns_is_named(gim, cpc, said):
    records = [
        *cells("gim", *GIM, losses=gim),
        *cells("cpc", *CPC, losses=cpc),
        *cells("random_init", *RANDOM),
    ]
    found = answer(WORKS, records)
    assert said in found
    assert ("still learn" in found) is bool(said)


@pytest.mark.parametrize("method", ["gim", "cpc", "random_init"])
def test_a_side_whose_probes_ran_out_of_iterations_is_named(method):
    records = all_three()
    for record in [record for record in records if record.method == method][1:]:
        record.metrics["unconverged"] = 1.0
    assert (
        f"Linear probes of {method} in 2 of 3 seeds ran out of iterations: these accuracies may be "
        f"far too low"
    ) in answer(WORKS, records)


def test_probes_of_another_target_leave_an_answer_as_it_is():
    records = all_three()
    records[0].metrics["phone_unconverged"] = 1.0
    assert "iterations" not in answer(WORKS, records)


def test_runs_that_diverged_are_not_compared():
    records = [
        *cells("gim", *GIM),
        *cells("cpc", *CPC, losses=LOSSES, costs={"uninformed_loss/module_1": 1.0}),
        *cells("random_init", *RANDOM),
    ]
    found = answer(WORKS, records)
    assert "cpc with seed 0, cpc with seed 1 and cpc with seed 2 diverged" in found
    assert "against end to end, not known" in found


def test_a_seed_that_failed_is_not_left_out_in_silence():
    """A loss that is no number ends a cell without an accuracy: the other seeds do not decide."""
    lost = cell(
        "gim", seed=3, metrics={}, status=Status.FAILED, error="the loss of module_3 is nan"
    )
    found = answer(WORKS, [*all_three(), lost])
    assert "Not known" in found
    assert "gim with seed 3 failed and is in no mean" in found
    again = cells("gim", *GIM, 60.0)[-1:]
    assert "failed" not in answer(WORKS, [*all_three(), lost, *again])


def test_a_run_that_learnt_nothing_is_compared_and_flagged():
    """A loss of 2.00 where 1.99 is uninformed is a result, as that of an untrained encoder is."""
    records = [
        *cells("gim", *GIM),
        *cells("cpc", *CPC, losses=FLAT, costs={"uninformed_loss/module_1": 1.99}),
        *cells("random_init", *RANDOM),
    ]
    assert "above cpc" in answer(WORKS, records)
    assert "cpc, seed 0: learnt nothing: the loss of module 1 ends at 2.00" in report_on(records)


def test_features_without_a_network_that_are_better_are_named():
    fixed = config("pixels")
    fixed["method"] |= {"gradient_flow": "none", "trains_on": "none", "ablation": "fixed"}
    records = [*all_three(), *cells("pixels", 80.0, 81.0, 82.0, config=fixed)]
    assert "Better without a trained network: pixels by 20.0 ± " in answer(WORKS, records)
    worse = [*all_three(), *cells("pixels", 30.0, 31.0, 32.0, config=fixed)]
    assert "without a trained network" not in answer(WORKS, worse)


# -- what does it cost? ----------------------------------------------------------------------------


def timed(method, *seconds, flops=2e12, **changes):
    return [
        cell(
            method,
            seed=seed,
            metrics={"accuracy": 60.0 + seed, "train/seconds": s, "train/operations": flops},
            **changes,
        )
        for seed, s in enumerate(seconds)
    ]


def test_time_is_a_ratio_with_an_interval_and_operations_are_counted():
    """Logarithms 0, ±0.1 and ln 2: t(0.975, 4) = 2.776 times 0.1·√(2/3) is 0.2267."""
    ours, theirs = (90.4837, 100.0, 110.5171), (180.9675, 200.0, 221.0342)
    found = answer(COSTS, [*timed("gim", *ours), *timed("cpc", *theirs, flops=4e12)])
    assert f"**{COSTS}** Less time than end to end." in found
    assert "0.50 times (0.40 to 0.63) the time and 0.50 times the operations of cpc" in found
    assert "Training gim takes 100 ± 25 s and 2.00 TFLOP" in found


@pytest.mark.parametrize(
    ("gim", "verdict"),
    [
        ((300.0, 310.0, 320.0), "More time than end to end."),
        ((100.0, 205.0, 400.0), "No proven difference in time."),
    ],
)
def test_time_that_is_more_or_not_told_apart_is_not_called_less(gim, verdict):
    found = answer(COSTS, [*timed("gim", *gim), *timed("cpc", 200.0, 205.0, 210.0)])
    assert f"**{COSTS}** {verdict}" in found


def test_costs_of_runs_that_failed_or_diverged_are_not_compared():
    ours, theirs = timed("gim", 100.0, 101.0), timed("cpc", 200.0, 201.0)
    lost = cell("cpc", seed=2, metrics={}, status=Status.FAILED, error="the loss is nan")
    failed = answer(COSTS, [*ours, *theirs, lost])
    assert f"**{COSTS}** Not known." in failed
    assert "Against end to end: cpc with seed 2 failed and is in no mean" in failed
    theirs[0].metrics["uninformed_loss/module_1"] = 1.0
    diverged = answer(COSTS, [*ours, replace(theirs[0], losses=LOSSES), theirs[1]])
    assert f"**{COSTS}** Not known." in diverged
    assert "Against end to end: cpc with seed 0 diverged" in diverged


def test_a_cost_that_some_seeds_did_not_measure_has_no_ratio():
    ours, theirs = timed("gim", 100.0, 101.0, 102.0), timed("cpc", 200.0, 201.0)
    for record in ours[1:]:
        del record.metrics["train/seconds"]
    found = answer(COSTS, [*ours, *theirs])
    assert f"**{COSTS}** Not known. Training gim takes 100 s (1 of 3 seeds) and 2.00" in found
    assert "No ratio: a seed without a measurement, or with one of 0 or less, has no" in found
    assert "the time" not in found


def test_times_of_one_seed_have_no_ratio():
    found = answer(COSTS, [*timed("gim", 100.0), *timed("cpc", 200.0)])
    assert f"**{COSTS}** Not known." in found
    assert "the time" not in found
    assert "1.00 times the operations" in found
    assert f"`{RUN} --method gim --method cpc --seeds 3`" in found


@pytest.mark.parametrize(
    "fact", ["cpu", "gpu", "threads", "workers", "driver", "git_commit", "device"]
)
def test_no_cost_is_compared_across_machines_or_code(fact):
    away = timed("gim", 100.0, 101.0, provenance=provenance(**{fact: 7}))
    found = answer(COSTS, [*away, *timed("cpc", 200.0, 201.0)])
    assert f"**{COSTS}** Not known." in found
    assert f"{fact} differs" in found
    assert "times" not in found
    here = timed("gim", 100.0, 101.0)
    torn = answer(COSTS, [here[0], away[1], *timed("cpc", 200.0, 201.0)])
    assert "No answer, because the seeds of gim were not measured alike" in torn


def test_energy_joins_where_both_have_it():
    joules = {"energy/gpu_joules": 5000.0}
    records = [
        record
        for method, factor in (("gim", 1.0), ("cpc", 4.0))
        for record in cells(
            method,
            *GIM,
            costs={
                "train/seconds": 10.0,
                "energy/gpu_joules": factor * joules["energy/gpu_joules"],
            },
        )
    ]
    found = answer(COSTS, records)
    assert "5.00 kJ" in found
    assert "0.25 times the energy of the GPU of cpc" in found
    assert "Energy: " not in found


def test_the_reason_why_energy_is_missing_is_given():
    notes = {"energy": {"gpu": "not measured: the cell ran on the CPU"}}
    records = timed("gim", 1.0, 2.0, provenance=provenance(**notes))
    assert "Energy: not measured: the cell ran on the CPU." in answer(COSTS, records)
    notes = {"energy": {"gpu": "not measured: no GPU", "cpu": "not measured: no counter"}}
    records = timed("gim", 1.0, 2.0, provenance=provenance(**notes))
    assert "Energy: not measured: no GPU; no counter." in answer(COSTS, records)


def test_cells_that_were_resumed_are_named_beside_their_time():
    resumed = timed("gim", 1.0, 2.0, provenance=provenance(resumed_at_step=[7]))
    records = [resumed[0], timed("gim", 1.0, 2.0)[1], *timed("cpc", 2.0, 4.0)]
    said = "Interrupted and resumed, which adds to the time: gim in 1 of 2 seeds."
    assert said in answer(COSTS, records)
    assert "resumed" not in answer(COSTS, [*timed("gim", 1.0, 2.0), *timed("cpc", 2.0, 4.0)])


# -- what does it save? ----------------------------------------------------------------------------


def peaks(method, *gigabytes, name=ON_GPU, **changes):
    return [
        cell(
            method,
            seed=seed,
            metrics={
                "accuracy": 60.0 + seed,
                "loss/module_1": 1.0,
                "loss/module_2": 1.0,
                name: g * 1e9,
            },
            **changes,
        )
        for seed, g in enumerate(gigabytes)
    ]


def module(number, *gigabytes, name=ON_GPU):
    alone = config("gim")
    alone["method"] |= {"only": f"module_{number}"}
    return peaks(f"gim_module_{number}", *gigabytes, name=name, config=alone)


def test_memory_does_not_depend_on_what_was_learnt():
    """Suites of memory take a few steps from random weights, whose loss says nothing."""
    (theirs,) = peaks("cpc", 4.0)
    theirs.metrics["uninformed_loss/module_1"] = 0.5
    found = answer(SAVES, [*peaks("gim", 2.0), replace(theirs, losses=LOSSES)])
    assert "0.50 times the memory of cpc" in found
    assert "diverged" not in found


def test_memory_is_a_ratio_alone_and_of_the_largest_module_in_a_pipeline():
    records = [*peaks("gim", 2.0), *peaks("cpc", 4.0), *module(1, 1.0), *module(2, 0.5)]
    found = answer(SAVES, records)
    assert f"**{SAVES}** 50 % of the memory alone; 75 % of the memory in a pipeline." in found
    assert "gim peaks at 2.00 GB allocated on the GPU: 0.50 times the memory of cpc" in found
    assert "the largest (gim_module_1) peaks at 1.00 GB at most: 0.25 times the memory" in found


def test_a_pipeline_without_a_row_for_every_module_is_not_known():
    records = [*peaks("gim", 2.0), *peaks("cpc", 4.0), *module(1, 1.0)]
    found = answer(SAVES, records)
    assert "50 % of the memory alone; in a pipeline, not known." in found
    assert "Run `python -m gim_bench run --suite memory`" in found


def test_rows_of_modules_that_were_not_measured_alike_have_no_largest():
    """Module 2 may need less memory than module 1 only because it ran on another machine."""
    away = replace(module(2, 0.5)[0], provenance=provenance(gpu="another"))
    found = answer(SAVES, [*peaks("gim", 2.0), *peaks("cpc", 4.0), *module(1, 1.0), away])
    assert "50 % of the memory alone; in a pipeline, not known." in found
    assert "gpu differs" in found


def test_a_pipeline_without_a_row_for_one_module_and_with_a_row_of_no_module_is_not_known():
    records = [*peaks("gim", 2.0), *peaks("cpc", 4.0), *module(1, 1.0), *module(3, 0.5)]
    assert "in a pipeline, not known." in answer(SAVES, records)


def test_more_memory_is_no_saving():
    found = answer(SAVES, [*peaks("gim", 5.0), *peaks("cpc", 4.0)])
    assert f"**{SAVES}** Nothing alone; in a pipeline, not known." in found
    assert "1.25 times the memory of cpc" in found


def test_host_memory_of_shared_processes_is_no_saving():
    records = [*peaks("gim", 1.0, 1.1, name=ON_HOST), *peaks("cpc", 4.0, 4.1, name=ON_HOST)]
    found = answer(SAVES, records)
    assert f"**{SAVES}** Not known. No answer, because cells of this suite share processes" in found
    fresh = answer(SAVES, records, suite=Suite(fresh_process=True))
    assert "74 % of the memory alone" in fresh
    assert "times (" in fresh


def test_host_memory_of_one_seed_has_no_ratio_but_allocated_memory_repeats():
    one = [*peaks("gim", 1.0, name=ON_HOST), *peaks("cpc", 4.0, name=ON_HOST)]
    found = answer(SAVES, one, suite=Suite(fresh_process=True))
    assert f"**{SAVES}** Not known." in found
    assert "times" not in found
    assert "with one seed have no intervals" in found


def test_memory_of_which_a_seed_measured_nothing_has_no_ratio():
    """A ratio of the other seeds alone would claim what was not measured."""
    records = [*peaks("gim", -0.2, 0.5, 0.6, name=ON_HOST), *peaks("cpc", 4.0, 4.1, name=ON_HOST)]
    found = answer(SAVES, records, suite=Suite(fresh_process=True))
    assert f"**{SAVES}** Not known. Alone, gim peaks at 0.300 ± 1.083 GB of the host." in found
    assert "No ratio: a seed without a measurement, or with one of 0 or less, has no" in found
    below = [*peaks("gim", -0.2, -0.3, name=ON_HOST), *records[3:]]
    assert "gim peaks at -0.250 ±" in answer(SAVES, below, suite=Suite(fresh_process=True))


def test_no_memory_is_compared_across_machines():
    away = peaks("gim", 1.0, provenance=provenance(gpu="another"))
    found = answer(SAVES, [*away, *peaks("cpc", 4.0)])
    assert f"**{SAVES}** Not known." in found
    assert "gpu differs" in found
    assert "times" not in found


def test_the_leanest_row_end_to_end_is_named_beside_the_first():
    lean = config("cpc")
    lean["method"] |= {"recompute": "layers"}
    records = [
        *peaks("gim", 2.0),
        *peaks("cpc", 4.0),
        *peaks("cpc_checkpointed", 1.0, config=lean),
    ]
    found = answer(SAVES, records)
    assert (
        "The leanest row end to end is cpc_checkpointed with 1.00 GB: gim has 2.00 times" in found
    )


def test_a_row_that_does_not_fit_is_named():
    too_large = cell("cpc", metrics={}, status=Status.FAILED, fits=False, error="does not fit")
    found = answer(SAVES, [*peaks("gim", 2.0), too_large])
    assert "Too large for the memory: cpc." in found
    assert f"**{SAVES}** Not known." in found


# -- where they stand ------------------------------------------------------------------------------


def test_the_answers_stand_on_top_and_not_over_chosen_metrics():
    page = report_on(all_three(), notes=["Left out: 1 record"])
    assert page.index("- Left out") < page.index(WORKS) < page.index("- Protocol")
    assert WORKS not in report_on(all_three(), metrics=["accuracy"])


def test_every_target_of_speech_has_its_answer():
    spoken = {"phone_accuracy": 60.0, "speaker_accuracy": 70.0}
    page = report_on([cell("gim", metrics=spoken)])
    assert "**Does it work? (phone, linear probe)** " in page
    assert "**Does it work? (speaker, linear probe)** " in page


def test_a_suite_without_isolated_modules_has_no_answers():
    suite = Suite(methods=("cpc", "random_init"))
    assert WORKS not in report_on(cells("cpc", *CPC), suite=suite)
