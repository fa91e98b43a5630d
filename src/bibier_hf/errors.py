"""Errors that a user can mend: every command reports them in one line, without a traceback.

Imports nothing, so that errors can be caught without loading the model. `AudioError` stands with the remote code in
`model/audio_bibier.py`, which imports nothing from the package.
"""


class UserError(Exception):
    """What a user can mend. The message says what was given, what is allowed, and how to fix it."""


class ArgumentError(UserError, ValueError):
    """A run file or a command line that cannot be followed."""


class FeatureStoreError(UserError, RuntimeError):
    """A feature store that cannot be read or written; the message names the file."""


class PushError(UserError, RuntimeError):
    """A failed push to the Hugging Face Hub; nothing local was touched."""


class ExportError(UserError, ValueError):
    """A model that cannot be exported as asked, or an export that cannot be used."""
