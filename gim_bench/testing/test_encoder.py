"""Conformance tests of an encoder. An `encoder_case` is an encoder with options and a shape."""

from collections.abc import Sequence

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from gim_bench import seeding
from gim_bench.contract import Encoder, Modality
from gim_bench.settings.schema import EncoderSettings
from gim_bench.testing.cases import EncoderCase, encodings_of


def encoded(encoder: Encoder, inputs: Tensor) -> list[Tensor]:
    """Every module's encodings, without autograd; dropout is the same in every call."""
    with torch.no_grad(), seeding.weights_from("testing"):
        return encodings_of(encoder, inputs)


def assert_same(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """The encodings of every module agree to nine digits."""
    for m, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12, msg=f"module {m + 1}")


# -- what an encoder declares --------------------------------------------------------------------


def test_an_encoder_declares_a_modality_and_settings_with_a_kind(encoder_case: EncoderCase) -> None:
    assert encoder_case.encoder.modality in Modality
    assert issubclass(encoder_case.encoder.Options, EncoderSettings)
    assert encoder_case.options.kind


def test_an_encoder_has_modules_and_the_channels_of_each(encoder_case: EncoderCase) -> None:
    encoder = encoder_case.build()
    assert isinstance(encoder.stages, nn.ModuleList)
    assert len(encoder.stages) == len(encoder.dims) > 0


def test_all_parameters_are_in_the_modules(encoder_case: EncoderCase) -> None:
    """Methods train the parameters of modules; a parameter elsewhere would never be trained."""
    encoder = encoder_case.build()
    in_modules = {id(p) for p in encoder.stages.parameters()}
    outside = [name for name, p in encoder.named_parameters() if id(p) not in in_modules]
    assert not outside


def test_encodings_are_grids_of_the_declared_rows_and_channels(encoder_case: EncoderCase) -> None:
    encoder, inputs = encoder_case.build(), encoder_case.inputs()
    rows = encoder_case.encoder.rows(encoder_case.options, shape=encoder_case.shape)
    found = encoded(encoder, inputs)
    assert len(found) == len(rows)
    for z, height, dim in zip(found, rows, encoder.dims, strict=True):
        assert z.dim() == 4
        assert (len(z), z.shape[1], z.shape[3]) == (len(inputs), height, dim)
        assert z.isfinite().all()


def test_an_autoregressor_has_the_grid_of_the_module_that_it_predicts(
    encoder_case: EncoderCase,
) -> None:
    encoder = encoder_case.build()
    if not encoder.autoregressive:
        pytest.skip("the encoder has no autoregressor")
    *_, below, top = encoded(encoder, encoder_case.inputs())
    assert top.shape[:3] == below.shape[:3]


def test_steps_are_places_of_labels_with_the_channels_of_the_module(
    encoder_case: EncoderCase,
) -> None:
    encoder, inputs = encoder_case.build(), encoder_case.inputs()
    for m, z in enumerate(encoded(encoder, inputs)):
        steps = encoder.steps(z, module=m)
        assert steps.shape == (len(inputs), encoder_case.steps, encoder.dims[m])
        assert steps.dtype is z.dtype


# -- weights -------------------------------------------------------------------------------------


def test_first_weights_follow_from_the_seed(encoder_case: EncoderCase) -> None:
    inputs = encoder_case.inputs()
    first, again, other = (encoded(encoder_case.build(seed=s), inputs) for s in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_weights_that_were_saved_give_the_same_encodings(encoder_case: EncoderCase) -> None:
    """Running statistics too: a file of weights holds all that features depend on."""
    trained, fresh, inputs = encoder_case.build(), encoder_case.build(seed=1), encoder_case.inputs()
    encoded(trained, 2 * inputs)  # in train mode: running statistics move
    saved = save({name: value.contiguous() for name, value in trained.state_dict().items()})
    fresh.load_state_dict(load(saved))
    assert_same(encoded(fresh.eval(), inputs), encoded(trained.eval(), inputs))


def test_gradients_reach_every_parameter(encoder_case: EncoderCase) -> None:
    """From the steps of the top module."""
    encoder, inputs = encoder_case.build(), encoder_case.inputs()
    top = len(encoder.stages) - 1
    steps = encoder.steps(encodings_of(encoder, inputs)[top], module=top)
    weighing = torch.randn(
        steps.shape, generator=seeding.generator("testing", "weighing"), dtype=steps.dtype
    )
    (steps * weighing).sum().backward()
    idle = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle


# -- examples of a batch -------------------------------------------------------------------------


def test_prepared_examples_lie_one_after_the_other(encoder_case: EncoderCase) -> None:
    """So that a batch can be cut between examples: an example has the same activations alone."""
    encoder, inputs = encoder_case.build(), encoder_case.inputs()
    whole = encoder.prepare(inputs)
    assert len(whole) % len(inputs) == 0
    alone = [encoder.prepare(example) for example in inputs.split(1)]
    assert torch.equal(whole, torch.cat(alone))


def test_examples_depend_on_each_other_in_training_as_the_encoder_declares(
    encoder_case: EncoderCase,
) -> None:
    """One example is changed, and the encodings of the others are compared."""
    encoder, inputs = encoder_case.build(), encoder_case.inputs()
    encoder.train()
    before = encoded(encoder, inputs)
    inputs[0] *= 30  # much louder, or brighter
    after = encoded(encoder, inputs)
    if encoder_case.encoder.examples_are_independent(encoder_case.options):
        assert_same([z[1:] for z in after], [z[1:] for z in before])
    else:
        moved = [not torch.allclose(b[1:], a[1:]) for b, a in zip(before, after, strict=True)]
        assert any(moved), "no example changed with another: they are independent"


def test_in_eval_mode_pieces_of_a_batch_give_what_the_whole_gives(
    encoder_case: EncoderCase,
) -> None:
    """In eval mode examples are independent of each other, and nothing is drawn."""
    encoder, inputs = encoder_case.build().eval(), encoder_case.inputs()
    pieces = [encodings_of(encoder, piece) for piece in inputs.split([1, 3, len(inputs) - 4])]
    whole = encodings_of(encoder, inputs)
    assert_same([torch.cat(parts) for parts in zip(*pieces, strict=True)], whole)


def test_no_module_writes_into_what_it_is_given(encoder_case: EncoderCase) -> None:
    """The activations of a module are read after the module above has run."""
    encoder, inputs = encoder_case.build(), encoder_case.inputs()
    activations = encoder.prepare(inputs)
    assert torch.equal(inputs, encoder_case.inputs())
    with torch.no_grad():
        for m, stage in enumerate(encoder.stages):
            kept = activations.clone()
            above = stage(activations)
            assert torch.equal(activations, kept), f"module {m + 1} writes into its inputs"
            activations = above
