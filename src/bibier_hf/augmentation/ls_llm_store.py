"""Answers of a language model, kept on disk as soon as they arrive.

A killed run continues where it stopped: an answer is found by the hash of everything that it depends on (the
conversation, the model, the options), so nothing is asked twice, rows with equal text and label share an answer, and a
new parser needs no new answers. Transport errors are not kept, so those rows are asked again.
"""

import hashlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ArgumentError
from ..files import as_write_error, describe_write_error
from ..llm import Answer

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, text TEXT, log_probabilities TEXT, finish_reason TEXT, prompt_tokens INTEGER, new_tokens INTEGER
) WITHOUT ROWID
"""
_AT_A_TIME = 500  # keys per query


def request_key(request: Mapping[str, Any]) -> str:
    """Hash everything that an answer depends on."""
    return hashlib.sha256(json.dumps(request, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class AnswerStore:
    """A SQLite file of answers by [`request_key`]. An answer is on disk when `put` returns; processes can share a
    file.

    Args:
        path: the file, created if needed. None: in memory only.

    Raises:
        ArgumentError: a file of another kind.
        WriteError: a file that cannot be written.
    """

    def __init__(self, path: str | Path | None) -> None:
        if path is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = sqlite3.connect(":memory:" if path is None else path, timeout=60, isolation_level=None)
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute(_SCHEMA)
        except sqlite3.DatabaseError as error:
            if meaning := describe_write_error(error):
                raise as_write_error(error, path, meaning) from error
            raise ArgumentError(f"{path} is not a store of answers ({error}). Name another file.") from error

    def get(self, keys: Sequence[str]) -> dict[str, Answer]:
        """Return the answers that the store has."""
        found = {}
        for start in range(0, len(keys), _AT_A_TIME):
            some = keys[start : start + _AT_A_TIME]
            rows = self._connection.execute(
                "SELECT key, text, log_probabilities, finish_reason, prompt_tokens, new_tokens FROM answers "
                f"WHERE key IN ({','.join('?' * len(some))})",
                some,
            )
            for key, text, scores, *rest in rows:
                found[key] = Answer(text, None if scores is None else tuple(json.loads(scores)), *rest)
        return found

    def put(self, key: str, answer: Answer) -> None:
        """Keep an answer; answers with an error are refused."""
        if answer.error is not None:
            raise ValueError(f"An answer with an error is not kept: {answer.error}")
        scores = None if answer.log_probabilities is None else json.dumps(answer.log_probabilities)
        row = (key, answer.text, scores, answer.finish_reason, answer.prompt_tokens, answer.new_tokens)
        self._connection.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?)", row)

    def __len__(self) -> int:
        return self._connection.execute("SELECT count(*) FROM answers").fetchone()[0]

    def close(self) -> None:
        self._connection.close()
