"""Encoders of this package, by the kind that a suite names. Listing encoders imports no module.

To add an encoder, write its file and add a line here.
"""

ENCODERS = {
    "resnet": "gim_bench.encoders.resnet:ResNetEncoder",
    "batch_norm_resnet": "gim_bench.encoders.batch_norm_resnet:BatchNormResNet",
    "vgg8b": "gim_bench.encoders.vgg8b:VGG8b",
    "conv_gru": "gim_bench.encoders.conv_gru:ConvGRUEncoder",
    "folded_convnet": "gim_bench.encoders.folded_convnet:FoldedConvNet",
    "pyramid": "gim_bench.encoders.pyramid:Pyramid",
}
