"""Run two functions alternately and compare their times."""

import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Row:
    """One comparison.

    Args:
        name: of the row.
        against: what the slow side is.
        ratio: theirs / ours, of medians (of memory peaks if the note says so); higher is better.
        goal: the lowest acceptable ratio; None: report only.
        ours_s, theirs_s: medians in seconds.
        ours_range_s, theirs_range_s: minimum and maximum.
        repeats: number of runs per side.
        note: further remarks.
    """

    name: str
    against: str
    ratio: float
    goal: float | None
    ours_s: float
    theirs_s: float
    ours_range_s: tuple[float, float]
    theirs_range_s: tuple[float, float]
    repeats: int
    note: str = ""

    @property
    def reached(self) -> bool:
        return self.goal is None or self.ratio >= self.goal

    def as_dict(self) -> dict[str, Any]:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Row":
        """Reverse [`as_dict`]; other keys are ignored."""
        given: dict[str, Any] = {field.name: values[field.name] for field in fields(cls)}
        given |= {name: tuple(value) for name, value in given.items() if isinstance(value, list)}

        return cls(**given)


def compare(
    name: str,
    against: str,
    goal: float | None,
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    note: str = "",
    budget_s: float = 6.0,
    warm_up: bool = True,
) -> Row:
    """Run both sides alternately, as [`take_turns`] does, and compare medians."""
    if warm_up:
        ours(), theirs()

    times = take_turns({"ours": ours, "theirs": theirs}, budget_s)

    return row_of_times(name, against, goal, times["ours"], times["theirs"], note)


def take_turns(sides: Mapping[str, Callable[[], Any]], budget_s: float) -> dict[str, list[float]]:
    """Run all sides alternately, 3 to 25 times (fewer if that would take three times the budget). Returns seconds per
    run."""
    times: dict[str, list[float]] = {side: [] for side in sides}
    start = time.perf_counter()

    for turn in range(1, 26):
        for side, function in sides.items():
            begin = time.perf_counter()
            function()
            times[side].append(time.perf_counter() - begin)

        spent = time.perf_counter() - start
        if spent > budget_s and (turn >= 3 or spent > 3 * budget_s):
            break

    return times


def row_of_times(
    name: str, against: str, goal: float | None, ours: Sequence[float], theirs: Sequence[float], note: str = ""
) -> Row:
    """Compare the medians of two sides."""
    ours_s, theirs_s = statistics.median(ours), statistics.median(theirs)
    ranges = (min(ours), max(ours)), (min(theirs), max(theirs))

    return Row(name, against, theirs_s / ours_s, goal, ours_s, theirs_s, *ranges, len(ours), note)


def peak_bytes(function: Callable[[], Any], prepare: Callable[[], Any] | None = None) -> int:
    """Return the peak memory that `function` adds to its process, in a separate process.

    Args:
        function: a function of a module.
        prepare: runs first and is not counted.
    """
    return apart(grown_by, function, prepare)


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of a module in a separate process. Raises an error if the process dies."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def grown_by(function: Callable[[], Any], prepare: Callable[[], Any] | None = None) -> int:
    """Run [`peak_bytes`] in this process."""
    import psutil

    if prepare is not None:
        prepare()

    memory = psutil.Process().memory_info
    before = peak = memory().rss
    finished = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not finished.wait(0.001):
            peak = max(peak, memory().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    function()
    finished.set()
    watcher.join()

    return max(peak, memory().rss) - before
