"""The audit: norms as backward leaves them, leaks of every kind, operations counted by hand."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gim_bench.contract import Batch, Encoder, GradientFlow, Learner, Modality
from gim_bench.encoders.conv_gru import GRU
from gim_bench.encoders.resnet import ResNetEncoder, ResNetSettings
from gim_bench.methods.gim import GreedyInfoMax
from gim_bench.methods.stack import Encodings, module_name
from gim_bench.objectives.info_nce import InfoNCEHead, InfoNCESettings
from gim_bench.settings.schema import Precision, Recompute, Schedule
from gim_bench.testing.cases import Tiny
from gim_bench.training.audit import (
    Audit,
    audit,
    contradictions,
    flop_counter,
    leaks,
    seen_from,
)
from gim_bench.training.trainer import Trainer
from tests.conftest import build_tiny, cases
from tests.report.cells import cell
from tests.tiny_suite import CPU, Scripted

ISOLATED, END_TO_END = GradientFlow.ISOLATED, GradientFlow.END_TO_END
NO_BATCH = Batch(inputs=torch.zeros(1), labels={})


def trainer(learner: Learner, **settings) -> Trainer:
    defaults = {
        "learning_rate": 1e-3,
        "schedule": Schedule.INTERLEAVED,
        "precision": Precision.FP32,
        "device": CPU,
    }
    return Trainer(learner, **(defaults | settings))


def norms(learner: Learner, batch: Batch = NO_BATCH, **settings):
    return audit(trainer(learner, **settings), batch, steps=1).isolation


# -- norms -----------------------------------------------------------------------------------------


class Weighted(Scripted):
    """Its gradients are what the script says; it has no encoder of modules."""

    encoder = nn.Identity()


def test_a_norm_is_that_of_all_of_a_units_gradients_together():
    """Two weights with gradients 3 and 4 have the norm 5; what a loss does not reach has 0."""
    learner = Weighted(lambda unit, _: 3.0 if unit == "module_1" else 7.0)
    learner.other = nn.Parameter(torch.ones(2, 2))
    learner.units = lambda: {
        "module_1": [learner.weights["module_1"], learner.other],
        "module_2": [learner.weights["module_2"]],
    }
    plain = learner.losses
    learner.losses = lambda batch: (
        (unit, loss + (2 * learner.other.sum() if unit == "module_1" else 0))
        for unit, loss in plain(batch)
    )
    assert norms(learner) == {
        "module_1": {"module_1": 5.0, "module_2": 0.0},
        "module_2": {"module_1": 0.0, "module_2": 7.0},
    }


def test_a_gradient_whose_square_would_vanish_is_not_taken_for_zero():
    """Four of 1e-30 have the norm 2e-30."""
    learner = Weighted(lambda *_: torch.full((2, 2), 1e-30))
    learner.weights["module_1"] = nn.Parameter(torch.ones(2, 2))
    plain = learner.losses
    learner.losses = lambda batch: ((unit, loss.sum()) for unit, loss in plain(batch))
    assert norms(learner)["module_1"]["module_1"] == pytest.approx(2e-30, rel=1e-6, abs=0)


def test_the_norms_are_those_of_what_backward_leaves(case):
    """Loss by loss, the root of the sum of all squares."""
    found = norms(case.build().learner, case.batch())
    learner = case.build().learner
    for unit, loss in learner.losses(case.batch()):
        learner.zero_grad()
        loss.backward()
        for module, theta in seen_from(unit, learner).items():
            squares = [float(p.grad.double().square().sum()) for p in theta if p.grad is not None]
            assert found[unit][module] == pytest.approx(math.sqrt(sum(squares)), rel=1e-5, abs=0)


# -- what methods declare --------------------------------------------------------------------------


def test_gradients_of_every_method_reach_what_it_declares(case):
    """A row for each loss, a column for each module; nothing of a method that trains nothing."""
    learner = case.build().learner
    found = norms(learner, case.batch())
    assert list(found) == list(learner.units())
    assert contradictions(found, flow=case.gradient_flow) == []
    if isinstance(learner.encoder, Encoder):
        modules = [module_name(m) for m in range(len(learner.encoder.stages))]
        assert all(list(row) == modules for row in found.values())


@pytest.mark.parametrize("modality", Modality)
@pytest.mark.parametrize("method", ["gim", "cpc"])
def test_what_is_computed_again_reaches_the_same_and_is_counted_again(method, modality):
    """No more than another forward is: the last layer's is not needed."""
    case = next(c for c in cases() if (c.name, c.modality) == (method, modality))
    plain, *again = (
        audit(trainer(case.build(recompute=recompute).learner), case.batch(), steps=1)
        for recompute in (Recompute.NOTHING, Recompute.LAYERS, Recompute.PIECES)
    )
    for found in again:
        assert plain.flops < found.flops < 1.5 * plain.flops
        for unit, row in plain.isolation.items():
            assert found.isolation[unit] == pytest.approx(row, rel=1e-3, abs=0)


