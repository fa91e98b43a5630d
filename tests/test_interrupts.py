"""Ctrl-C in callbacks of C libraries and in worker processes."""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time

import pytest

from bibier_hf.interrupts import deferred_signals, quiet_workers


@pytest.fixture(autouse=True)
def takes_ctrl_c():
    """Also where the test run itself ignores SIGINT."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


def sort_and_interrupt(numbers):
    """Sort by C's qsort; Ctrl-C arrives in the first callback."""
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
    calls = []

    def compare(one, other):
        calls.append(None)
        if len(calls) == 1:
            signal.raise_signal(signal.SIGINT)
        return one[0] - other[0]

    array = (ctypes.c_int * len(numbers))(*numbers)
    ctypes.CDLL(None).qsort(array, len(numbers), ctypes.sizeof(ctypes.c_int), kind(compare))
    return list(array)


@pytest.mark.skipif(sys.platform == "win32", reason="no C library by that name")
def test_ctrl_c_in_a_callback_comes_after_the_call():
    results = []
    with pytest.raises(KeyboardInterrupt), deferred_signals():
        results.append(sort_and_interrupt([3, 1, 2]))
    assert results == [[1, 2, 3]]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_own_handlers_are_called_and_ignored_signals_stay_ignored():
    seen = []
    signal.signal(signal.SIGINT, lambda number, _: seen.append(number))
    with deferred_signals():
        signal.raise_signal(signal.SIGINT)
        assert seen == []
    assert seen == [signal.SIGINT]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with deferred_signals(), quiet_workers():
        signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_other_threads_may_use_both():
    failures = []

    def use():
        try:
            with deferred_signals(), quiet_workers():
                pass
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert failures == []


def test_an_interrupt_that_a_library_turns_into_another_error_is_still_one():
    def wait():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            raise TimeoutError

    with pytest.raises(KeyboardInterrupt), quiet_workers():
        wait()
    with pytest.raises(TimeoutError), quiet_workers():
        raise TimeoutError


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="nothing is forked here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_workers_leave_ctrl_c_to_their_parent():
    with quiet_workers():
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
        time.sleep(0.3)
        os.kill(child.pid, signal.SIGINT)
        time.sleep(0.3)
        assert child.is_alive()
        child.terminate()
        child.join()
    assert child.exitcode == -signal.SIGTERM
