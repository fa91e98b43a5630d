"""What a language model has answered, kept on disk the moment it is known.

A run that is killed, by whatever means, goes on where it was: an answer is found by the hash of all that it depends on
(the conversation, the model, how it was asked), so nothing is asked twice, rows with equal text and label share one
answer, and another way of reading the answers needs no new ones. Errors of transport are not kept: they are asked
again.
"""

import hashlib
import json
import sqlite3
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
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
_AT_A_TIME = 500  # keys of one query


def request_key(request: Mapping[str, Any]) -> str:
    """Hash of everything that an answer depends on."""
    return hashlib.sha256(json.dumps(request, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class AnswerStore:
    """A SQLite file of answers by [`request_key`]; every `put` is on the disk when it returns. Several processes may
    share one.

    Args:
        path: the file; made when absent. None: kept in memory only.

    Raises:
        ArgumentError: a file that is no such store.
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
            raise ArgumentError(f"{path} is no store of answers ({error}). Name another file.") from error

    def get(self, keys: Sequence[str]) -> dict[str, Answer]:
        """The answers that there are."""
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
        """Keep an answer; one that carries an error is refused."""
        if answer.error is not None:
            raise ValueError(f"An answer with an error is not kept: {answer.error}")
        scores = None if answer.log_probabilities is None else json.dumps(answer.log_probabilities)
        row = (key, answer.text, scores, answer.finish_reason, answer.prompt_tokens, answer.new_tokens)
        self._connection.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?)", row)

    def __len__(self) -> int:
        return self._connection.execute("SELECT count(*) FROM answers").fetchone()[0]

    def close(self) -> None:
        self._connection.close()


@contextmanager
def open_store(path: str | Path | None) -> Generator[AnswerStore]:
    """An [`AnswerStore`] that is closed at the end."""
    store = AnswerStore(path)
    try:
        yield store
    finally:
        store.close()