@pytest.mark.parametrize("settings", [
    {"schedule": Schedule.JOINT},
    {"schedule": Schedule.SEQUENTIAL},
    {"precision": Precision.BF16},
], ids=str)  # fmt: skip
def test_the_matrix_is_whole_in_every_schedule_and_number_format(settings, tiny, tiny_batch):
    found = norms(tiny("gim").learner, tiny_batch, **settings)
    plain = norms(tiny("gim").learner, tiny_batch)
    assert contradictions(found, flow=ISOLATED) == []
    assert found.keys() == plain.keys()
    assert found["module_1"]["module_1"] == pytest.approx(plain["module_1"]["module_1"], rel=0.1)


@pytest.mark.parametrize(
    ("settings", "rows"),
    [({"only": "module_2"}, ["module_2"]), ({"frozen": "module_1"}, ["module_2", "module_3"])],
)
def test_losses_that_are_not_trained_have_no_row(settings, rows, tiny, tiny_batch):
    found = norms(tiny("gim").learner, tiny_batch, **settings)
    assert list(found) == rows
    assert all(list(row) == ["module_1", "module_2", "module_3"] for row in found.values())
    assert contradictions(found, flow=ISOLATED) == []


def names_of(parameters, learner: Learner) -> list[str]:
    found = {id(p): name for name, p in learner.named_parameters()}
    return [found[id(p)] for p in parameters]


def test_a_head_belongs_to_the_module_that_it_sits_on_but_for_its_own_loss(tiny):
    """A loss that trains its head alone trains no module."""
    learner = tiny("gim").learner
    for unit in learner.units():
        for module, theta in seen_from(unit, learner).items():
            heads = [n for n in names_of(theta, learner) if not n.startswith("encoder.")]
            assert heads == ([] if module == unit else [f"heads.{module}.predictors.weight"])
            stage = learner.encoder.stages[int(module[-1]) - 1]
            assert len(theta) - len(heads) == len(list(stage.parameters()))


def test_all_modules_of_an_end_to_end_loss_are_its_own(tiny):
    learner = tiny("cpc").learner
    found = [p for theta in seen_from("module_3", learner).values() for p in theta]
    assert names_of(found, learner) == [
        f"encoder.{n}" for n, _ in learner.encoder.named_parameters()
    ]


def test_a_module_without_weights_has_no_column(tiny):
    learner = tiny("cpc").learner
    learner.encoder.stages[1] = nn.ReLU()
    assert list(seen_from("module_3", learner)) == ["module_1", "module_3"]


@pytest.mark.parametrize("bare", ["module_1", "module_2", "module_3", "module_4"])
def test_a_unit_with_a_module_without_weights_is_as_isolated_as_others(bare):
    """Two units of two modules: the module that has no column counts all the same."""
    names = ["module_1", "module_2", "module_3", "module_4"]
    isolation = {
        unit: {name: float(name in names[at : at + 2]) for name in names if name != bare}
        for at, unit in ((0, "module_2"), (2, "module_4"))
    }
    assert contradictions(isolation, flow=ISOLATED, units=2) == []
    isolation["module_2"] |= {"module_3": 0.5}
    (line,) = contradictions(isolation, flow=ISOLATED, units=2)
    assert line.startswith("the loss of module_2 reaches module_3 (norm 0.5)")


