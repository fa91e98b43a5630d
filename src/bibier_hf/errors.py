"""Errors that a user can fix. Every command reports them in one line, without a traceback.

This module imports nothing, so that errors can be caught without loading the model. `AudioError` is part of the remote
code in `model/audio_bibier.py`, which imports nothing from the package.
"""


class UserError(Exception):
    """An error that a user can fix. The message says what was given, what is allowed, and how to fix it."""


class ArgumentError(UserError, ValueError):
    """A run file or command line that cannot be used."""


class FeatureStoreError(UserError, RuntimeError):
    """A feature store that cannot be read or written; the message names the file."""


class PushError(UserError, RuntimeError):
    """A failed push to the Hugging Face Hub; nothing local was touched."""


class ExportError(UserError, ValueError):
    """A model that cannot be exported as requested, or an unusable export."""
