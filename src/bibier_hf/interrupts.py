"""Handle Ctrl-C where Python cannot raise KeyboardInterrupt: in callbacks of C libraries and in worker processes."""

import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def deferred_signals() -> Generator[None]:
    """Delay Ctrl-C and similar signals until a C library that calls back into Python has returned.

    ctypes prints and drops exceptions in callbacks, so a KeyboardInterrupt raised there is lost. Signal handlers run
    in the main thread only, so other threads have nothing to defer.
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
    """Let worker processes that are forked within the block ignore Ctrl-C. This process handles it and ends them."""
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