def test_a_module_that_has_only_a_head_is_seen_by_the_head(tiny):
    learner = tiny("gim").learner
    learner.encoder.stages[1] = nn.ReLU()
    (head,) = seen_from("module_2", learner)["module_2"]
    assert names_of([head], learner) == ["heads.module_2.predictors.weight"]


def test_a_module_that_somebody_froze_is_not_reached(tiny, tiny_batch):
    learner = tiny("cpc").learner
    learner.encoder.stages[1].requires_grad_(False)
    (line,) = contradictions(norms(learner, tiny_batch), flow=END_TO_END)
    assert line.startswith("the loss of module_3 trains no weight of module_2 in the encoder,")


def test_without_an_encoder_of_modules_the_columns_are_the_units():
    learner = Weighted()
    assert seen_from("module_1", learner) == learner.units()


# -- leaks -----------------------------------------------------------------------------------------


class Undetached(GreedyInfoMax):
    """Its second module is handed what the first one made, graph and all."""

    def losses(self, batch, *, only=None):
        activations = self.encoder.prepare(batch.inputs)
        for unit in self.partition:
            if unit.last != 1:
                activations = activations.detach()
            activations = self.encoder.stages[unit.last](activations)
            z = self.encoder.pool(activations, batch_size=len(batch.inputs))
            head = self.heads[unit.name]
            yield unit.name, self.loss(head, [Encodings(z, z, module=unit.last)], batch)


class BorrowedHead(GreedyInfoMax):
    """Its third loss is made smaller by the first one's head, too."""

    def losses(self, batch, *, only=None):
        for unit, loss in super().losses(batch, only=only):
            extra = self.heads["module_1"].predictors.weight.square().mean()
            yield unit, loss + extra if unit == "module_3" else loss


class LookingUp(GreedyInfoMax):
    """Its first loss decays the weights of the third module."""

    def losses(self, batch, *, only=None):
        for unit, loss in super().losses(batch, only=only):
            extra = sum(p.square().mean() for p in self.encoder.stages[2].parameters())
            yield unit, loss + extra if unit == "module_1" else loss


class Unconnected(GreedyInfoMax):
    """Its second loss has lost the graph that it came from, but for a head on nothing."""

    def losses(self, batch, *, only=None):
        for unit, loss in super().losses(batch, only=only):
            elsewhere = next(self.encoder.stages[0].parameters()).sum() * 0
            yield unit, loss.detach() + elsewhere if unit == "module_2" else loss


class HeadAlone(GreedyInfoMax):
    """Its second loss, on detached encodings, trains the head and nothing that a probe reads."""

    def loss(self, head, views, batch):
        if head is self.heads["module_2"]:
            views = [replace(view, z=view.z.detach(), c=view.c.detach()) for view in views]
        return super().loss(head, views, batch)


def planted(kind: type[GreedyInfoMax], tiny_gim: Tiny) -> Learner:
    """GIM's tiny learner, its losses those of `kind`."""
    tiny_gim.learner.__class__ = kind
    return tiny_gim.learner


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        (Undetached, "the loss of module_2 reaches module_1 "),
        (BorrowedHead, "the loss of module_3 reaches module_1 "),
        (LookingUp, "the loss of module_1 reaches module_3 "),
        (Unconnected, "the loss of module_2 trains no weight of module_2 in the encoder,"),
        (HeadAlone, "the loss of module_2 trains no weight of module_2 in the encoder,"),
    ],
)
def test_a_planted_leak_is_found_and_nothing_else(kind, complaint, tiny, tiny_batch):
    found = norms(planted(kind, tiny("gim")), tiny_batch, schedule=Schedule.JOINT)
    (line,) = contradictions(found, flow=ISOLATED)
    assert line.startswith(complaint)
    assert line.endswith(", but the flow declared is isolated")


