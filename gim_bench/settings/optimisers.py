"""Settings of the optimisers and of the schedules of the learning rate.

`[training.optimiser]` names an optimiser, `[training.rate_schedule]` the course of its rate. The
rate itself is `training.learning_rate`; `training.schedule` is the schedule of backward passes.
"""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from gim_bench.settings.base import PositiveFloat, Settings

NotNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Exclusion = Literal["biases", "norms"]
# Sorted, so that the order in a file changes no key.
Exclusions = Annotated[tuple[Exclusion, ...], AfterValidator(lambda each: tuple(sorted(set(each))))]


class _Decay(Settings):
    """Weight decay, and the parameters that are left out of the decay."""

    weight_decay: NotNegativeFloat = 0.0
    excludes: Exclusions = ("biases", "norms")


class _Adaptive(_Decay):
    """Settings that Adam and AdamW share; the defaults are PyTorch's."""

    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8


class AdamSettings(_Adaptive):
    """Adam (Kingma and Ba 2014); weight decay is an L2 penalty, part of the gradient."""

    kind: Literal["adam"] = "adam"


class AdamWSettings(_Adaptive):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    kind: Literal["adamw"] = "adamw"


class SGDSettings(_Decay):
    """Gradient descent with momentum; weight decay is an L2 penalty, part of the gradient."""

    kind: Literal["sgd"] = "sgd"
    momentum: Momentum = 0.9
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> "SGDSettings":
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov = true needs a momentum above 0: set momentum, say to 0.9")
        return self


class LARSSettings(_Decay):
    """Layer-wise adaptive rate scaling (You et al. 2017); `excludes` holds for the scaling, too."""

    kind: Literal["lars"] = "lars"
    momentum: Momentum = 0.9
    trust_coefficient: PositiveFloat = 1e-3  # η in the paper


OptimiserSettings = Annotated[
    AdamSettings | AdamWSettings | SGDSettings | LARSSettings, Field(discriminator="kind")
]


class ConstantRate(Settings):
    """The learning rate as it stands, at every step."""

    kind: Literal["constant"] = "constant"


class CosineRate(Settings):
    """A linear warm-up from 0, then half a cosine down to a share of the learning rate."""

    kind: Literal["cosine"] = "cosine"
    warmup_epochs: NotNegativeFloat = 0.0
    final_share: Share = 0.0  # of the learning rate, at the end of training


class StepsRate(Settings):
    """The rate is multiplied by `factor` once each number of epochs in `at` is over.

    PredSim (Nøkland and Eidnes 2019): by 0.25 after 200, 300, 350 and 375 of 400 epochs.
    """

    kind: Literal["steps"] = "steps"
    at: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]  # epochs
    factor: PositiveFloat

    @model_validator(mode="after")
    def _in_order(self) -> "StepsRate":
        if any(later <= earlier for earlier, later in pairwise(self.at)):
            raise ValueError(f"at = {list(self.at)} must increase from each epoch to the next")
        return self


RateSettings = Annotated[ConstantRate | CosineRate | StepsRate, Field(discriminator="kind")]


def check_rate_fits(rate: RateSettings, *, epochs: int) -> None:
    """Raises: ValueError where training is over before the last change in the rate's course."""
    match rate:
        case CosineRate(warmup_epochs=last) if last >= epochs > 0:
            setting = "warmup_epochs"
        case StepsRate(at=(*_, last)) if last >= epochs > 0:
            setting = "at"
        case _:
            return
    raise ValueError(
        f"rate_schedule.{setting} reaches epoch {last:g}, but training is over after {epochs}: "
        f"lower rate_schedule.{setting} or raise training.epochs"
    )
