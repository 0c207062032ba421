"""Predictions on test labels: the same when read back, and nothing else is read as such."""

import io
import pickle
import zipfile

import numpy as np
import pytest

from gim_bench.records import predictions as module
from gim_bench.records.predictions import Predictions


def predictions(**changes):
    arrays = {
        "labels": {"class": np.array([0, 300, 2])},
        "items": {"class": np.array([0, 0, 1])},
        "predicted": {"accuracy/module_1": np.array([0, 1, 2]), "accuracy": np.array([2, 1, 0])},
    }
    return Predictions(**arrays | changes)


def archive(**arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def test_predictions_are_read_back_as_they_were_packed():
    read = Predictions.unpacked(predictions().packed())
    assert read.labels["class"].tolist() == [0, 300, 2]
    assert read.items["class"].tolist() == [0, 0, 1]
    assert {name: p.tolist() for name, p in read.predicted.items()} == {
        "accuracy/module_1": [0, 1, 2],
        "accuracy": [2, 1, 0],
    }


def test_predictions_of_metrics_that_are_not_wanted_are_not_read():
    read = Predictions.unpacked(predictions().packed(), wanted=lambda metric: metric == "accuracy")
    assert [*read.predicted] == ["accuracy"]
    assert read.labels["class"].tolist() == [0, 300, 2]


def test_negative_numbers_survive():
    packed = predictions(predicted={"accuracy": np.array([-1, 1, 2])}).packed()
    assert Predictions.unpacked(packed).predicted["accuracy"].tolist() == [-1, 1, 2]


@pytest.mark.parametrize("length", [0, 1, 300])
def test_lists_of_any_length_are_read(length):
    numbers = np.arange(length)
    read = Predictions.unpacked(archive(**{"labels/class": numbers, "items/class": numbers}))
    assert read.labels["class"].tolist() == numbers.tolist()


def test_equal_predictions_give_equal_bytes():
    assert predictions().packed() == predictions().packed()


class Harmful:
    def __reduce__(self):
        return pytest.fail, ("a pickle was loaded",)


def pickled():
    file = io.BytesIO()
    np.savez(file, **{"labels/class": np.array([Harmful()], dtype=object)})
    return file.getvalue()


def of_shape(shape):
    """An archive whose arrays of three numbers say that they have another shape."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for name in ("labels/class.npy", "items/class.npy"):
            array = io.BytesIO()
            header = {"descr": "<i8", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(array, header)
            made.writestr(name, array.getvalue() + bytes(24))
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        of_shape((4,)),
        of_shape((-1,)),
        b"text",
        pickle.dumps(Harmful()),
        pickled(),
        predictions().packed()[:-40],
        predictions().packed()[:60] + b"?" * 20 + predictions().packed()[80:],
        archive(**{"weights/class": np.zeros(3, int)}),
        archive(**{"labels/class": np.zeros(3, int)}),
        archive(**{"labels/class": np.zeros(3, int), "items/class": np.zeros(2, int)}),
        archive(**{"labels/class": np.zeros(3), "items/class": np.zeros(3)}),
        archive(**{"labels/class": np.zeros((1, 3), int), "items/class": np.zeros((1, 3), int)}),
        predictions(predicted={"accuracy": np.array([0])}).packed(),
        predictions(predicted={"speaker_accuracy": np.array([0, 0, 0])}).packed(),
    ],
)
def test_anything_else_is_refused_in_one_line(content):
    with pytest.raises(ValueError, match=r"^not a file of predictions \([^\n]+\)$"):
        Predictions.unpacked(content)


def test_a_file_that_would_fill_the_memory_is_not_unpacked(monkeypatch):
    monkeypatch.setattr(module, "LARGEST", 100)
    with pytest.raises(ValueError, match="at most 100 are read"):
        Predictions.unpacked(predictions().packed())


def test_an_archive_of_other_files_is_refused():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as other:
        other.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match="not a file of predictions"):
        Predictions.unpacked(file.getvalue())
