"""Cases of the conformance tests: a method, or an encoder, on a few tiny examples.

Weights and examples are in float64, where a gradient that should not be there stands out from
rounding errors.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from gim_bench import seeding
from gim_bench.contract import (
    UNLABELLED,
    Batch,
    Encoder,
    GradientFlow,
    Ingredients,
    Learner,
    Modality,
    Setup,
    Shape,
    Target,
)
from gim_bench.encoders.conv_gru import ConvGRUEncoder, ConvGRUSettings
from gim_bench.encoders.resnet import ResNetEncoder, ResNetSettings
from gim_bench.errors import ConfigError
from gim_bench.settings.augmentations import FRAME_SAMPLES
from gim_bench.settings.base import Settings
from gim_bench.settings.schema import EncoderSettings, Recompute
from gim_bench.settings.suites import parse

IMAGES, CLASSES = 8, 3
WINDOWS, SPEAKERS, PHONES = 6, 3, 5
EXAMPLES = {Modality.IMAGE: IMAGES, Modality.SPEECH: WINDOWS}

# Images of 32×32 pixels; windows of 0.2 s.
SHAPES: Mapping[Modality, Shape] = {Modality.IMAGE: (1, 32, 32), Modality.SPEECH: (3_200,)}

CLASS = Target(name="class", classes=[f"class {i}" for i in range(CLASSES)])
SPEAKER = Target(name="speaker", classes=[f"speaker {i}" for i in range(SPEAKERS)])
PHONE = Target(name="phone", classes=[f"phone {i}" for i in range(PHONES)], per_step=True)
TARGETS = {Modality.IMAGE: [CLASS], Modality.SPEECH: [SPEAKER, PHONE]}


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderCase:
    """An encoder, its settings, and the shape of the examples that it is tested on."""

    encoder: type[Encoder]
    options: EncoderSettings
    shape: Shape

    def __str__(self) -> str:
        return self.options.kind

    @property
    def modality(self) -> Modality:
        return self.encoder.modality

    @property
    def steps(self) -> int:
        """Steps of an example: 1 of an image, one every 10 ms of speech."""
        return 1 if self.modality is Modality.IMAGE else self.shape[0] // FRAME_SAMPLES

    def build(self, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Encoder:
        """The encoder that every method of the seed starts from."""
        with seeding.weights_from("encoder", seed):
            return self.encoder(self.options, shape=self.shape).to(dtype)

    def inputs(self, *, view: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
        """Noise of mean 0 and deviation 1; view 1 is half of each further view."""
        shape = (EXAMPLES[self.modality], *self.shape)
        first = torch.randn(shape, generator=seeding.generator("testing", self.modality))
        if view == 1:
            return first.to(dtype)
        own = torch.randn(shape, generator=seeding.generator("testing", self.modality, view))
        return ((first + own) / 2**0.5).to(dtype)

    def batch(self, *, views: int = 1, dtype: torch.dtype = torch.float64) -> Batch:
        """Labelled examples in `views` views; phones are unknown at the edges of recordings."""
        first, *further = (self.inputs(view=view, dtype=dtype) for view in range(1, views + 1))
        labels = {"class": torch.arange(IMAGES) % CLASSES}
        if self.modality is Modality.SPEECH:
            draw = seeding.generator("testing", "phones")
            phones = torch.randint(PHONES, (WINDOWS, self.steps), generator=draw)
            phones[:, 0] = UNLABELLED
            phones[1, self.steps // 2 :] = UNLABELLED
            labels = {"speaker": torch.arange(WINDOWS) % SPEAKERS, "phone": phones}
        return Batch(inputs=first, further=tuple(further), labels=labels)


# Fewer units than channels, so that a dimension taken for the other does not fit.
TINY: Mapping[Modality, EncoderCase] = {
    Modality.IMAGE: EncoderCase(
        encoder=ResNetEncoder,
        options=ResNetSettings(
            kind="resnet", width=4, blocks=(1, 1, 1), patch_size=8, patch_overlap=4
        ),
        shape=SHAPES[Modality.IMAGE],  # a grid of 7×7 patches
    ),
    Modality.SPEECH: EncoderCase(
        encoder=ConvGRUEncoder,
        options=ConvGRUSettings(kind="conv_gru", width=4, context=3),
        shape=SHAPES[Modality.SPEECH],  # 639, 159, 80, 41, 20 and 20 time steps
    ),
}


class Tiny(NamedTuple):
    """A learner on a tiny encoder, and the generators that the suite gave it."""

    learner: Learner
    generators: list[torch.Generator]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A method on a tiny encoder; a method that uses labels learns the target."""

    name: str
    method: type[Learner]
    options: Settings
    objective: Settings
    gradient_flow: GradientFlow
    target: Target
    on: EncoderCase

    def __str__(self) -> str:
        named = [self.name, str(self.on.modality), self.target.name]
        if self.gradient_flow is not self.method.traits.gradient_flow:
            named.append(str(self.gradient_flow))
        return "-".join(named)

    @property
    def modality(self) -> Modality:
        return self.on.modality

    @property
    def trains(self) -> bool:
        return self.gradient_flow is not GradientFlow.NONE

    @property
    def setup(self) -> Setup:
        """The setup that a suite of this case would give the method."""
        return Setup(
            encoder=self.on.encoder,
            encoder_options=self.on.options,
            shape=self.on.shape,
            objective=self.objective,
            gradient_flow=self.gradient_flow,
        )

    def build(
        self,
        *,
        seed: int = 0,
        recompute: Recompute = Recompute.NOTHING,
        compiled: bool = False,
        cuda_graphs: bool = False,
        dtype: torch.dtype = torch.float64,
        fitted: bool = True,
    ) -> Tiny:
        """The learner, built as a cell builds it and, without gradients, fitted."""
        given: list[torch.Generator] = []

        def stream(unit: str) -> torch.Generator:
            given.append(seeding.generator("negatives", self.name, seed, unit))
            return given[-1]

        ingredients = Ingredients(
            encoder=self.on.build(seed=seed, dtype=torch.float32),
            shape=self.on.shape,
            target=self.target,
            objective=self.objective,
            options=self.options,
            gradient_flow=self.gradient_flow,
            stream=stream,
            recompute=recompute,
            compiled=compiled,
            cuda_graphs=cuda_graphs,
        )
        with seeding.weights_from("heads", self.name, seed):
            learner = self.method(ingredients).to(dtype)
        if fitted and not self.trains:
            learner.fit_without_gradients([self.batch(dtype=dtype)])
        channels_last = torch.channels_last
        return Tiny(learner.to(memory_format=channels_last), given)  # type: ignore[call-overload]

    def batch(self, *, dtype: torch.dtype = torch.float64) -> Batch:
        """Labelled examples in as many views as the method takes."""
        return self.on.batch(views=self.method.traits.views, dtype=dtype)


