"""Run two functions in turns and compare their times."""

import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable, Mapping
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
    budget_s: float = 10.0,
    warm_up: bool = True,
) -> Row:
    """Run both sides in turns, 3 to 25 times (fewer if that would take three times the budget), and compare medians."""
    times: dict[str, list[float]] = {"ours": [], "theirs": []}

    if warm_up:
        ours(), theirs()

    start = time.perf_counter()

    while len(times["ours"]) < 25:
        for side, function in (("ours", ours), ("theirs", theirs)):
            begin = time.perf_counter()
            function()
            times[side].append(time.perf_counter() - begin)
        spent = time.perf_counter() - start
        if spent > budget_s and (len(times["ours"]) >= 3 or spent > 3 * budget_s):
            break

    medians = {side: statistics.median(values) for side, values in times.items()}
    ranges = {side: (min(values), max(values)) for side, values in times.items()}

    return Row(
        name=name,
        against=against,
        ratio=medians["theirs"] / medians["ours"],
        goal=goal,
        ours_s=medians["ours"],
        theirs_s=medians["theirs"],
        ours_range_s=ranges["ours"],
        theirs_range_s=ranges["theirs"],
        repeats=len(times["ours"]),
        note=note,
    )


def peak_bytes(function: Callable[[], Any], prepare: Callable[[], Any] | None = None) -> int:
    """Return the peak memory that `function` adds to its process, in a separate process.

    Args:
        function: a function of a module.
        prepare: runs first and is not counted.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(grown_by, (function, prepare))


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
