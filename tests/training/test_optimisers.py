"""Optimisers: torch's own to the last digit, LARS against its equations, rates against torch's."""

import io
import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from gim_bench.settings.optimisers import (
    AdamSettings,
    AdamWSettings,
    ConstantRate,
    CosineRate,
    LARSSettings,
    SGDSettings,
    StepsRate,
)
from gim_bench.training.optimisers import (
    LARS,
    make_optimiser,
    parameter_groups,
    rate_at,
    set_rate,
)
from tests.oracles.lars import slow_lars

RATE = 0.05
ALL_KINDS = [
    AdamSettings(weight_decay=0.1),
    AdamWSettings(weight_decay=0.1),
    SGDSettings(weight_decay=0.1, nesterov=True),
    LARSSettings(weight_decay=0.1),
]


def kind(settings):
    return settings.kind


class Network(nn.Module):
    """A parameter of every sort that weight decay may leave out, or not."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.batch_norm = nn.BatchNorm2d(3)
        self.group_norm = nn.GroupNorm(1, 3)
        self.layer_norm = nn.LayerNorm((4, 4))
        self.rms_norm = nn.RMSNorm((4, 4))
        self.slopes = nn.PReLU(3)
        self.gru = nn.GRU(3, 2)
        self.unbiased = nn.Linear(3, 2, bias=False)
        self.bias_k = nn.Parameter(torch.empty(1, 1, 3))  # as attention has, with three dimensions


WEIGHTS = {"conv.weight", "gru.weight_ih_l0", "gru.weight_hh_l0", "unbiased.weight"}
NORMS = {
    "batch_norm.weight", "group_norm.weight", "layer_norm.weight", "rms_norm.weight",
    "batch_norm.bias", "group_norm.bias", "layer_norm.bias",
}  # fmt: skip
BIASES = {
    "batch_norm.bias", "group_norm.bias", "layer_norm.bias",
    "conv.bias", "gru.bias_ih_l0", "gru.bias_hh_l0", "slopes.weight", "bias_k",
}  # fmt: skip


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = Network().double()
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    return network


def optimiser_of(network, settings, *, learning_rate=RATE):
    groups = parameter_groups(network, list(network.parameters()), settings=settings)
    return make_optimiser(groups, settings, learning_rate=learning_rate)


def take_steps(optimiser, parameters, *, steps, seed=0):
    """Steps from random gradients, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = torch.randn(
                parameter.shape, generator=generator, dtype=parameter.dtype
            )
        optimiser.step()


def weights_of(network):
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def assert_bit_equal(found, expected):
    for name, weights in expected.items():
        torch.testing.assert_close(found[name], weights, rtol=0, atol=0)


def one_tensor(values=(3.0, 4.0)):
    return nn.Parameter(torch.tensor(values, dtype=torch.float64).reshape(-1, 1))


# -- torch's optimisers ----------------------------------------------------------------------------


def test_the_default_is_torch_s_fused_adam_in_one_group_bit_for_bit(network):
    twin = Network().double()
    twin.load_state_dict(network.state_dict())
    torch_s = torch.optim.Adam(twin.parameters(), lr=RATE, fused=True)
    ours = optimiser_of(network, AdamSettings())
    take_steps(torch_s, list(twin.parameters()), steps=20)
    take_steps(ours, list(network.parameters()), steps=20)
    assert_bit_equal(weights_of(network), weights_of(twin))
    assert ours.state_dict()["param_groups"] == torch_s.state_dict()["param_groups"]


def test_betas_and_eps_reach_adam(network):
    (group,) = optimiser_of(network, AdamWSettings(betas=(0.5, 0.6), eps=0.7)).param_groups
    assert (group["betas"], group["eps"]) == ((0.5, 0.6), 0.7)


def test_adamw_without_decay_leaves_weights_without_gradient_where_they_are(network):
    """torch's AdamW decays by 0.01 where nothing is said."""
    before = weights_of(network)
    optimiser = optimiser_of(network, AdamWSettings())
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    assert_bit_equal(weights_of(network), before)


