"""What all commands share: errors that a user can mend are told in one line, Ctrl-C leaves a word on how to go on."""

import os
import sys
from collections.abc import Callable

from ..errors import UserError
from ..model.audio_bibier import AudioError
from ..model.configuration_bibier import CheckpointError

USER_ERRORS = (UserError, AudioError, CheckpointError, FileNotFoundError)
"""What a user can mend: told without a traceback."""

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


def guarded(function: Callable[[], None], interrupted: Callable[[], str] = lambda: "Interrupted.") -> int:
    """Run `function`; say in one line what a user can mend, and what to do after Ctrl-C."""
    try:
        function()
    except USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print(f"\n{interrupted()}", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def is_main_process() -> bool:
    """Is this the first of the processes that a launcher started?"""
    return int(os.environ.get("RANK", "0")) == 0
