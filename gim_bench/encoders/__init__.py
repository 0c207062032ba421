"""Encoders of this package, by the kind that a suite names. Listing them imports none.

To add an encoder: write its file, add a line here.
"""

ENCODERS = {
    "resnet": "gim_bench.encoders.resnet:ResNetEncoder",
    "conv_gru": "gim_bench.encoders.conv_gru:ConvGRUEncoder",
}