def test_adam_s_decay_is_a_gradient_and_adamw_s_is_none():
    """In a first step without gradient Adam moves by the rate, AdamW by rate · decay · weight."""
    moved = {}
    for settings in (AdamSettings(weight_decay=0.1), AdamWSettings(weight_decay=0.1)):
        weights = one_tensor((3.0, -4.0))
        optimiser = make_optimiser([{"params": [weights]}], settings, learning_rate=0.01)
        weights.grad = torch.zeros_like(weights)
        optimiser.step()
        moved[settings.kind] = weights.detach().flatten().tolist()
    assert moved["adam"] == pytest.approx([3 - 0.01, -4 + 0.01], rel=1e-6)
    assert moved["adamw"] == pytest.approx([3 * (1 - 0.001), -4 * (1 - 0.001)], rel=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_sums_decayed_gradients_in_its_momentum(nesterov):
    weights = one_tensor((2.0,))
    settings = SGDSettings(momentum=0.5, nesterov=nesterov, weight_decay=0.1)
    optimiser = make_optimiser([{"params": [weights]}], settings, learning_rate=0.2)
    expected, velocity = 2.0, 0.0
    for gradient in (1.0, -3.0, 0.5):
        decayed = gradient + 0.1 * expected
        velocity = 0.5 * velocity + decayed
        expected -= 0.2 * (decayed + 0.5 * velocity if nesterov else velocity)
        weights.grad = torch.full_like(weights, gradient)
        optimiser.step()
    assert weights.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("settings", ALL_KINDS, ids=kind)
def test_training_goes_on_bit_for_bit_from_a_saved_state(settings, network):
    parameters = list(network.parameters())
    optimiser = optimiser_of(network, settings)
    take_steps(optimiser, parameters, steps=5)
    file = io.BytesIO()
    torch.save({"weights": network.state_dict(), "optimiser": optimiser.state_dict()}, file)
    take_steps(optimiser, parameters, steps=5, seed=1)
    uninterrupted = weights_of(network)

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    network.load_state_dict(saved["weights"])
    again = optimiser_of(network, settings, learning_rate=99.0)
    again.load_state_dict(saved["optimiser"])
    take_steps(again, parameters, steps=5, seed=1)
    assert_bit_equal(weights_of(network), uninterrupted)


# -- what is left out ------------------------------------------------------------------------------


def groups_by_name(network, settings):
    names = {parameter: name for name, parameter in network.named_parameters()}
    groups = parameter_groups(network, list(network.parameters()), settings=settings)
    return [{names[parameter] for parameter in group["params"]} for group in groups]


@pytest.mark.parametrize("settings", [AdamSettings(), AdamWSettings(), SGDSettings()], ids=kind)
def test_without_decay_all_parameters_are_one_group(settings, network):
    parameters = list(network.parameters())
    assert parameter_groups(network, parameters, settings=settings) == [{"params": parameters}]


@pytest.mark.parametrize(
    ("excludes", "left_out"),
    [
        (("biases", "norms"), NORMS | BIASES),
        (("norms",), NORMS),
        (("biases",), BIASES),
    ],
)
def test_decay_leaves_out_what_is_excluded(excludes, left_out, network):
    everything = WEIGHTS | NORMS | BIASES
    found = groups_by_name(network, AdamWSettings(weight_decay=0.1, excludes=excludes))
    assert found == [everything - left_out, left_out]


def test_nothing_excluded_is_one_group(network):
    found = groups_by_name(network, LARSSettings(excludes=()))
    assert found == [WEIGHTS | NORMS | BIASES]


def test_a_convolutional_network_leaves_out_what_has_one_dimension():
    """The rule of the released code of Barlow Twins and VICReg."""
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2)
    )
    found = groups_by_name(network, LARSSettings())
    one_dimension = {name for name, p in network.named_parameters() if p.ndim == 1}
    assert found[1] == one_dimension


def test_only_the_given_parameters_are_in_the_groups(network):
    given = [network.conv.weight, network.conv.bias]
    groups = parameter_groups(network, given, settings=SGDSettings(weight_decay=0.1))
    assert [group["params"] for group in groups] == [[network.conv.weight], [network.conv.bias]]


@pytest.mark.parametrize("settings", ALL_KINDS, ids=kind)
def test_without_gradients_only_decayed_weights_move(settings, network):
    before = weights_of(network)
    optimiser = optimiser_of(network, settings)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    after = weights_of(network)
    assert {name for name in after if not torch.equal(after[name], before[name])} == WEIGHTS


# -- LARS ------------------------------------------------------------------------------------------


def lars_of(*parameters, **values):
    values = {"momentum": 0.9, "trust_coefficient": 0.02, "weight_decay": 0.0} | values
    return LARS([{"params": list(parameters)}], lr=RATE, **values)


