"""GIM on speech with less of the autoregressor: without backpropagation through time, without it.

Source: Löwe et al. 2019, section 4.2 and Table 4.
"""

from dataclasses import replace

from gim_bench.contract import Encoder, Modality
from gim_bench.encoders.conv_gru import ConvGRUEncoder
from gim_bench.methods.gim import GreedyInfoMax


class GreedyInfoMaxWithoutBPTT(GreedyInfoMax):
    """GIM whose GRU passes no gradient from one time step to the one before."""

    traits = replace(
        GreedyInfoMax.traits,
        modalities=frozenset({Modality.SPEECH}),
        ablation="no backpropagation through time in the GRU",
    )

    def adapted(self, encoder: Encoder) -> Encoder:
        assert isinstance(encoder, ConvGRUEncoder)
        return encoder.without_bptt()


class GreedyInfoMaxWithoutAutoregressor(GreedyInfoMax):
    """GIM without the GRU: the probe reads the topmost convolution."""

    traits = replace(
        GreedyInfoMax.traits,
        modalities=frozenset({Modality.SPEECH}),
        ablation="no GRU",
    )

    def adapted(self, encoder: Encoder) -> Encoder:
        assert isinstance(encoder, ConvGRUEncoder)
        return encoder.without_autoregressor()
