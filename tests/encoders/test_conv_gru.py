"""The audio encoder against the paper's sizes, and which sample goes where."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from gim_bench import seeding
from gim_bench.contract import Modality
from gim_bench.encoders.conv_gru import (
    GRU,
    ConvGRUEncoder,
    ConvGRUSettings,
    Convolution,
    owners,
    receptive_fields,
)
from gim_bench.testing.cases import TINY
from tests.conftest import SAMPLES, STEPS
from tests.encoders.modules import activations_of, parameters_of
from tests.oracles.gru import slow_gru
from tests.oracles.steps import slow_owner, slow_steps

TINY_CONV_GRU = TINY[Modality.SPEECH].options
PAPER = ConvGRUSettings(kind="conv_gru")
WINDOW = 20_480  # samples
LENGTHS = [4095, 1023, 512, 257, 128, 128]
CONVOLUTIONS = range(5)
SEES = [10, 45, 105, 225, 465]  # samples of a convolution's receptive field
# Other strides, and paddings that put the centres elsewhere.
OTHER = ConvGRUSettings(
    kind="conv_gru", width=3, context=2, kernels=(9, 16, 5), strides=(4, 8, 5), paddings=(1, 0, 3)
)


def paper_encoder() -> ConvGRUEncoder:
    """The paper's encoder; its values do not matter, so they need not be computed."""
    return ConvGRUEncoder(PAPER, shape=(WINDOW,))


def tiny_encoder(settings: ConvGRUSettings = TINY_CONV_GRU, *, samples: int = SAMPLES):
    with seeding.weights_from("tests", "encoder"):
        return ConvGRUEncoder(settings, shape=(samples,))


def normal(*shape: int, stream: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=seeding.generator("tests", "samples", stream))


# -- sizes -------------------------------------------------------------------------------------


def test_modules_have_the_parameters_of_the_released_code():
    counts = parameters_of(paper_encoder())
    assert counts == [5_632, 2_097_664, 1_049_088, 1_049_088, 1_049_088, 591_360]


def test_modules_have_the_sequence_lengths_of_the_paper():
    encoder = paper_encoder()
    found = activations_of(encoder, torch.zeros(2, WINDOW))
    assert [tuple(x.shape) for x in found] == [
        (2, dim, length) for dim, length in zip(encoder.dims, LENGTHS, strict=True)
    ]
    assert list(encoder.dims) == [512] * 5 + [256]


def test_the_grid_of_every_layer_is_known_without_running_it():
    assert ConvGRUEncoder.rows(PAPER, shape=(WINDOW,)) == LENGTHS


@pytest.mark.parametrize("settings", [TINY_CONV_GRU, OTHER])
@pytest.mark.parametrize("samples", [1_600, 3_200, 4_000])
def test_known_lengths_are_those_of_the_encodings(settings, samples):
    encoder = tiny_encoder(settings, samples=samples)
    found = activations_of(encoder, normal(1, samples))
    known = ConvGRUEncoder.rows(settings, shape=(samples,))
    assert [x.shape[2] for x in found] == known


@given(
    kernels=st.tuples(*[st.integers(1, 12)] * 3),
    paddings=st.tuples(*[st.integers(0, 4)] * 3),
    steps=st.integers(1, 6),
)
@settings(max_examples=50)
def test_time_steps_are_counted_as_the_convolutions_that_they_come_from(kernels, paddings, steps):
    """Against torch, layer by layer; where a kernel is wider than its input, there are none."""
    strides = (10, 4, 4)
    options = ConvGRUSettings(kind="conv_gru", kernels=kernels, strides=strides, paddings=paddings)
    x = torch.zeros(1, 1, 160 * steps)
    expected = []
    for kernel, stride, padding in zip(kernels, strides, paddings, strict=True):
        if x.shape[2] + 2 * padding < kernel:
            assert min(ConvGRUEncoder.rows(options, shape=(160 * steps,))) == 0
            return
        x = F.conv1d(x, torch.zeros(1, 1, kernel), stride=stride, padding=padding)
        expected.append(x.shape[2])
    rows = ConvGRUEncoder.rows(options, shape=(160 * steps,))
    assert rows == [*expected, expected[-1]]


def test_every_time_step_is_a_row_of_a_grid_of_one_column():
    x = normal(2, 4, 20)
    z = tiny_encoder().pool(x, batch_size=2)
    assert z.shape == (2, 20, 1, 4)
    assert torch.equal(z[:, 7, 0], x[:, :, 7])


# -- places ------------------------------------------------------------------------------------


def samples_seen(encoder: ConvGRUEncoder, *, module: int, step: int) -> list[int]:
    """Samples that one time step of a module depends on, by its gradient."""
    for stage in encoder.stages[: module + 1]:
        torch.nn.init.constant_(stage.conv.weight, 0.5)  # else a ReLU may hide what is seen
    inputs = torch.ones(1, SAMPLES, requires_grad=True)
    activations_of(encoder, inputs)[module][0, :, step].sum().backward()
    return inputs.grad[0].nonzero().flatten().tolist()


