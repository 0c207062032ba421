"""CPC's encoder of raw speech: strided convolutions, each a module, and a GRU above them.

Letters: b = batch, t = time steps of a layer, d = channels; step = one of a window's 10 ms steps.
"""

from collections.abc import Sequence
from math import prod
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from gim_bench.contract import STEP_CENTRE, Encoder, Modality, Shape
from gim_bench.hardware.devices import at_least_fp32
from gim_bench.settings.augmentations import FRAME_SAMPLES
from gim_bench.settings.base import NotNegative, PositiveInt
from gim_bench.settings.schema import EncoderSettings


class ConvGRUSettings(EncoderSettings):
    """The paper's strided convolutions, each a module, and a GRU above them."""

    kind: Literal["conv_gru"]
    width: PositiveInt = 512  # channels of every convolution
    context: PositiveInt = 256  # units of the GRU
    kernels: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (10, 8, 4, 4, 4)
    strides: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (5, 4, 2, 2, 2)
    paddings: Annotated[tuple[NotNegative, ...], Field(min_length=1)] = (2, 2, 2, 2, 1)

    @model_validator(mode="after")
    def _one_of_each_per_layer(self) -> "ConvGRUSettings":
        if not len(self.kernels) == len(self.strides) == len(self.paddings):
            raise ValueError("kernels, strides and paddings must name as many layers")
        if prod(self.strides) != FRAME_SAMPLES:
            raise ValueError(
                f"the strides multiply to {prod(self.strides)} samples where the top layer must "
                f"advance by {FRAME_SAMPLES}, the 10 ms of a phone label"
            )
        return self


class Convolution(nn.Module):
    """A strided convolution over time and a ReLU."""

    def __init__(
        self, in_channels: int, width: int, *, kernel: int, stride: int, padding: int
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, width, kernel, stride=stride, padding=padding)

    def forward(self, x: Float[Tensor, "b d t"]) -> Float[Tensor, "b e u"]:
        return F.relu(self.conv(x), inplace=True)


class GRU(nn.Module):
    """A single-layer GRU over time: c_t = g_ar(z_t, h_{t-1}).

    It computes in fp32 under autocast, too: on GPUs PyTorch would run it in fp16, whatever format
    is asked for, and lose most of its gradients, which are small, to underflow.

    Without backpropagation through time, gradients stop at every h_{t-1}. Its values are then
    computed once without autograd, and one step of the GRU's cell is applied to all time steps
    together: the values and gradients of the loop over time, without the loop.

    Source: Löwe et al. 2019, section 4.2 ("GIM without BPTT").
    """

    def __init__(self, in_channels: int, units: int) -> None:
        super().__init__()
        self.gru = nn.GRU(in_channels, units, batch_first=True)
        self.through_time = True

    def forward(self, x: Float[Tensor, "b d t"]) -> Float[Tensor, "b e t"]:
        with torch.autocast(x.device.type, enabled=False):
            z = rearrange(x, "b d t -> b t d").to(next(self.gru.parameters()).dtype)
            # Without autograd both are the same function; only one is the same to the last bit.
            whole = self.through_time or not torch.is_grad_enabled()
            c = self.gru(z)[0] if whole else self._step_by_step(z)
        return rearrange(c, "b t e -> b e t")

    def _step_by_step(self, z: Float[Tensor, "b t d"]) -> Float[Tensor, "b t e"]:
        with torch.no_grad():
            h = self.gru(z)[0]
        before = F.pad(h, (0, 0, 1, 0))[:, :-1]  # h_{t-1}, and h_0 = 0
        (weights,) = self.gru.all_weights
        c = torch.gru_cell(z.flatten(0, 1), before.flatten(0, 1), *weights)
        return c.view_as(h)


