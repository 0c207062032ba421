"""Errors of a worker, as its parent raises them."""

import errno
from multiprocessing import Pipe

import pytest
import torch

from gim_bench.errors import DataError, RoomError, TrainingError
from gim_bench.hardware import memory
from gim_bench.training.workers import Failure, at_post, receive_state, send_state
from tests.forked import FORKED


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


def test_a_reason_that_an_error_of_the_system_words_itself_is_kept():
    again = raised(OSError(errno.ENOENT, "no file speech.h5 in the archive"))
    assert str(again) == "[Errno 2] no file speech.h5 in the archive"


class Unsaveable:
    """Fails when a state is sent, as where memory does not suffice for a copy."""

    def __reduce__(self):
        raise MemoryError("no room for a copy")


def fail_in_a_state(parent):
    at_post(parent, lambda: send_state(parent, {"before": torch.zeros(9), "it": Unsaveable()}))


def test_an_error_while_a_state_is_sent_is_told():
    here, there = FORKED.Pipe()
    process = FORKED.Process(target=fail_in_a_state, args=(there,))
    process.start()
    there.close()
    with pytest.raises(MemoryError, match="no room for a copy"):
        receive_state(here)
    process.join(60)
