"""CPC's encoder of raw speech: strided convolutions and a GRU, each a module.

Letters: b = batch, t = time steps of a layer, d = channels; step = one of a window's 10 ms steps.
"""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from gim_bench.contract import STEP_CENTRE, Modality, Shape
from gim_bench.encoders.tiles import Reach, TiledEncoder, composed, spans
from gim_bench.hardware.devices import at_least_fp32, without_autocast
from gim_bench.settings.augmentations import FRAME_SAMPLES
from gim_bench.settings.base import NotNegative, PositiveInt
from gim_bench.settings.schema import EncoderSettings


class ConvGRUSettings(EncoderSettings):
    """Sizes of the strided convolutions and of the GRU; the defaults are the paper's."""

    kind: Literal["conv_gru"]
    width: PositiveInt = 512  # channels of every convolution
    context: PositiveInt = 256  # units of the GRU
    kernels: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (10, 8, 4, 4, 4)
    strides: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (5, 4, 2, 2, 2)
    paddings: Annotated[tuple[NotNegative, ...], Field(min_length=1)] = (2, 2, 2, 2, 1)

    @model_validator(mode="after")
    def _one_of_each_per_layer(self) -> "ConvGRUSettings":
        if not len(self.kernels) == len(self.strides) == len(self.paddings):
            raise ValueError("kernels, strides and paddings must have the same length")
        if prod(self.strides) != FRAME_SAMPLES:
            raise ValueError(
                f"the strides multiply to {prod(self.strides)} samples; their product must be "
                f"{FRAME_SAMPLES}, the 10 ms of a phone label"
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

    The GRU computes in fp32 under autocast, too. On GPUs PyTorch would run it in fp16, whatever
    the format asked for, and most of the small gradients would underflow.

    Without backpropagation through time, gradients stop at every h_{t-1}. The values of h are then
    computed without autograd, and one step of the GRU's cell is applied to all time steps at once.
    Values and gradients equal those of a loop over time.

    Source: Löwe et al. 2019, section 4.2 ("GIM without BPTT").
    """

    def __init__(self, in_channels: int, units: int) -> None:
        super().__init__()
        self.gru = nn.GRU(in_channels, units, batch_first=True)
        self.through_time = True

    def forward(self, x: Float[Tensor, "b d t"]) -> Float[Tensor, "b e t"]:
        with without_autocast(x.device):
            z = rearrange(x, "b d t -> b t d").to(next(self.gru.parameters()).dtype)
            # Both branches are the same function, but only `self.gru` gives the same last bits.
            whole = self.through_time or not torch.is_grad_enabled()
            c = self.gru(z)[0] if whole else self._step_by_step(z)
        return rearrange(c, "b t e -> b e t")

    def onwards(
        self, x: Float[Tensor, "b d t"], h: Float[Tensor, "1 b e"] | None
    ) -> tuple[Float[Tensor, "b e t"], Float[Tensor, "1 b e"]]:
        """Contexts of the time steps after the state h (None: 0), and the state at their end."""
        with without_autocast(x.device):
            z = rearrange(x, "b d t -> b t d").to(next(self.gru.parameters()).dtype)
            c, h = self.gru(z, h)
        return rearrange(c, "b t e -> b e t"), h

    def _step_by_step(self, z: Float[Tensor, "b t d"]) -> Float[Tensor, "b t e"]:
        with torch.no_grad():
            h = self.gru(z)[0]
        before = F.pad(h, (0, 0, 1, 0))[:, :-1]  # h_{t-1}, and h_0 = 0
        (weights,) = self.gru.all_weights
        c = torch.gru_cell(z.flatten(0, 1), before.flatten(0, 1), *weights)
        return c.view_as(h)


class ConvGRUEncoder(TiledEncoder):
    """Five strided convolutions and a GRU at the default settings: the paper's audio encoder.

    20,480 samples become 4095, 1023, 512, 257, 128 and 128 time steps. Table 5 prints kernel 1
    for the fifth convolution. Only kernel 4, as in the released code, gives 128 time steps.

    Source: Löwe et al. 2019, section 4.2 and appendix A.2.
    """

    modality = Modality.SPEECH
    Options = ConvGRUSettings

    def __init__(self, options: EncoderSettings, *, shape: Shape) -> None:
        super().__init__(options, shape=shape)
        assert isinstance(options, ConvGRUSettings)
        (samples,) = shape
        self.options = options
        self.window_steps = samples // FRAME_SAMPLES
        self.window_rows = self.rows(options, shape=shape)
        channels = [1, *[options.width] * len(options.kernels)]
        convolutions = [
            Convolution(channels[m], options.width, kernel=kernel, stride=stride, padding=padding)
            for m, (kernel, stride, padding) in enumerate(self.reaches)
        ]
        self.stages = nn.ModuleList([*convolutions, GRU(options.width, options.context)])
        self.dims: Sequence[int] = [*channels[1:], options.context]
        self.autoregressive = True
        for m, owner in enumerate(owners(options, samples=samples)):
            counts = _counts(owner, steps=self.window_steps)
            self.register_buffer(f"owner_{m}", owner, persistent=False)
            self.register_buffer(f"counts_{m}", counts, persistent=False)

    @classmethod
    def reaches_of(cls, options: EncoderSettings) -> Sequence[Reach]:
        assert isinstance(options, ConvGRUSettings)
        layers = zip(options.kernels, options.strides, options.paddings, strict=True)
        return [Reach(*layer) for layer in layers]

    @classmethod
    def rows(cls, options: EncoderSettings, *, shape: Shape) -> Sequence[int]:
        """Numbers of time steps: those of every convolution, then those of the GRU."""
        lengths = [*shape]
        for reach in cls.reaches_of(options):
            lengths.append(reach.outputs(lengths[-1]))
        return [*lengths[1:], lengths[-1]]

    def prepare(self, inputs: Float[Tensor, "b sample"]) -> Float[Tensor, "b 1 sample"]:
        return inputs.unsqueeze(1)

    def pool(self, activations: Tensor, *, batch_size: int) -> Float[Tensor, "b t 1 d"]:
        """The activations without pooling: every time step is a row of a grid of one column."""
        return rearrange(activations, "b d t -> b t 1 d")

    def steps(self, z: Float[Tensor, "b t 1 d"], *, module: int) -> Float[Tensor, "b step d"]:
        """For each 10 ms step of the window, the mean over the layer's time steps within it.

        Windows may be longer or shorter than those that the encoder is built for.
        """
        owner, counts = self._owner(module, rows=z.shape[1], device=z.device)
        inside = z.squeeze(2)[:, : len(owner)].to(at_least_fp32(z.dtype))
        sums = inside.new_zeros(z.shape[0], len(counts), z.shape[3])
        return sums.index_add_(1, owner, inside) / counts

    def grids_in_pieces(
        self, inputs: Float[Tensor, "b sample"], *, steps: int
    ) -> Iterator[tuple[slice, Iterator[Float[Tensor, "b t 1 d"]]]]:
        """See `EncodesInPieces`. A piece has a halo of samples on either side, and the GRU goes on
        with its state.
        """
        reach = composed(self.reaches)
        halo = -(-(reach.field + reach.padding) // FRAME_SAMPLES) + 1
        centre, _ = receptive_fields(self.options)[-1]
        later = int(_nearest_step(torch.tensor(centre)))  # than a GRU's time step, its 10 ms step
        total = inputs.shape[1] // FRAME_SAMPLES
        state: Tensor | None = None

        def grids(piece: Tensor, rows: slice) -> Iterator[Tensor]:
            nonlocal state
            activations = self.prepare(piece)
            for stage in self.stages[: len(self.reaches)]:
                activations = stage(activations)
                yield self.pool(activations, batch_size=len(piece))
            if self.autoregressive:
                gru = self.stages[-1]
                assert isinstance(gru, GRU)
                c = activations.new_zeros(len(piece), self.dims[-1], activations.shape[2])
                if (onwards := activations[..., rows]).shape[2]:
                    c[..., rows], state = gru.onwards(onwards, state)
                yield self.pool(c, batch_size=len(piece))

        for start, end in spans(total, size=steps):
            first, last = max(0, start - halo), end + halo
            piece = inputs[:, first * FRAME_SAMPLES :]
            if last < total:
                piece = piece[:, : (last - first) * FRAME_SAMPLES]
            new = slice(start - first, end - first)
            begin = max(0, new.start - later) if start else 0
            rows = slice(begin, max(0, new.stop - later) if end < total else None)
            yield new, grids(piece, rows)

    def _owner(
        self, module: int, *, rows: int, device: torch.device
    ) -> tuple[Int[Tensor, "t"], Int[Tensor, "step 1"]]:
        """The 10 ms step that each of a module's time steps belongs to, and the steps' counts."""
        if rows == self.window_rows[module]:
            return self.get_buffer(f"owner_{module}"), self.get_buffer(f"counts_{module}")
        _, advance = receptive_fields(self.options)[module]
        more = (rows - self.window_rows[module]) * advance // FRAME_SAMPLES
        steps = self.window_steps + more
        owner = owners(self.options, samples=steps * FRAME_SAMPLES)[module].to(device)
        return owner, _counts(owner, steps=steps)

    def without_autoregressor(self) -> "ConvGRUEncoder":
        """This encoder, after removing its GRU."""
        assert self.autoregressive
        self.stages = self.stages[:-1]
        self.dims = self.dims[:-1]
        self.autoregressive = False
        return self

    def without_bptt(self) -> "ConvGRUEncoder":
        """This encoder, whose GRU passes no gradient back through time from now on."""
        gru = self.stages[-1]
        assert isinstance(gru, GRU)
        gru.through_time = False
        return self


def receptive_fields(settings: ConvGRUSettings) -> list[tuple[float, int]]:
    """For each module: (centre of time step 0's receptive field, advance per step), in samples.

    At the default settings step i of the fifth convolution is centred at sample 160·i + 20 and sees
    465 samples. A step of the GRU has seen all earlier samples; its centre counts as that of its
    newest input.
    """
    reaches = ConvGRUEncoder.reaches_of(settings)
    seen = [composed(reaches[: m + 1]) for m in range(len(reaches))]
    fields = [((reach.field - 1) / 2 - reach.padding, reach.stride) for reach in seen]
    return [*fields, fields[-1]]


def owners(settings: ConvGRUSettings, *, samples: int) -> list[Int[Tensor, "t"]]:
    """For each module: the 10 ms step of the window to which each time step belongs.

    A time step belongs to the 10 ms step whose label's centre is nearest to the centre of the
    receptive field. Time steps beyond the window's last step are left out. Time steps before the
    window's first step, which large paddings make, belong to the first step.
    """
    lengths = ConvGRUEncoder.rows(settings, shape=(samples,))
    of_modules = []
    for (centre, advance), length in zip(receptive_fields(settings), lengths, strict=True):
        # On the CPU also where the encoder is only sketched, on the device "meta". In fp32 the
        # centres of an hour's time steps would be rounded by up to 4 samples.
        centres = centre + advance * torch.arange(length, device="cpu", dtype=torch.float64)
        owner = _nearest_step(centres).clamp(min=0)
        of_modules.append(owner[owner < samples // FRAME_SAMPLES])
    return of_modules


def _nearest_step(centres: Float[Tensor, "*t"]) -> Int[Tensor, "*t"]:
    """The 10 ms step whose label's centre is nearest; below 0 before the window."""
    return ((centres - STEP_CENTRE) / FRAME_SAMPLES + 0.5).floor().long()


def _counts(owner: Int[Tensor, "t"], *, steps: int) -> Int[Tensor, "step 1"]:
    """The number of time steps that belong to each 10 ms step, at least 1."""
    return torch.bincount(owner, minlength=steps).clamp(min=1).unsqueeze(1)