def encoder_case(
    encoder: type[Encoder], *, options: Mapping[str, Any], shape: Shape | None = None
) -> EncoderCase:
    """The case of an encoder with these settings. Raises: ConfigError where they do not fit."""
    kinds = get_args(encoder.Options.model_fields["kind"].annotation)
    table = {"kind": kinds[0] if kinds else encoder.__name__, **options}
    return EncoderCase(
        encoder=encoder,
        options=parse(encoder.Options, table, origin="--encoder-option"),
        shape=shape or SHAPES[encoder.modality],
    )


def tiny_encoders(shape: Shape | None = None) -> list[EncoderCase]:
    """This package's encoders on tiny examples; with a `shape`, those that take such examples."""
    if shape is None:
        return list(TINY.values())
    return [replace(on, shape=shape) for on in TINY.values() if len(on.shape) == len(shape)]


def method_cases(
    method: type[Learner],
    *,
    name: str,
    encoders: Sequence[EncoderCase],
    options: Mapping[str, Any],
    objective: Mapping[str, Any],
) -> list[Case]:
    """A case for every encoder, gradient flow and target that the method declares.

    Raises: ConfigError where the options do not fit, or where the method refuses an encoder.
    """
    traits = method.traits
    flows = [traits.gradient_flow]
    if traits.either_flow:
        both = (GradientFlow.ISOLATED, GradientFlow.END_TO_END)
        flows += [flow for flow in both if flow is not traits.gradient_flow]
    settings = Settings if traits.objective is None else traits.objective.settings
    found = [
        Case(
            name=name,
            method=method,
            options=parse(method.Options, options, origin="--method-option"),
            objective=parse(settings, objective, origin="--objective-option"),
            gradient_flow=flow,
            target=target,
            on=on,
        )
        for on in encoders
        if on.modality in traits.modalities
        for flow in flows
        for target in TARGETS[on.modality][: None if traits.uses_labels else 1]
    ]
    if not found:
        raise ConfigError(
            f"the method {name!r} is made for {' and '.join(sorted(traits.modalities))}, and "
            f"no encoder to test it on takes that: name another with --encoder"
        )
    for case in found:
        method.check(case.options, setup=case.setup)
    return found


def rewinding(learner: Learner) -> Callable[[], None]:
    """A function that puts all generators of the learner, and PyTorch's own, back to now."""
    generators = [*learner.generators().values(), torch.default_generator]
    states = [generator.get_state() for generator in generators]

    def rewind() -> None:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)

    return rewind


def encodings_of(
    encoder: Encoder, inputs: Float[Tensor, "example *shape"]
) -> list[Float[Tensor, "example row column d"]]:
    """Every module's encodings as a grid, lowest first."""
    return list(encoder.grids(inputs))
