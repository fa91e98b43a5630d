"""What all commands share: errors that a user can fix end in one line; Ctrl-C, and the signals of schedulers and
closed terminals, leave a word on how to go on."""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import dynamic_module_utils

from .. import HAS_MODEL
from ..errors import UserError
from ..extras import missing_package
from ..files import as_write_error, describe_write_error
from ..model.audio_bibier import AudioError

USER_ERRORS: tuple[type[Exception], ...] = (UserError, AudioError, FileNotFoundError)
"""What a user can fix: reported without a traceback."""

if HAS_MODEL:  # not next to the transformers of vLLM
    from ..model.validation_bibier import CheckpointError

    USER_ERRORS += (CheckpointError,)

REMOTE_CODE = (
    "A model, backbone or tokenizer that was named comes with Python code of its own, which is not run. Name one whose "
    "classes transformers has."
)

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130

_ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Terminated(KeyboardInterrupt):
    """A signal that asks the process to end, such as a scheduler's SIGTERM: it is handled as Ctrl-C is."""

    def __init__(self, number: int):
        super().__init__(number)
        self.exit_code = 128 + number


def guarded(function: Callable[[], None], interrupted: Callable[[], str] = lambda: "Interrupted.") -> int:
    """Run `function`; say in one line what a user can fix, and what to do after Ctrl-C."""
    # Code of a checkpoint is refused, without a question on stdout.
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # ty: ignore[invalid-assignment]
    try:
        with _signals_raised():
            function()
    except USER_ERRORS as error:
        return _report(error)
    except ModuleNotFoundError as error:
        missing = missing_package(error.name)
        if missing is None:
            raise
        return _report(missing)
    except UnicodeEncodeError as error:  # of a library that wants its paths in UTF-8
        if not any("\ud800" <= character <= "\udfff" for character in error.object):
            raise
        return _report(UserError(f"{error.object}: this name is not UTF-8, which a library needs. Rename it."))
    except KeyboardInterrupt as error:
        print(f"\n{interrupted()}", file=sys.stderr)
        return getattr(error, "exit_code", EXIT_INTERRUPTED)
    except Exception as error:
        if isinstance(error, ValueError) and "trust_remote_code" in str(error):
            return _report(UserError(REMOTE_CODE))
        meaning = describe_write_error(error)
        if meaning is None:
            raise
        return _report(as_write_error(error, None, meaning))
    return 0


def _report(error: Exception) -> int:
    print(f"error: {error}", file=sys.stderr)
    return EXIT_USER_ERROR


@contextmanager
def _signals_raised() -> Generator[None]:
    """SIGTERM and SIGHUP raise [`Terminated`], unless the process was started to ignore them (`nohup`).

    Only the first process of several that a launcher started cleans up; the others may wait in a collective operation,
    where no exception reaches them, and end at once.
    """
    process = os.getpid()
    replaced = {}

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a forked worker that its pool ends
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        for each in replaced:  # cleaning up is not interrupted
            signal.signal(each, signal.SIG_IGN)
        raise Terminated(number)

    if is_main_process() and threading.current_thread() is threading.main_thread():
        for number in _ENDING:
            if signal.getsignal(number) is signal.SIG_DFL:
                replaced[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, before in replaced.items():
            signal.signal(number, before)


def to_json(value: Any, **options: Any) -> str:
    """JSON for stdout: every character as it is where the stream writes UTF-8, else in ASCII."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return json.dumps(value, ensure_ascii=encoding.lower() not in ("utf-8", "utf8"), **options)


def is_main_process() -> bool:
    """Is this the first of the processes that a launcher started?"""
    return int(os.environ.get("RANK", "0")) == 0