@pytest.mark.parametrize("module", CONVOLUTIONS)
@pytest.mark.parametrize("step", [8, 11, 14])
def test_a_convolution_s_receptive_field_is_centred_where_receptive_fields_says(module, step):
    centre, advance = receptive_fields(TINY_CONV_GRU)[module]
    first = centre + advance * step - (SEES[module] - 1) / 2
    inside = [n for n in range(SAMPLES) if first <= n < first + SEES[module]]
    assert samples_seen(tiny_encoder(), module=module, step=step) == inside


def test_the_fifth_convolution_s_step_i_is_centred_at_sample_160_i_plus_20():
    assert receptive_fields(PAPER)[4] == (20.0, 160)
    seen = samples_seen(tiny_encoder(), module=4, step=10)
    assert (seen[0] + seen[-1]) / 2 == 160 * 10 + 20
    assert len(seen) == 465


def test_the_gru_s_step_is_centred_at_its_newest_input():
    assert receptive_fields(PAPER)[5] == receptive_fields(PAPER)[4]


@pytest.mark.parametrize("settings", [TINY_CONV_GRU, OTHER])
@pytest.mark.parametrize("samples", [1_600, 3_200])
def test_time_steps_belong_to_the_step_whose_label_is_nearest(settings, samples):
    """Those at the end, nearest to a label beyond the window, to none."""
    found = owners(settings, samples=samples)
    lengths = ConvGRUEncoder.rows(settings, shape=(samples,))
    for owner, (centre, advance), length in zip(
        found, receptive_fields(settings), lengths, strict=True
    ):
        slow = [slow_owner(centre + advance * t, steps=samples // 160) for t in range(length)]
        assert owner.tolist() == [step for step in slow if step is not None]
        assert slow[: len(owner)] == owner.tolist(), "one before the end was left out"


@pytest.mark.parametrize("settings", [TINY_CONV_GRU, OTHER])
def test_steps_are_the_means_of_the_loop_over_all_time_steps(settings):
    encoder = tiny_encoder(settings)
    lengths = ConvGRUEncoder.rows(settings, shape=(SAMPLES,))
    for module, (centre, advance) in enumerate(receptive_fields(settings)):
        z = normal(2, lengths[module], 1, encoder.dims[module])
        centres = [centre + advance * t for t in range(lengths[module])]
        torch.testing.assert_close(
            encoder.steps(z, module=module), slow_steps(z, centres=centres, steps=STEPS)
        )


@pytest.mark.parametrize("settings", [TINY_CONV_GRU, OTHER])
@pytest.mark.parametrize("steps", [STEPS - 1, STEPS, STEPS + 1, 3 * STEPS + 2])
def test_windows_of_another_length_have_the_steps_of_an_encoder_of_that_length(settings, steps):
    encoder = tiny_encoder(settings)
    other = tiny_encoder(settings, samples=160 * steps)
    inputs = normal(2, 160 * steps)
    for module, activations in enumerate(activations_of(other, inputs)):
        z = encoder.pool(activations, batch_size=2)
        assert encoder.steps(z, module=module).shape[1] == steps
        assert torch.equal(encoder.steps(z, module=module), other.steps(z, module=module))


def test_a_click_lights_up_the_step_that_it_falls_into():
    """Read by the loudest step of every convolution: a label is about the time around it."""
    encoder = tiny_encoder()
    for stage in encoder.stages[:5]:
        torch.nn.init.constant_(stage.conv.weight, 0.5)
        torch.nn.init.zeros_(stage.conv.bias)
    for step in (2, 9, 17):
        click = torch.zeros(1, SAMPLES)
        click[0, 160 * step + 40] = 1.0  # where the step's label is centred
        activations = encoder.prepare(click)
        for module in CONVOLUTIONS:
            activations = encoder.stages[module](activations)
            z = encoder.pool(activations, batch_size=1)
            assert encoder.steps(z, module=module).sum(dim=2).argmax().item() == step, module


@pytest.mark.parametrize("module", [4, 5])
def test_steps_of_the_fifth_convolution_and_the_gru_are_their_time_steps(module):
    z = normal(2, STEPS, 1, 4)
    assert torch.equal(tiny_encoder().steps(z, module=module), z.squeeze(2))


def test_every_step_of_the_paper_s_window_has_features_in_every_layer():
    for owner, advance in zip(
        owners(PAPER, samples=WINDOW), [5, 20, 40, 80, 160, 160], strict=True
    ):
        counts = owner.bincount(minlength=128)
        assert len(counts) == 128
        assert (counts[1:-1] == 160 // advance).all()
        assert counts.all()


def test_steps_are_averaged_in_fp32():
    """A mean of 32 values in bf16 would lose most of their digits."""
    z = normal(2, 639, 1, 4).bfloat16()
    steps = tiny_encoder().steps(z, module=0)
    assert steps.dtype is torch.float32
    torch.testing.assert_close(steps, tiny_encoder().steps(z.float(), module=0))


def test_gradients_pass_through_steps():
    """Supervised methods learn from them."""
    z = normal(2, 80, 1, 4).requires_grad_()
    tiny_encoder().steps(z, module=2).sum().backward()
    owned = len(owners(TINY_CONV_GRU, samples=SAMPLES)[2])
    assert z.grad[:, :owned].all()
    assert not z.grad[:, owned:].any()


def test_which_steps_own_what_is_not_kept_with_the_weights():
    """It follows from the settings, and depends on the window's length."""
    assert tiny_encoder().state_dict().keys() == tiny_encoder(samples=1_600).state_dict().keys()
    assert not any("owner" in name for name in tiny_encoder().state_dict())


# -- the convolutions --------------------------------------------------------------------------


def test_a_convolution_is_the_formula_written_out():
    """ReLU of the weighted sum over kernel and channels, of samples 3 apart, padded by 1."""
    layer = Convolution(2, 4, kernel=5, stride=3, padding=1).double()
    x = normal(2, 2, 14).double()
    padded = torch.nn.functional.pad(x, (1, 1))
    expected = [
        torch.einsum("bdk,edk->be", padded[:, :, 3 * t : 3 * t + 5], layer.conv.weight)
        for t in range(4)
    ]
    expected = (torch.stack(expected, dim=2) + layer.conv.bias[:, None]).clamp(min=0)
    torch.testing.assert_close(layer(x), expected)
    assert (expected == 0).any()


# -- the GRU -----------------------------------------------------------------------------------


def gru_of(*, through_time: bool) -> GRU:
    with seeding.weights_from("tests", "gru"):
        gru = GRU(3, 4).double()
    gru.through_time = through_time
    return gru


def gradients_of(contexts: torch.Tensor, gru: GRU, x: torch.Tensor) -> list[torch.Tensor]:
    """Of a loss that weighs every value of every context differently."""
    weighing = normal(*contexts.shape, stream=1).double()
    return list(torch.autograd.grad((contexts * weighing).sum(), [x, *gru.parameters()]))


@pytest.mark.parametrize("through_time", [True, False])
def test_the_gru_equals_the_loop_over_time_in_values_and_gradients(through_time):
    """Without backpropagation through time: the loop in which every h_{t-1} is detached."""
    gru, x = gru_of(through_time=through_time), normal(2, 3, 7).double().requires_grad_()
    contexts = gru(x)
    slow = slow_gru(x.transpose(1, 2), gru.gru, through_time=through_time).transpose(1, 2)
    torch.testing.assert_close(contexts, slow, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        gradients_of(contexts, gru, x), gradients_of(slow, gru, x), rtol=1e-10, atol=1e-12
    )


def test_without_backpropagation_through_time_values_are_the_same_and_gradients_are_not():
    x = normal(2, 3, 7).double().requires_grad_()
    whole, cut = gru_of(through_time=True), gru_of(through_time=False)
    torch.testing.assert_close(whole(x), cut(x), rtol=1e-12, atol=1e-12)
    for with_bptt, without in zip(
        gradients_of(whole(x), whole, x), gradients_of(cut(x), cut, x), strict=True
    ):
        assert (with_bptt - without).abs().max() > 1e-3


@pytest.mark.parametrize("through_time", [True, False])
def test_a_context_passes_gradient_to_earlier_inputs_only_through_time(through_time):
    x = normal(2, 3, 7).double().requires_grad_()
    gru_of(through_time=through_time)(x)[:, :, 4].sum().backward()
    reached = (x.grad != 0).any(dim=1)
    earliest = 0 if through_time else 4
    assert reached.tolist() == [[earliest <= t <= 4 for t in range(7)]] * 2


def test_windows_of_a_batch_do_not_see_each_other():
    x = normal(2, 3, 7).double().requires_grad_()
    for gru in (gru_of(through_time=True), gru_of(through_time=False)):
        (gradient,) = torch.autograd.grad(gru(x)[0].sum(), x)
        assert gradient[0].any()
        assert not gradient[1].any()


# -- ablations ---------------------------------------------------------------------------------


def test_without_its_autoregressor_the_encoder_ends_with_the_fifth_convolution():
    whole, cut = tiny_encoder(), tiny_encoder().without_autoregressor()
    assert whole.autoregressive
    assert not cut.autoregressive
    assert len(cut.stages) == len(cut.dims) == 5
    inputs = normal(2, SAMPLES)
    for one, other in zip(activations_of(cut, inputs), activations_of(whole, inputs), strict=False):
        assert torch.equal(one, other)


def test_without_bptt_the_encoder_computes_the_same_contexts():
    inputs = normal(2, SAMPLES)
    whole = activations_of(tiny_encoder(), inputs)[-1]
    cut = activations_of(tiny_encoder().without_bptt(), inputs)[-1]
    torch.testing.assert_close(cut, whole)


@pytest.mark.parametrize("through_time", [True, False])
def test_the_gru_computes_in_fp32_under_autocast_too(through_time):
    """On GPUs autocast would run it in fp16, whatever it is asked for."""
    gru = GRU(4, 3)
    gru.through_time = through_time
    x = torch.randn(2, 4, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gru(x.bfloat16())
    assert found.dtype is torch.float32
    assert torch.equal(found, gru(x.bfloat16().float()))
