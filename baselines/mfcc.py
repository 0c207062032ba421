"""Mel-frequency cepstral coefficients."""

from collections.abc import Mapping
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from baselines.fixed_features import FixedFeatures, fixed_traits
from gim_bench.contract import FRAME_WINDOW_SAMPLES, SAMPLE_RATE_HZ, Ingredients, Modality
from gim_bench.settings.augmentations import FRAME_SAMPLES
from gim_bench.settings.base import Settings


class MFCC(FixedFeatures):
    """Cepstral coefficients of 25 ms every 10 ms, with their deltas: nothing is learnt.

    Frame t covers exactly the samples of label t. The GIM paper quotes numbers from the CPC paper,
    whose computation of MFCC features is not published. Speech recognition has used 13
    coefficients with first and second differences (39 in all) since the 1980s.

    Source: van den Oord et al. 2018, section 3.1; Löwe et al. 2019, Table 3.
    """

    traits = fixed_traits(Modality.SPEECH)

    class Options(Settings):
        """Number of coefficients, and whether their differences over time are added."""

        coefficients: Annotated[int, Field(gt=0, le=40)] = 13
        deltas: bool = True

    def __init__(self, ingredients: Ingredients) -> None:
        super().__init__(ingredients)
        from torchaudio import transforms  # takes a second to import

        options = ingredients.options
        assert isinstance(options, self.Options)
        self.deltas = options.deltas
        self.transform = transforms.MFCC(
            sample_rate=SAMPLE_RATE_HZ,
            n_mfcc=options.coefficients,
            # The alternative, decibels, is clipped relative to the loudest example of the batch.
            log_mels=True,
            melkwargs={
                "n_fft": FRAME_WINDOW_SAMPLES,
                "hop_length": FRAME_SAMPLES,
                "n_mels": 40,
                "center": False,
            },
        )

    @torch.no_grad()
    def features(
        self, inputs: Float[Tensor, "example sample"]
    ) -> Mapping[str, Float[Tensor, "example step d"]]:
        from torchaudio.functional import compute_deltas

        # The label of step 0 begins before the window's first sample, and the label of the last
        # step ends beyond the last sample: both ends are padded with silence.
        with torch.autocast(inputs.device.type, enabled=False):  # the spectrum needs fp32
            after = FRAME_WINDOW_SAMPLES - 2 * FRAME_SAMPLES
            parts = [self.transform(F.pad(inputs, (FRAME_SAMPLES, after)))]
            if self.deltas:
                parts.append(compute_deltas(parts[-1]))
                parts.append(compute_deltas(parts[-1]))
        return {"module_1": torch.cat(parts, dim=1).transpose(1, 2)}