def test_a_block_diagonal_is_not_end_to_end():
    isolation = {
        "module_1": {"module_1": 0.5, "module_2": 0.0},
        "module_2": {"module_1": 0.0, "module_2": 0.25},
    }
    assert contradictions(isolation, flow=ISOLATED) == []
    assert contradictions(isolation, flow=END_TO_END) == [
        f"the loss of module_{loss} trains no weight of module_{other} in the encoder, but the "
        f"flow declared is end_to_end"
        for loss, other in ((1, 2), (2, 1))
    ]


def test_a_full_row_is_not_isolated():
    full = {"module_2": {"module_1": 1e-40, "module_2": 0.25}}
    assert contradictions(full, flow=END_TO_END) == []
    assert contradictions(full, flow=ISOLATED) == [
        "the loss of module_2 reaches module_1 (norm 1e-40), but the flow declared is isolated"
    ]


@pytest.mark.parametrize("norm", [math.nan, math.inf, None])
def test_a_norm_that_is_no_number_is_a_gradient_nevertheless(norm):
    """JSON gives back None for it."""
    (line,) = contradictions({"module_2": {"module_1": norm, "module_2": 0.25}}, flow=ISOLATED)
    assert line.startswith(f"the loss of module_2 reaches module_1 (norm {norm})")


def test_a_record_with_a_target_in_the_names_of_its_losses_is_read():
    rows = {f"{target}_module_2": {"module_1": 0.0, "module_2": 0.25}
            for target in ("speaker", "phone")}  # fmt: skip
    assert leaks(cell("greedy_supervised", metrics={}, isolation=rows)) == []
    assert len(leaks(cell("supervised", metrics={}, isolation=rows))) == 2
    assert leaks(cell("random_init", metrics={})) == []


# -- leaving no trace ------------------------------------------------------------------------------


class Normalised(GreedyInfoMax):
    """Has a running mean, and draws from the global generator."""

    def losses(self, batch, *, only=None):
        for unit, loss in super().losses(batch, only=only):
            yield unit, loss + self.norm(torch.rand(4, 2)).sum() * 0


def state_of(learner: Learner):
    """All that a step might move."""
    negatives = learner.heads["module_3"].generator if hasattr(learner, "heads") else None
    return [
        *(value.clone() for value in learner.state_dict().values()),
        torch.get_rng_state(),
        negatives.get_state(),
    ]


def test_gradients_are_computed_in_the_precision_of_training(tiny, tiny_batch, monkeypatch):
    """By itself a GPU rounds the factors of convolutions to TF32."""
    rounded, grad = [], torch.autograd.grad

    def noted(*given, **how):
        rounded.append(torch.backends.cudnn.allow_tf32)
        return grad(*given, **how)

    monkeypatch.setattr(torch.autograd, "grad", noted)
    audit(trainer(tiny("gim").learner, precision=Precision.FP32), tiny_batch, steps=1)
    assert rounded
    assert not any(rounded)


@pytest.mark.parametrize("settings", [{}, {"schedule": Schedule.SEQUENTIAL}], ids=str)
def test_nothing_is_left_behind(settings, tiny, tiny_batch):
    """Not in weights, running means, gradients or generators; and a later step is as without."""
    learner = tiny("gim").learner
    learner.norm = nn.BatchNorm1d(2, affine=False)
    planted(Normalised, SimpleNamespace(learner=learner))
    ours = trainer(learner, **settings)
    before = state_of(learner)
    audit(ours, tiny_batch, steps=1)
    assert all(torch.equal(a, b) for a, b in zip(before, state_of(learner), strict=True))
    assert all(p.grad is None for p in learner.parameters())
    assert not any(adam.state for adam in ours.optimisers.values())


def test_an_error_leaves_nothing_behind_either(tiny, tiny_batch):
    learner = tiny("gim").learner
    before = state_of(learner)
    _, head = list(learner.heads.items())[-1]
    head.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        audit(trainer(learner), tiny_batch, steps=1)
    assert all(torch.equal(a, b) for a, b in zip(before, state_of(learner), strict=True))


