"""Encoders written for people without gim_bench."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import gim_bench
from gim_bench.api.card import UNKNOWN, model_card
from gim_bench.api.encoders import WEIGHTS, Trained
from gim_bench.api.standalone import CONSTANTS, standalone
from gim_bench.cells.run import run_cell
from gim_bench.contract import Images
from gim_bench.datasets.images.crops import ImageBatches
from gim_bench.errors import ConfigError
from gim_bench.records.folder import RECORD, RunsFolder
from gim_bench.records.predictions import PREDICTIONS
from gim_bench.settings.augmentations import CropSettings, RegionSettings, WindowSettings
from tests.conftest import encoder_cases
from tests.tiny_suite import SPEECH_TOML, noise_registered, tiny_bench, tiny_cell, tiny_suite
from tests.toys import ToyEncoder, ToySettings

pytestmark = pytest.mark.usefixtures("sizes_need_not_be_ints")

# Encoders whose operations the cell's ResNet has not: a GRU, a fold, dropout and a hidden layer.
UNLIKE_RESNET = {"conv_gru", "folded_convnet", "vgg8b"}

# A process of a stranger: gim_bench cannot be imported, and nothing can be unpickled.
STRANGER = """
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"gim_bench", "baselines", "tests", "einops", "jaxtyping"}:
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Refused())
import importlib.util
import pathlib
import torch
from safetensors.torch import load_file, save_file

def refuse(*arguments, **options):
    raise AssertionError("unpickled")

