"""Batches of similar lengths: the answers, and the errors, stay in their places; a stream is read only so far
ahead."""

from collections.abc import Iterator

import pytest

from bibier_hf.model.batching_bibier import LOOK_AHEAD, OrderedAnswers


def answers(lengths: list, batch_size: int, seen: list | None = None, **options) -> OrderedAnswers:
    """Each sample is its length; the answer is ten times it. Errors among them are raised at their reading, negative
    ones at their answering."""

    def read(item):
        if isinstance(item, Exception):
            raise item
        return item

    def answer(batch: list) -> list:
        if any(length < 0 for length in batch):
            raise ArithmeticError(f"{batch}")
        if seen is not None:
            seen.append(batch)
        return [10 * length for length in batch]

    return OrderedAnswers(lambda: map(read, iter(lengths)), answer, batch_size, length=lambda x: x, **options)


def collected(stream: Iterator) -> list:
    """Answers and the types of the errors."""
    found = []
    while True:
        try:
            found.append(next(stream))
        except StopIteration:
            return found
        except Exception as error:
            found.append(type(error))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_answers_in_the_order_of_the_inputs(batch_size: int):
    lengths = [7, 1, 9, 3, 3, 8, 2, 50, 4, 6, 5, 30, 10]
    assert list(answers(lengths, batch_size)) == [10 * length for length in lengths]


def test_batches_of_similar_lengths():
    seen: list = []
    list(answers([9, 1, 8, 2, 7, 3], 2, seen))
    assert sorted(seen) == [[1, 2], [3, 7], [8, 9]]


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_errors_keep_their_places_and_what_follows_is_answered(batch_size: int):
    lengths = [5, 1, KeyError("k"), 4, -1, 3, OSError("o"), 2]
    expected = [50, 10, KeyError, 40, ArithmeticError, 30, OSError, 20]
    assert collected(answers(lengths, batch_size)) == expected


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_streams_are_read_a_window_ahead(batch_size: int):
    read = 0

    def endless() -> Iterator[int]:
        nonlocal read
        while True:
            read += 1
            yield read

    stream = OrderedAnswers(endless, lambda batch: batch, batch_size, length=lambda x: -x)
    assert [next(stream) for _ in range(3)] == [1, 2, 3]
    assert read == (3 if batch_size == 1 else LOOK_AHEAD * batch_size)


def test_length_and_second_iteration():
    twice = answers([3, 1, 2], 2, count=3)
    assert len(twice) == 3
    assert list(twice) == list(twice) == [30, 10, 20]
    with pytest.raises(TypeError, match="no length"):
        len(answers([1], 1))