class Doubled(nn.Conv2d):
    """A layer whose code is not PyTorch's own, which is never compiled."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_compiled_layers_stay_compiled():
    """The audit runs them as they are written; later calls run what was compiled before."""
    calls = []

    def backend(graph, _):
        return lambda *inputs: calls.append(1) or graph(*inputs)

    learner = OneConvolution()
    learner.conv = Doubled(2, 3, kernel_size=3, padding=1)
    learner.conv.compile(backend=backend)
    batch = Batch(inputs=torch.randn(5, 2, 4, 4), labels={})
    for _ in range(2):
        list(learner.losses(batch))
        compiled = len(calls)
        audit(trainer(learner), batch, steps=1)
        assert len(calls) == compiled > 0
    assert len(calls) == 2


# -- operations ------------------------------------------------------------------------------------


class OneConvolution(Scripted):
    """The mean of a convolution's outputs."""

    encoder = nn.Identity()

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, kernel_size=3, padding=1)

    def losses(self, batch):
        yield "module_1", self.conv(batch.inputs).float().mean()

    def units(self):
        return {"module_1": list(self.conv.parameters())}


FORWARD = 2 * 5 * (4 * 4) * 3 * (2 * 3 * 3)  # of 5 images, 4×4 places, 3 channels, 2×3×3 weights


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_a_convolution_is_counted_as_by_hand(precision, layout):
    """Forward, and as much for the weights' gradients; the images need none. Seven steps."""
    learner = OneConvolution().to(memory_format=layout)
    batch = Batch(inputs=torch.randn(5, 2, 4, 4).contiguous(memory_format=layout), labels={})
    found = audit(trainer(learner, precision=precision), batch, steps=7)
    assert found.flops == 7 * 2 * FORWARD


def counted(compute) -> int:
    with flop_counter() as counter:
        compute()
    return counter.get_total_flops()


def test_the_work_of_a_step_is_counted_whole(case):
    """The gradients of the losses' own heads, too."""
    found = audit(trainer(case.build().learner), case.batch(), steps=1)
    taken = trainer(case.build().learner)
    step = counted(lambda: taken.step(case.batch())) if taken.learner.units() else 0
    assert found.flops == step


def paper_encoder() -> ResNetEncoder:
    with torch.device("meta"):
        return ResNetEncoder(ResNetSettings(kind="resnet"), shape=(1, 64, 64))


def test_a_step_of_the_papers_modules_costs_three_times_their_forward():
    """5.384, 8.221 and 11.715 GFLOP forward; twice as much back, but for what is given to each.

    The gradient of a module's inputs is not asked for: it would cost its first convolution (and in
    modules 2 and 3 the shortcut's) once more.
    """
    encoder = paper_encoder()
    activations = encoder.prepare(torch.empty(1, 1, 64, 64, device="meta"))
    # Multiply-adds of a patch: stem 16·16 places of 64·(5·5); then of 1×1, stride 1 and 2.
    entrances = [16 * 16 * 64 * 25,
                 16 * 16 * 256 * 128 + 8 * 8 * 256 * 512,
                 8 * 8 * 512 * 256 + 4 * 4 * 512 * 1024]  # fmt: skip
    for stage, forward, entrance in zip(
        encoder.stages, (5.384, 8.221, 11.715), entrances, strict=True
    ):
        given = activations.detach()
        step = counted(lambda stage=stage, given=given: stage(given).mean().backward())
        with torch.no_grad():
            assert counted(lambda stage=stage, given=given: stage(given)) / 1e9 == pytest.approx(
                forward, abs=5e-4
            )
            activations = stage(given)
        assert step / 1e9 == pytest.approx(3 * forward - 2 * 49 * entrance / 1e9, abs=2e-3)