torch.load = refuse
for folder in map(pathlib.Path, sys.argv[1:]):
    spec = importlib.util.spec_from_file_location("encoder", folder / "encoder.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    encoder = module.Encoder()
    with torch.no_grad():
        for name, examples in load_file(folder / "examples").items():
            save_file({k: v.contiguous() for k, v in encoder(examples).items()}, folder / name)
"""


def read_by_a_stranger(*folders):
    """{batch: features} of each folder, in which `examples` holds batches."""
    subprocess.run(
        [sys.executable, "-c", STRANGER, *map(str, folders)],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        cwd=folders[0],
        check=True,
    )
    return [{b: load_file(f / b) for b in load_file(f / "examples")} for f in folders]


def same_features(found, trained, batches):
    for name, examples in batches.items():
        ours = gim_bench.features(trained, examples.numpy())
        assert list(found[name]) == list(ours)
        for module, values in ours.items():
            np.testing.assert_allclose(found[name][module].numpy(), values, rtol=0, atol=1e-6)


def images(*counts, channels=3, size=26):
    draw = torch.Generator().manual_seed(0)
    shape = (channels, size, size + 1)
    return {
        f"batch of {n}": torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=draw)
        for n in counts
    }


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """The folders of two finished cells, which differ in their seed."""
    folder = tmp_path_factory.mktemp("finished")
    suite = tiny_suite(folder)
    bench, runs = tiny_bench(suite), RunsFolder(folder / "runs")
    records = [run_cell(tiny_cell(suite, "gim", seed=s), bench, runs=runs) for s in (0, 1)]
    return [runs.folder_of(record) for record in records]


@pytest.fixture(scope="module")
def exported(cells, tmp_path_factory, sizes_need_not_be_ints):
    return gim_bench.export(
        cells[0], tmp_path_factory.mktemp("export") / "gim", licence="cc-by-4.0"
    )


def trained(case):
    """The encoder of a case with random weights, as `load` would give it."""
    torch.manual_seed(0)
    module = case.encoder(case.options, shape=case.shape).eval()
    channels, *_ = case.shape
    if len(case.shape) == 1:
        return Trained(
            module=module,
            record=None,
            augmentation=WindowSettings(kind="window", samples=channels),
        )
    augmentation = CropSettings(
        kind="crop",
        crop=case.shape[1],
        grayscale=channels == 1,
        mean=(0.4,) * channels,
        std=(0.2,) * channels,
    )
    return Trained(module=module, record=None, augmentation=augmentation)


def written(encoder, folder):
    """The folder with the encoder's file and what it reads."""
    folder.mkdir()
    found = standalone(encoder, title=folder.name)
    (folder / "encoder.py").write_text(found.source)
    if found.constants is not None:
        (folder / CONSTANTS).write_bytes(found.constants)
    save_file(encoder.module.state_dict(), folder / "encoder.safetensors")
    return folder


def test_exported_encoders_compute_the_same_without_gim_bench(exported, cells, tmp_path):
    """For batches of any size, images in gray, and images larger than the crop."""
    every = {str(case): case for case in encoder_cases() if str(case) in UNLIKE_RESNET}
    encoders = {name: trained(case) for name, case in every.items()}
    folders = {name: written(encoder, tmp_path / name) for name, encoder in encoders.items()}
    given = {}
    for name, case in every.items():
        speech = torch.arange(-3 * 3200, 0).reshape(3, -1)[:, : case.shape[0]].to(torch.int16)
        given[name] = {"3": speech} if len(case.shape) == 1 else images(3, size=case.shape[1])
    encoders["cell"], folders["cell"] = gim_bench.load(cells[0]), exported
    given["cell"] = {**images(1, 2, 7), "gray": images(3, channels=1)["batch of 3"]}
    for name, batches in given.items():
        save_file({k: v.contiguous() for k, v in batches.items()}, folders[name] / "examples")
    for folder in folders.values():  # it runs on any device
        assert "cpu" not in (folder / "encoder.py").read_text().partition("\ndef graph")[2]
    found = read_by_a_stranger(*(folders[name] for name in given))
    for name, features in zip(given, found, strict=True):
        same_features(features, encoders[name], given[name])


def test_an_export_loads_again(exported, cells):
    examples = images(4)["batch of 4"].numpy()
    ours, theirs = (
        gim_bench.features(gim_bench.load(folder), examples) for folder in (exported, cells[0])
    )
    for name, values in theirs.items():
        np.testing.assert_array_equal(ours[name], values)


def test_the_card_begins_with_what_hugging_face_reads(exported, cells):
    _, front, _ = (exported / "README.md").read_text().split("---\n", 2)
    fields = yaml.safe_load(front)
    record = gim_bench.load(cells[0]).record
    assert (fields["license"], fields["library_name"]) == ("cc-by-4.0", "gim_bench")
    ((result,),) = (each["results"] for each in fields["model-index"])
    assert result["dataset"]["type"] == "photos"
    assert [metric["value"] for metric in result["metrics"]] == [
        round(record.metrics[f"accuracy/module_{m}"], 4) for m in (1, 2)
    ]


def test_the_card_has_numbers_with_intervals_and_where_they_come_from(exported, cells):
    text = (exported / "README.md").read_text()
    records = [gim_bench.load(folder).record for folder in cells]
    for m in (1, 2):
        first, second = (record.metrics[f"accuracy/module_{m}"] for record in records)
        mean = (first + second) / 2
        row = next(line for line in text.splitlines() if f"| class, module {m} |" in line)
        assert f"| {first:.2f} ± " in row
        assert f"| {mean:.2f} ± " in row
    facts = records[0].provenance
    assert str(facts["git_commit"] or "unknown") in text
    assert facts["versions"]["torch"] in text
    assert records[0].key in text
    assert "The weights: cc-by-4.0." in text
    assert records[0].protocol in text
    steps = records[0].metrics["train/steps"]
    assert f"seed 0, {steps:.0f} steps of training." in text
    assert "An encoder of 2 modules of the row `gim`, on the data set `photos`" in text
    assert "The probes read the features." in text
    assert (
        "± is half of a 95 % interval: over the choice of the test examples for this encoder, over "
        "seeds and the choice of the test examples for the mean."
    ) in text


def copied(cell, folder, *files):
    """The files of a cell in a new folder."""
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).write_bytes((cell / name).read_bytes())
    return folder


def card_of(folder):
    return model_card(gim_bench.load(folder), folder=folder, licence=UNKNOWN)


def test_the_card_of_one_seed_has_no_mean(cells, tmp_path):
    text = card_of(copied(cells[0], tmp_path / "seed-0", RECORD, WEIGHTS, PREDICTIONS))
    assert "mean of" not in text
    assert "The weights: not stated." in text
    assert (
        "± is half of a 95 % interval: over the choice of the test examples for this encoder.\n"
    ) in text


def test_the_card_names_no_interval_that_needs_missing_predictions(cells, tmp_path):
    alone = copied(cells[0], tmp_path / "seed-0", RECORD, WEIGHTS)
    missing = "the predictions of the record do not lie beside it."
    text = card_of(alone)
    assert f"There is no interval: {missing}" in text
    assert "±" not in text
    copied(cells[1], tmp_path / "seed-1", RECORD, WEIGHTS, PREDICTIONS)
    assert (
        f"± is half of a 95 % interval: over seeds for the mean. This encoder has no interval: "
        f"{missing}"
    ) in card_of(alone)


