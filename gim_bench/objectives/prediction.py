"""Predicting the places below each place of a grid: patches, or later time steps.

Letters: k = prediction step, d = channels of z, e = channels of c; anchor = a place that predicts.
"""

from abc import ABC, abstractmethod

import torch
from einops import rearrange
from jaxtyping import Float, Shaped
from pydantic import model_validator
from torch import Tensor, nn

from gim_bench.hardware.devices import at_least_fp32
from gim_bench.settings.base import NotNegative, PositiveInt, Settings


class PredictionSettings(Settings):
    """The task: predict `prediction_steps` rows below an anchor, after skipped rows."""

    prediction_steps: PositiveInt = 5
    skip_rows: NotNegative = 1
    anchor_rows: PositiveInt | None = None  # consecutive rows that predict; None: all rows
    # Targets lie among the `anchor_rows`, so that fewer rows predict further steps.
    targets_in_window: bool = False

    @model_validator(mode="after")
    def _window_has_room(self) -> "PredictionSettings":
        """Raises: ValueError where targets lie in a window without room for them."""
        if self.targets_in_window and (self.anchor_rows or 0) < self.rows:
            raise ValueError(
                f"targets_in_window needs anchor_rows of {self.rows} or more, for "
                f"{self.prediction_steps} steps past {self.skip_rows} skipped row(s); anchor_rows "
                f"is {self.anchor_rows}"
            )
        return self

    @property
    def rows(self) -> int:
        """Number of rows that a grid needs so that every prediction step has a target."""
        return self.skip_rows + self.prediction_steps + 1


class PredictionHead(nn.Module, ABC):
    """Predicts z in the rows below from c with one matrix W_k for each step k.

    The score of an encoding z for an anchor is z^T W_k c. Subclasses make a loss of scores.

    Source: Löwe et al. 2019, Eq. 3; Illing et al. 2021, Eq. 2.
    """

    def __init__(
        self, *, z_dim: int, c_dim: int, settings: PredictionSettings, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.settings = settings
        self.generator = generator
        # W_1 … W_K one below the other.
        self.predictors = nn.Linear(c_dim, settings.prediction_steps * z_dim, bias=False)

    @property
    @abstractmethod
    def uninformed_loss(self) -> float:
        """Loss of a predictor whose weights are 0."""

    def by_step(
        self, predictions: Float[Tensor, "example i column kd"]
    ) -> Float[Tensor, "example i column k d"]:
        """Outputs of `predictors` as W_k c for each step, in fp32 or wider, as scores need it."""
        by_step = rearrange(predictions, "... (k d) -> ... k d", k=self.settings.prediction_steps)
        return by_step.to(at_least_fp32(predictions.dtype))

    def below(
        self, targets: Shaped[Tensor, "example row column d"], *, anchors: Tensor, k: int
    ) -> Shaped[Tensor, "example i column d"]:
        """The encodings that anchors predict at step k: row i of them is for row i of anchors.

        Anchors without a target, which are the lowest, have no row.
        """
        return targets[:, self.settings.skip_rows + k :][:, : anchors.shape[1]]

    def _window(
        self, z: Shaped[Tensor, "example row column d"], c: Shaped[Tensor, "_ row column e"]
    ) -> tuple[Tensor, Tensor]:
        """(rows of z to predict, rows of c that predict), both beginning with the same row.

        All rows of c with a target predict. If the grid is taller than `anchor_rows` and their
        targets, `anchor_rows` rows predict, from a random row on that all examples share. If
        targets lie in the window, the window begins anywhere but in the last row that it could, as
        in GIM's released code.
        """
        wanted, skipped = self.settings.anchor_rows, self.settings.skip_rows
        if wanted is not None:
            inside = self.settings.targets_in_window
            reach = wanted if inside else wanted + skipped + self.settings.prediction_steps
            if z.shape[1] > reach:
                device = z.device
                starts = z.shape[1] - reach + (0 if inside else 1)
                first = torch.randint(starts, (1,), generator=self.generator, device=device)
                # The CPU never reads the row, because the read would wait for a GPU.
                targets = z.index_select(1, first + torch.arange(reach, device=device))
                predicting = wanted - skipped - 1 if inside else wanted
                return targets, c.index_select(1, first + torch.arange(predicting, device=device))
        return z, c[:, : z.shape[1] - skipped - 1]
