"""Data sets of this package, by name. Classes are named by text, so that listing them imports none.

To add a data set: write its file, add a line here.
"""

DATASETS = {
    "photos": "gim_bench.datasets.photos:Photos",
    "random_images": "gim_bench.datasets.random_images:RandomImages",
    "stl10": "gim_bench.datasets.stl10:STL10",
    "image_folder": "gim_bench.datasets.image_folder:ImageFolder",
    "espeak": "gim_bench.datasets.espeak:Espeak",
    "librispeech": "gim_bench.datasets.librispeech:LibriSpeech",
    "audio_folder": "gim_bench.datasets.audio_folder:AudioFolder",
}
