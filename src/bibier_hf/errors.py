"""The error of all commands and run files. Imports nothing, so that it can be had without the model."""


class ArgumentError(ValueError):
    """A run file or a command line that cannot be followed; the message says what was given and how to mend it."""
