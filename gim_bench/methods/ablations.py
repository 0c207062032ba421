"""GIM on speech with less of the autoregressor: without backpropagation through time, without it.

Source: Löwe et al. 2019, section 4.2 and Table 4.
"""

from dataclasses import replace

from gim_bench.contract import Encoder, Modality, Setup
from gim_bench.encoders.conv_gru import ConvGRUEncoder
from gim_bench.errors import ConfigError
from gim_bench.methods.gim import GreedyInfoMax
from gim_bench.settings.base import Settings


class GRUAblation(GreedyInfoMax):
    """GIM with a changed GRU: for the encoder that has one."""

    @classmethod
    def check(cls, options: Settings, *, setup: Setup) -> None:
        super().check(options, setup=setup)
        if not issubclass(setup.encoder, ConvGRUEncoder):
            raise ConfigError(
                f"{cls.__name__} changes the GRU of the encoder conv_gru, and the suite's encoder "
                f"is {setup.encoder_options.kind!r}: leave the method out"
            )


class GreedyInfoMaxWithoutBPTT(GRUAblation):
    """GIM whose GRU passes no gradient from one time step to the one before."""

    traits = replace(
        GreedyInfoMax.traits,
        modalities=frozenset({Modality.SPEECH}),
        ablation="no backpropagation through time in the GRU",
    )

    @classmethod
    def adapted(cls, encoder: Encoder) -> Encoder:
        assert isinstance(encoder, ConvGRUEncoder)
        return encoder.without_bptt()


class GreedyInfoMaxWithoutAutoregressor(GRUAblation):
    """GIM without the GRU: the probe reads the topmost convolution."""

    traits = replace(
        GreedyInfoMax.traits,
        modalities=frozenset({Modality.SPEECH}),
        ablation="no GRU",
    )
    left_out = 1

    @classmethod
    def adapted(cls, encoder: Encoder) -> Encoder:
        assert isinstance(encoder, ConvGRUEncoder)
        return encoder.without_autoregressor()
