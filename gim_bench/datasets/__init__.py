"""Data sets of this package, by name. Classes are named by text, so a list imports no class.

To add a data set: write its file, add a line here.
"""

DATASETS = {
    "digits": "gim_bench.datasets.images.digits:Digits",
    "photos": "gim_bench.datasets.images.photos:Photos",
    "large_images": "gim_bench.datasets.images.large_folder:LargeImageFolder",
    "mosaics": "gim_bench.datasets.images.mosaics:Mosaics",
    "random_images": "gim_bench.datasets.images.random_images:RandomImages",
    "stl10": "gim_bench.datasets.images.stl10:STL10",
    "image_folder": "gim_bench.datasets.images.image_folder:ImageFolder",
    "espeak": "gim_bench.datasets.speech.espeak:Espeak",
    "librispeech": "gim_bench.datasets.speech.librispeech:LibriSpeech",
    "audio_folder": "gim_bench.datasets.speech.audio_folder:AudioFolder",
}
