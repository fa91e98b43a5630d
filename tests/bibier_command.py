"""The command `bibier` within the process of a test."""

import contextlib
import io
import sys
from dataclasses import dataclass
from unittest import mock

from bibier_cli import main


@dataclass(frozen=True)
class Done:
    """What a command left."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


def bibier(*arguments: object, stdin: str = "") -> Done:
    """Run `bibier` with these arguments."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "stdin", io.StringIO(stdin)),
    ):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code

    return Done(int(code or 0), out.getvalue(), err.getvalue())
