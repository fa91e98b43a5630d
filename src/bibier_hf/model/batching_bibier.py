"""Batches of inputs of similar length, with their answers in the order of the inputs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

LOOK_AHEAD = 8
"""Batches to read ahead and sort by length. Padding costs time: in the order of a corpus, half of a batch of 16
utterances is padding."""


@dataclass(frozen=True)
class _Failure:
    error: Exception


class OrderedAnswers:
    """The answers to inputs that are read in windows of [`LOOK_AHEAD`] batches.

    If an input cannot be read or answered, its error is raised in its place, after the answers to the inputs before
    it; `next` then continues with the following input. A second iteration starts over if `samples` can.

    Args:
        samples: returns an iterator over the samples, which may raise for one and continue with the next.
        answer: turns a batch of samples into their answers.
        batch_size: samples in a batch. With 1, nothing is read ahead.
        length: returns the length of a sample, to sort by.
        count: number of samples, if known; the result of `len`.
    """

    def __init__(
        self,
        samples: Callable[[], Iterator],
        answer: Callable[[list], Sequence],
        batch_size: int,
        length: Callable[[Any], Any],
        count: int | None = None,
    ):
        self._samples, self._answer, self._length = samples, answer, length
        self._batch_size, self._count = batch_size, count
        self._outcomes: Iterator | None = None

    def __len__(self) -> int:
        if self._count is None:
            raise TypeError("A stream of inputs has no length.")
        return self._count

    def __iter__(self) -> "OrderedAnswers":
        self._outcomes = self._run(self._samples())
        return self

    def __next__(self) -> Any:
        if self._outcomes is None:
            self._outcomes = self._run(self._samples())
        outcome = next(self._outcomes)
        if isinstance(outcome, _Failure):
            raise outcome.error
        return outcome

    def _run(self, samples: Iterator) -> Iterator:
        size = 1 if self._batch_size == 1 else self._batch_size * LOOK_AHEAD
        more = True
        while more:
            window: list = []
            while more and len(window) < size:
                try:
                    window.append(next(samples))
                except StopIteration:
                    more = False
                except Exception as error:
                    window.append(_Failure(error))
                    break  # nothing after a failure is read before it is raised
            yield from self._answered(window)

    def _answered(self, window: list) -> Iterator:
        """Yield the answers to a window; each batch is computed when its first answer is due."""
        ready = [index for index, sample in enumerate(window) if not isinstance(sample, _Failure)]
        if self._batch_size > 1:
            ready.sort(key=lambda index: self._length(window[index]))

        batches = {}
        for start in range(0, len(ready), self._batch_size):
            batch = ready[start : start + self._batch_size]
            batches |= dict.fromkeys(batch, batch)

        answers: dict[int, Any] = {}
        for index, sample in enumerate(window):
            if isinstance(sample, _Failure):
                yield sample
                continue
            if index not in answers:
                batch = batches[index]
                answers |= zip(batch, self._attempt([window[other] for other in batch]), strict=True)
            yield answers.pop(index)

    def _attempt(self, samples: list) -> Sequence:
        try:
            return self._answer(samples)
        except Exception as error:
            if len(samples) == 1:
                return [_Failure(error)]
            return [self._attempt([sample])[0] for sample in samples]  # find out which one failed
