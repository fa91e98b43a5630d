"""Errors that every command tells in one line. Imports nothing, so that they can be had without the model."""


class ArgumentError(ValueError):
    """A run file or a command line that cannot be followed; the message says what was given and how to mend it."""


class FeatureStoreError(RuntimeError):
    """A store that cannot be read or written; the message names the file and says how to mend it."""


class PushError(RuntimeError):
    """A push to the Hugging Face Hub that did not come about; the message says why, that nothing local was touched, and how to go on."""


class ExportError(ValueError):
    """A model that cannot be exported as asked, or an export that cannot be used. The message says how to mend it."""
