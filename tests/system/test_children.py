"""Child processes, and the signals that they hear."""

import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from gim_bench.system.children import deaf_to_interrupts


def go_on(pipe):
    pipe.send("ready")
    time.sleep(1)


def interrupt_both(process, pipe):
    """Press Ctrl-C in this process before it starts the other, and in the other."""
    with deaf_to_interrupts():
        os.kill(os.getpid(), signal.SIGINT)
        process.start()
        assert pipe.recv() == "ready"
        os.kill(process.pid, signal.SIGINT)


def test_ctrl_c_within_the_block_is_heard_at_its_end_and_by_no_child():
    before = signal.getsignal(signal.SIGINT)
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=go_on, args=(there,))
    with pytest.raises(KeyboardInterrupt):
        interrupt_both(process, here)
    process.join(60)
    assert process.exitcode == 0
    assert signal.getsignal(signal.SIGINT) is before
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_block_without_a_signal_leaves_nothing_behind():
    before = signal.getsignal(signal.SIGINT)
    with deaf_to_interrupts():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def handler_within():
    with deaf_to_interrupts():
        return signal.getsignal(signal.SIGINT)


def test_a_thread_starts_processes_and_leaves_the_signals_of_the_main_thread():
    before = signal.getsignal(signal.SIGINT)
    with ThreadPoolExecutor() as pool:
        assert pool.submit(handler_within).result() is before
