"""Child processes, and the signals that they hear."""

import signal
from concurrent.futures import ThreadPoolExecutor

from gim_bench.system.children import deaf_to_interrupts


def handler_within():
    with deaf_to_interrupts():
        return signal.getsignal(signal.SIGINT)


def test_processes_that_are_started_within_the_block_ignore_ctrl_c():
    before = signal.getsignal(signal.SIGINT)
    assert handler_within() is signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) is before


def test_a_thread_starts_processes_and_leaves_the_signals_of_the_main_thread():
    before = signal.getsignal(signal.SIGINT)
    with ThreadPoolExecutor() as pool:
        assert pool.submit(handler_within).result() is before