def test_lars_follows_its_equations_in_every_tensor(network):
    """50 steps with momentum and decay; biases and norms are plain gradient descent."""
    settings = LARSSettings(weight_decay=0.1, trust_coefficient=0.02, momentum=0.9)
    before = weights_of(network)
    gradients = {name: [] for name in before}
    optimiser = optimiser_of(network, settings)
    for step in range(50):
        take_steps(optimiser, list(network.parameters()), steps=1, seed=step)
        for name, parameter in network.named_parameters():
            gradients[name].append(parameter.grad.flatten().tolist())
    for name, found in weights_of(network).items():
        weights = before[name].flatten().tolist()
        if name in WEIGHTS:
            expected = slow_lars(
                weights,
                gradients[name],
                rate=RATE,
                momentum=0.9,
                decay=0.1,
                trust_coefficient=0.02,
            )
        else:
            plain = nn.Parameter(torch.tensor(weights, dtype=torch.float64))
            sgd = torch.optim.SGD([plain], lr=RATE, momentum=0.9)
            for gradient in gradients[name]:
                plain.grad = torch.tensor(gradient, dtype=torch.float64)
                sgd.step()
            expected = plain.tolist()
        assert found.flatten().tolist() == pytest.approx(expected, rel=1e-11), name


def test_the_first_step_is_as_long_as_rate_times_trust_times_norm():
    """‖w‖ = 5: the step is 0.05 · 0.02 · 5 along the gradient, however long the gradient is."""
    for length in (1e-6, 1.0, 1e6):
        weights = one_tensor((3.0, 4.0))
        optimiser = lars_of(weights)
        weights.grad = torch.tensor([[0.0], [length]], dtype=torch.float64)
        optimiser.step()
        assert weights.flatten().tolist() == pytest.approx([3.0, 4.0 - 0.005], rel=1e-12)


def test_weights_of_zero_are_trained_at_the_plain_rate():
    weights = one_tensor((0.0, 0.0))
    optimiser = lars_of(weights)
    weights.grad = torch.tensor([[2.0], [-1.0]], dtype=torch.float64)
    optimiser.step()
    assert weights.flatten().tolist() == [-2.0 * RATE, 1.0 * RATE]


def test_a_gradient_of_zero_moves_nothing():
    weights = one_tensor()
    optimiser = lars_of(weights)
    weights.grad = torch.zeros_like(weights)
    optimiser.step()
    assert weights.flatten().tolist() == [3.0, 4.0]


def test_a_parameter_without_gradient_is_passed_over():
    weights, unused = one_tensor(), one_tensor()
    optimiser = lars_of(weights, unused, weight_decay=0.1)
    weights.grad = torch.ones_like(weights)
    optimiser.step()
    assert unused.flatten().tolist() == [3.0, 4.0]


def test_lars_leaves_gradients_as_they_are():
    weights = one_tensor()
    weights.grad = torch.ones_like(weights)
    lars_of(weights, weight_decay=0.1).step()
    assert weights.grad.flatten().tolist() == [1.0, 1.0]


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_lars_is_the_library_s(decay):
    """20 steps against pytorch-optimizer, which divides by ‖g‖ + β‖w‖ as the paper does.

    Both denominators are the same where the gradient points along the weights.
    """
    library = pytest.importorskip("pytorch_optimizer", reason="pip install pytorch-optimizer")
    torch.manual_seed(0)
    start = torch.randn(4, 3, dtype=torch.float64)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimisers = {
        ours: lars_of(ours, weight_decay=decay),
        theirs: library.LARS(
            [theirs], lr=RATE, momentum=0.9, trust_coefficient=0.02, weight_decay=decay
        ),
    }
    for step in range(20):
        slope = torch.randn(4, 3, dtype=torch.float64) if decay == 0 else 1 + step % 3
        for weights, optimiser in optimisers.items():
            weights.grad = (slope * weights).detach()
            optimiser.step()
    assert not torch.allclose(ours, start)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


# -- rates -----------------------------------------------------------------------------------------

STEPS, PER_EPOCH = 400, 10


def rates(settings, *, steps=STEPS, steps_per_epoch=PER_EPOCH):
    return [
        rate_at(step, settings=settings, steps=steps, steps_per_epoch=steps_per_epoch)
        for step in range(steps)
    ]


def rates_of_torch(scheduler, *, steps=STEPS):
    found = []
    for _ in range(steps):
        found += scheduler.get_last_lr()
        scheduler.optimizer.step()
        scheduler.step()
    return found