@pytest.mark.parametrize(
    ("method", "training", "tags"),
    [
        ("gim", "{} steps of training", ["self-supervised-learning", "local-learning"]),
        ("cpc", "{} steps of training", ["self-supervised-learning"]),
        ("supervised", "{} steps of training", ["supervised-learning"]),
        ("greedy_supervised", "{} steps of training", ["supervised-learning", "local-learning"]),
        ("random_init", "untrained", []),
    ],
)
def test_the_card_says_how_the_encoder_was_trained(method, training, tags, tmp_path):
    suite = tiny_suite(tmp_path, 'training.budget="steps"')
    runs = RunsFolder(tmp_path / "runs")
    record = run_cell(tiny_cell(suite, method), tiny_bench(suite), runs=runs)
    text = card_of(runs.folder_of(record))
    steps = f"{record.metrics.get('train/steps', 0):.0f}"
    assert f"method `{method}`, seed 0, {training.format(steps)}." in text
    fields = yaml.safe_load(text.split("---\n", 2)[1])
    assert fields["tags"] == ["gim_bench", method, *tags]


def test_the_card_says_what_the_probes_read(tmp_path):
    reads_heads = "method.blockwise_barlow_twins.probe_reads=head"
    suite = tiny_suite(tmp_path, reads_heads)
    runs = RunsFolder(tmp_path / "runs")
    bench = tiny_bench(suite)
    record = run_cell(tiny_cell(suite, "blockwise_barlow_twins"), bench, runs=runs)
    assert "The probes read the outputs of the modules' heads," in card_of(runs.folder_of(record))
    with noise_registered():
        suite = tiny_suite(tmp_path, toml=SPEECH_TOML)
        record = run_cell(tiny_cell(suite, "gim"), tiny_bench(suite), runs=runs)
        text = card_of(runs.folder_of(record))
    assert "Probes of phones read the encodings of every step; others read the features." in text


def test_the_configuration_says_what_the_features_are(exported, cells):
    config = json.loads((exported / "config.json").read_text())
    dims = gim_bench.load(cells[0]).module.dims
    assert config["features"] == {"module_1": dims[0], "module_2": dims[1]}
    assert config["settings"]["encoder"]["kind"] == "resnet"


def test_a_folder_with_something_in_it_is_left_alone(cells, tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(ConfigError, match="is there and not empty: name a new folder"):
        gim_bench.export(cells[0], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


class Counting(ToyEncoder):
    """Takes the number of examples as a number of Python."""

    def prepare(self, inputs):
        return super().prepare(inputs)[: 4 * len(inputs)]


def test_an_encoder_that_cannot_be_exported_is_refused_in_one_line():
    module = Counting(ToySettings(), shape=(1, 16, 16)).eval()
    crop = CropSettings(kind="crop", crop=16, mean=(0.4,), std=(0.2,))
    with pytest.raises(ConfigError, match=r"cannot export Counting .*x\.shape\[0\], not from len"):
        standalone(Trained(module=module, record=None, augmentation=crop), title="counting")


def test_images_that_were_resized_are_resized_for_features_and_no_export_crops_them():
    module = ToyEncoder(ToySettings(), shape=(1, 16, 16)).eval()
    crop = CropSettings(kind="crop", resize=16, crop=16, mean=(0.4,), std=(0.2,))
    trained = Trained(module=module, record=None, augmentation=crop)
    images = np.random.default_rng(0).integers(256, size=(2, 3, 24, 24), dtype=np.uint8)
    seen = ImageBatches(
        Images(images=images, labels={}), augmentation=crop, batch_size=2, stream=("x", 0),
        device=torch.device("cpu"),
    )  # fmt: skip
    (batch,) = seen.in_order()
    assert torch.equal(trained.transform(images), batch.inputs)
    with pytest.raises(ConfigError, match="toy was trained on images resized to 16 pixels"):
        standalone(trained, title="toy")


def test_encoders_of_large_images_read_any_size_and_no_export_crops_them():
    module = ToyEncoder(ToySettings(), shape=(1, 16, 16)).eval()
    region = RegionSettings(kind="region", side=32, window=16, mean=(0.4,), std=(0.2,))
    trained = Trained(module=module, record=None, augmentation=region)
    assert trained.transform(np.zeros((2, 3, 24, 24), np.uint8)).shape == (2, 1, 24, 24)
    with pytest.raises(ConfigError, match="toy was trained on windows of large images, and export"):
        standalone(trained, title="toy")


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        (torch.zeros(2, 3, 26, 26), r"examples are torch.uint8 .*: these are torch.float32"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), r"or larger images: these are of shape \[3,"),
    ],
)
def test_examples_of_another_kind_are_refused_there_too(exported, examples, message):
    space = {"__file__": str(exported / "encoder.py"), "__name__": "encoder"}
    exec(compile((exported / "encoder.py").read_text(), "encoder.py", "exec"), space)  # noqa: S102
    with pytest.raises(ValueError, match=message):
        space["Encoder"](exported)(examples)
