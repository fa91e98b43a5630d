"""Runs a command: parses its options, reports what a user can fix in one line, and says how to continue after Ctrl-C or
a signal of a scheduler or a closed terminal."""

import importlib
import json
import os
import signal
import sys
import threading
import typing
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import dynamic_module_utils

from .. import HAS_MODEL
from ..commandline import HELP_FLAGS, Section, help_text
from ..errors import UserError
from ..extras import missing_package
from ..files import as_write_error, describe_write_error, is_main_process
from ..model.audio_bibier import AudioError

USER_ERRORS: tuple[type[Exception], ...] = (UserError, AudioError, FileNotFoundError)
"""Errors that a user can fix, which are reported without a traceback."""

if HAS_MODEL:  # not next to the transformers of vLLM
    from ..model.validation_bibier import CheckpointError

    USER_ERRORS += (CheckpointError,)

REMOTE_CODE = (
    "A model, backbone or tokenizer comes with its own Python code, which is not run. Name one whose classes "
    "transformers has."
)

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130

_ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))

_EXIT_CODES = "Exit codes: 0 done, 2 something you can fix (one line says what), 130 interrupted."


class Terminated(KeyboardInterrupt):
    """A signal that asks the process to end, such as a scheduler's SIGTERM. It is handled like Ctrl-C."""

    def __init__(self, number: int):
        super().__init__(number)
        self.exit_code = 128 + number


def run_command(usage: str, function: str, arguments: Sequence[str]) -> int:
    """Parse a command line, and call the function behind the command; returns the exit code.

    Args:
        usage: how the user calls the command, such as `bibier predict`.
        function: `module:name`. The type of its only parameter is the [`~bibier_hf.commandline.Section`] of the
            command; it returns an exit code, or None for 0.
        arguments: the command line.
    """
    options: Section | None = None
    # Code of a checkpoint is refused, without a question on stdout.
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # ty: ignore[invalid-assignment]
    try:
        with _signals_raised():
            module, _, name = function.partition(":")
            command = getattr(importlib.import_module(module), name)
            section = next(iter(typing.get_type_hints(command).values())).for_command_line(arguments)

            if any(argument in HELP_FLAGS for argument in arguments):
                print(f"{help_text(usage, section)}\n\n{_EXIT_CODES}")
                return 0

            options = section.from_command_line(arguments)
            return command(options) or 0
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
        return _report(UserError(f"{error.object}: a library needs this name to be UTF-8. Rename it."))
    except KeyboardInterrupt as error:
        remark = "" if options is None else options.after_interrupt()
        print(f"\nInterrupted. {remark}".rstrip(), file=sys.stderr)
        return getattr(error, "exit_code", EXIT_INTERRUPTED)
    except Exception as error:
        if isinstance(error, ValueError) and "trust_remote_code" in str(error):
            return _report(UserError(REMOTE_CODE))
        meaning = describe_write_error(error)
        if meaning is None:
            raise
        return _report(as_write_error(error, None, meaning))


def _report(error: Exception) -> int:
    print(f"error: {error}", file=sys.stderr)
    return EXIT_USER_ERROR


@contextmanager
def _signals_raised() -> Generator[None]:
    """Make SIGTERM and SIGHUP raise [`Terminated`], unless the process was started to ignore them (`nohup`).

    Of several processes of a launcher, only the first cleans up. The others end at once: they may wait in a collective
    operation, where no exception reaches them.
    """
    process = os.getpid()
    replaced = {}

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a forked worker, ended by its pool
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
    """JSON for stdout; in ASCII unless the stream writes UTF-8."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return json.dumps(value, ensure_ascii=encoding.lower() not in ("utf-8", "utf8"), **options)