@pytest.fixture
def sgd():
    """At rate 1, so that torch's rates are multipliers."""
    return torch.optim.SGD([one_tensor()], lr=1.0)


def test_a_constant_rate_is_exactly_one():
    assert set(rates(ConstantRate())) == {1.0}


def test_cosine_rises_from_zero_and_falls_to_its_final_share():
    """Warm-up over 100 of 400 steps; at step 250, half of what is left, the cosine is 0."""
    settings = CosineRate(warmup_epochs=10, final_share=0.2)
    found = rates(settings)
    assert found[0] == 0.0
    assert found[25] == 0.25
    assert found[100] == 1.0
    assert found[250] == pytest.approx(0.6, rel=1e-12)
    end = rate_at(STEPS, settings=settings, steps=STEPS, steps_per_epoch=PER_EPOCH)
    assert end == pytest.approx(0.2, rel=1e-12)


def test_cosine_without_warm_up_starts_at_the_rate():
    assert rates(CosineRate())[0] == 1.0


def test_cosine_never_rises_after_the_warm_up():
    found = rates(CosineRate(warmup_epochs=10, final_share=0.1))
    assert all(later < earlier for earlier, later in pairwise(found[100:]))


def test_cosine_without_warm_up_is_torch_s(sgd):
    scheduler = lr_scheduler.CosineAnnealingLR(sgd, T_max=STEPS, eta_min=0.1)
    expected = rates_of_torch(scheduler)
    assert rates(CosineRate(final_share=0.1)) == pytest.approx(expected, rel=1e-9)


def test_cosine_after_warm_up_is_torch_s(sgd):
    """`SequentialLR` steps its second scheduler from its start once the first is over."""
    warmup = lr_scheduler.LambdaLR(sgd, lambda step: step / 100)
    cosine = lr_scheduler.LambdaLR(sgd, lambda step: (1 + math.cos(math.pi * step / 300)) / 2)
    scheduler = lr_scheduler.SequentialLR(sgd, [warmup, cosine], milestones=[100])
    found = rates(CosineRate(warmup_epochs=10))
    assert found == pytest.approx(rates_of_torch(scheduler), rel=1e-12)


def test_steps_are_torch_s(sgd):
    scheduler = lr_scheduler.MultiStepLR(sgd, milestones=[200, 300, 350, 375], gamma=0.25)
    found = rates(StepsRate(at=(20, 30, 35, 37.5), factor=0.25))
    assert found == pytest.approx(rates_of_torch(scheduler), rel=1e-12)


def test_the_rate_steps_with_the_first_step_of_an_epoch():
    found = rates(StepsRate(at=(20, 30), factor=0.25))
    assert [found[step] for step in (0, 199, 200, 299, 300, 399)] == [
        1.0, 1.0, 0.25, 0.25, 0.0625, 0.0625,
    ]  # fmt: skip


@pytest.mark.parametrize(("epochs", "step"), [(0.012, 1), (0.018, 2), (0.57, 57)])
def test_a_part_of_an_epoch_ends_at_the_nearest_step(epochs, step):
    """0.57 · 100 is 56.99999999999999."""
    settings = StepsRate(at=(epochs,), factor=0.5)
    assert rates(settings, steps_per_epoch=100).index(0.5) == step


def test_a_rate_is_set_in_every_group(network):
    optimiser = optimiser_of(network, LARSSettings())
    set_rate(optimiser, 0.125)
    assert [group["lr"] for group in optimiser.param_groups] == [0.125, 0.125]


@pytest.mark.parametrize("settings", ALL_KINDS, ids=kind)
def test_at_a_rate_of_zero_nothing_moves(settings, network):
    before = weights_of(network)
    optimiser = optimiser_of(network, settings)
    set_rate(optimiser, 0.0)
    take_steps(optimiser, list(network.parameters()), steps=2)
    assert_bit_equal(weights_of(network), before)


def test_setting_a_constant_rate_changes_no_step(network):
    twin = Network().double()
    twin.load_state_dict(network.state_dict())
    untouched, told = optimiser_of(twin, AdamSettings()), optimiser_of(network, AdamSettings())
    take_steps(untouched, list(twin.parameters()), steps=5)
    for step in range(5):
        multiplier = rate_at(step, settings=ConstantRate(), steps=5, steps_per_epoch=1)
        set_rate(told, RATE * multiplier)
    take_steps(told, list(network.parameters()), steps=5)
    assert_bit_equal(weights_of(network), weights_of(twin))
