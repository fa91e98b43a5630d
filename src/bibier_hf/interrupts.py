"""Ctrl-C where Python cannot raise KeyboardInterrupt properly: in callbacks of C libraries and in worker processes."""

import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def deferred_signals() -> Generator[None]:
    """Let a C library that calls back into Python finish first, then handle Ctrl-C and its like.

    An exception in a callback of ctypes is printed and dropped, so a KeyboardInterrupt that is raised there is lost.
    Handlers run in the main thread only: elsewhere there is nothing to defer.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    caught: list[tuple[int, FrameType | None]] = []
    previous = {number: signal.getsignal(number) for number in _SIGNALS}
    previous = {number: handler for number, handler in previous.items() if callable(handler)}

    try:
        for number in previous:
            signal.signal(number, lambda *received: caught.append(received))
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        for number, frame in caught[:1]:
            previous[number](number, frame)


@contextmanager
def quiet_workers() -> Generator[None]:
    """Worker processes that are forked within the block leave Ctrl-C to this process, which ends them.

    A terminal sends Ctrl-C to every process of a command, and each worker would print a traceback of its own.
    """
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        yield
        return

    owner = os.getpid()

    def in_owner_only(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            previous(number, frame)

    signal.signal(signal.SIGINT, in_owner_only)

    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:  # the pool of `datasets` raises a TimeoutError of its own after an interrupt
            if isinstance(cause, KeyboardInterrupt):
                raise cause from None
            cause = cause.__context__
        raise
    finally:
        signal.signal(signal.SIGINT, previous)
