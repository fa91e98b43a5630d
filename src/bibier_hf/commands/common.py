"""What all commands share: errors that a user can mend are told in one line, Ctrl-C leaves a word on how to go on."""

import os
import sys
from collections.abc import Callable

from ..augmentation.tts import SynthesisError
from ..augmentation.tug import ComponentError
from ..data.protocols import ProtocolError
from ..data.tables import CorpusError
from ..errors import ArgumentError, ExportError, FeatureStoreError, PushError
from ..llm import LLMError
from ..model.audio_bibier import AudioError

USER_ERRORS = (
    ArgumentError,
    CorpusError,
    ProtocolError,
    AudioError,
    FeatureStoreError,
    PushError,
    ExportError,
    ComponentError,
    SynthesisError,
    LLMError,
    FileNotFoundError,
)
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
