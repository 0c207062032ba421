"""Errors of a worker, as its parent raises them."""

import errno
from multiprocessing import Pipe

import pytest
import torch

from gim_bench.errors import DataError, RoomError, TrainingError
from gim_bench.hardware import memory
from gim_bench.training.workers import Failure


class OddError(Exception):
    """Cannot be made again from its text."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def thrown(error):
    raise error


def raised(error):
    """The error after its way through a pipe."""
    there, here = Pipe()
    try:
        thrown(error)
    except Exception as caught:
        there.send(Failure.of(caught))
    return here.recv().again()


class OddDataError(DataError):
    """Of a plug-in, say."""


@pytest.mark.parametrize("kind", [DataError, RoomError, TrainingError, MemoryError])
def test_an_error_that_the_package_knows_stays_what_it_is(kind):
    again = raised(kind("the disk is not there"))
    assert (type(again), str(again)) == (kind, "the disk is not there")


def test_what_does_not_fit_is_known_as_such():
    for error in (torch.OutOfMemoryError("no"), RuntimeError("can't allocate memory: 9 bytes")):
        assert memory.is_exhausted(raised(error))


def test_an_error_of_a_child_of_a_known_class_is_of_the_known_class():
    again = raised(OddDataError("no images"))
    assert (type(again), str(again)) == (DataError, "no images")


def test_an_error_of_the_system_keeps_its_number_and_its_file():
    again = raised(OSError(errno.ENOSPC, "No space left on device", "/somewhere"))
    assert isinstance(again, OSError)
    assert again.errno == errno.ENOSPC
    assert str(again) == "[Errno 28] No space left on device: '/somewhere'"


def test_any_other_error_is_told_with_the_worker_s_traceback():
    again = raised(OddError(1, 2))
    assert (type(again), str(again)) == (RuntimeError, "OddError: 1 and 2")
    assert "in thrown" in "".join(again.__notes__)