class ConvGRUEncoder(Encoder):
    """The paper's audio encoder at its default settings: five convolutions and a GRU.

    20,480 samples become 4095, 1023, 512, 257, 128 and 128 time steps. (Table 5 prints kernel 1
    for the fifth convolution; only 4, as in the released code, gives 128.)

    Source: Löwe et al. 2019, section 4.2 and appendix A.2.
    """

    modality = Modality.SPEECH
    Options = ConvGRUSettings

    def __init__(self, options: EncoderSettings, *, shape: Shape) -> None:
        super().__init__(options, shape=shape)
        assert isinstance(options, ConvGRUSettings)
        (samples,) = shape
        self.window_steps = samples // FRAME_SAMPLES
        channels = [1, *[options.width] * len(options.kernels)]
        layers = zip(options.kernels, options.strides, options.paddings, strict=True)
        convolutions = [
            Convolution(channels[m], options.width, kernel=kernel, stride=stride, padding=padding)
            for m, (kernel, stride, padding) in enumerate(layers)
        ]
        self.stages = nn.ModuleList([*convolutions, GRU(options.width, options.context)])
        self.dims: Sequence[int] = [*channels[1:], options.context]
        self.autoregressive = True
        for m, owner in enumerate(owners(options, samples=samples)):
            counts = torch.bincount(owner, minlength=self.window_steps).clamp(min=1)
            self.register_buffer(f"owner_{m}", owner, persistent=False)
            self.register_buffer(f"counts_{m}", counts.unsqueeze(1), persistent=False)

    @classmethod
    def rows(cls, options: EncoderSettings, *, shape: Shape) -> Sequence[int]:
        """Time steps of every convolution, and of the GRU on the last."""
        assert isinstance(options, ConvGRUSettings)
        lengths = [*shape]
        for kernel, stride, padding in zip(
            options.kernels, options.strides, options.paddings, strict=True
        ):
            lengths.append(max(0, (lengths[-1] + 2 * padding - kernel) // stride + 1))
        return [*lengths[1:], lengths[-1]]

    def prepare(self, inputs: Float[Tensor, "b sample"]) -> Float[Tensor, "b 1 sample"]:
        return inputs.unsqueeze(1)

    def pool(self, activations: Tensor, *, batch_size: int) -> Float[Tensor, "b t 1 d"]:
        """Nothing is pooled: every time step is a row of a grid of one column."""
        return rearrange(activations, "b d t -> b t 1 d")

    def steps(self, z: Float[Tensor, "b t 1 d"], *, module: int) -> Float[Tensor, "b step d"]:
        """The mean over a layer's time steps that belong to each 10 ms step of the window."""
        owner = self.get_buffer(f"owner_{module}")
        inside = z.squeeze(2)[:, : len(owner)].to(at_least_fp32(z.dtype))
        sums = inside.new_zeros(len(z), self.window_steps, z.shape[3])
        return sums.index_add_(1, owner, inside) / self.get_buffer(f"counts_{module}")

    def without_autoregressor(self) -> "ConvGRUEncoder":
        """This encoder, its GRU taken away."""
        assert self.autoregressive
        self.stages = self.stages[:-1]
        self.dims = self.dims[:-1]
        self.autoregressive = False
        return self

    def without_bptt(self) -> "ConvGRUEncoder":
        """This encoder, with a GRU that passes no gradient back through time."""
        gru = self.stages[-1]
        assert isinstance(gru, GRU)
        gru.through_time = False
        return self


def receptive_fields(settings: ConvGRUSettings) -> list[tuple[float, int]]:
    """For each module: (sample at the centre of time step 0's receptive field, samples a step).

    A layer of kernel k, stride s and padding p on top of a layer with centre c and step j has its
    own centre at c + j·((k - 1)/2 - p) and advances by j·s. At the default settings the fifth
    convolution's step i is centred at sample 160·i + 20, and sees 465 samples. A GRU's step has
    seen all that came before; its centre is taken to be that of its newest input.
    """
    centre, advance = 0.0, 1
    fields = []
    for kernel, stride, padding in zip(
        settings.kernels, settings.strides, settings.paddings, strict=True
    ):
        centre += advance * ((kernel - 1) / 2 - padding)
        advance *= stride
        fields.append((centre, advance))
    return [*fields, fields[-1]]


def owners(settings: ConvGRUSettings, *, samples: int) -> list[Int[Tensor, "t"]]:
    """For each module: the 10 ms step of the window that each of its time steps belongs to.

    It is the step whose label is centred nearest to the centre of the receptive field; time steps
    nearest to a label beyond the window's last step are left out, those that large paddings put
    before its first step are counted to that.
    """
    lengths = ConvGRUEncoder.rows(settings, shape=(samples,))
    found = []
    for (centre, advance), length in zip(receptive_fields(settings), lengths, strict=True):
        centres = centre + advance * torch.arange(length)
        owner = ((centres - STEP_CENTRE) / FRAME_SAMPLES + 0.5).floor().long().clamp(min=0)
        found.append(owner[owner < samples // FRAME_SAMPLES])
    return found