def test_info_nce_is_counted_as_by_hand():
    """Predictions and scores of negatives, and twice as much for the gradients of both sides."""
    settings = InfoNCESettings(prediction_steps=2, negatives=5)
    head = InfoNCEHead(z_dim=3, c_dim=4, settings=settings, generator=torch.Generator())
    z, c = (torch.randn(2, 7, 7, d, requires_grad=True) for d in (3, 4))
    anchors = 2 * 5 * 7  # of 7 rows the two last have no target
    forward = 2 * anchors * (4 * 2 * 3) + 2 * anchors * (2 * 3 * 5)
    with torch.no_grad():
        assert counted(lambda: head(z, c)) == forward
    assert counted(lambda: head(z, c).backward()) == 3 * forward


BATCH, TIME, INPUTS, UNITS = 2, 5, 4, 3
OF_INPUTS = 2 * BATCH * TIME * (3 * UNITS * INPUTS)  # three gates
OF_STATES = 2 * BATCH * TIME * (3 * UNITS * UNITS)


def test_a_gru_is_counted_as_by_hand():
    """Back, the inputs need no gradient, and the state before the first step none either."""
    gru, x = GRU(INPUTS, UNITS), torch.randn(BATCH, INPUTS, TIME)
    forward = OF_INPUTS + OF_STATES
    assert counted(lambda: gru(x)) == forward
    of_weights, of_states = forward, OF_STATES * (TIME - 1) // TIME
    assert counted(lambda: gru(x).sum().backward()) == forward + of_weights + of_states


def test_cudnns_gru_is_counted_too():
    """One operation of which PyTorch's own counter knows nothing; run on tensors without data."""
    weights = [torch.empty(3 * UNITS, INPUTS), torch.empty(3 * UNITS, UNITS),
               torch.empty(3 * UNITS), torch.empty(3 * UNITS)]  # fmt: skip
    x, h = torch.empty(BATCH, TIME, INPUTS), torch.empty(1, BATCH, UNITS)
    x, h, *weights = (tensor.to("meta") for tensor in (x, h, *weights))
    gru = torch.ops.aten._cudnn_rnn
    rest = (None, h, None, 3, UNITS, 0, 1, True, 0.0, True, False, [], None)
    assert counted(lambda: gru(x, weights, 4, *rest)) == OF_INPUTS + OF_STATES
    back = flop_counter().flop_registry[torch.ops.aten._cudnn_rnn_backward]
    assert back(x, weights, 4, *rest, out_val=None) == 2 * (OF_INPUTS + OF_STATES)


def forwards(tiny, batch) -> list[int]:
    """Of the tiny encoder's modules, without autograd."""
    encoder = tiny("gim").learner.encoder
    activations, found = encoder.prepare(batch.inputs), []
    with torch.no_grad():
        for stage in encoder.stages:
            found.append(counted(lambda stage=stage, given=activations: stage(given)))
            activations = stage(activations)
    return found


def test_in_sequence_frozen_modules_run_at_every_step_or_once_for_what_is_kept(tiny, tiny_batch):
    """Beside the same work as interleaved, which runs each forward once.

    What is kept of the second module is computed from the batches, through the first one.
    """

    def flops(**others) -> int:
        found = audit(
            trainer(tiny("gim").learner, schedule=Schedule.SEQUENTIAL), tiny_batch, **others
        )
        return found.flops

    first, second, _ = forwards(tiny, tiny_batch)
    together = audit(trainer(tiny("gim").learner), tiny_batch, steps=10).flops
    assert flops(steps=10) - together == 10 * (first + first + second)
    assert flops(steps=10, kept_batches=4) - together == 4 * (first + first + second)


def test_the_schedules_do_the_same_work(tiny, tiny_batch):
    one, other = (
        audit(trainer(tiny("gim").learner, schedule=schedule), tiny_batch, steps=3)
        for schedule in (Schedule.INTERLEAVED, Schedule.JOINT)
    )
    assert one == other


def test_a_method_that_trains_nothing_has_nothing_to_audit():
    learner = build_tiny("mfcc", modality=Modality.SPEECH).learner
    assert audit(trainer(learner), NO_BATCH, steps=0) == Audit()
