"""Counters, gauges and histograms in the text format of Prometheus (version 0.0.4)."""

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """The metrics of a server. All methods may be called from any thread.

    Args:
        gauges: name -> (help, function that returns the present value).
    """

    def __init__(self, gauges: Mapping[str, tuple[str, Callable[[], float]]]):
        self._gauges = dict(gauges)
        self._lock = threading.Lock()
        self._counters: dict[str, dict[Labels, float]] = defaultdict(lambda: defaultdict(float))
        self._histograms: dict[str, dict[Labels, list[float]]] = defaultdict(dict)
        self._help: dict[str, str] = {}
        self._bounds: dict[str, tuple[float, ...]] = {}

    def count(self, name: str, text: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter."""
        with self._lock:
            self._help[name] = text
            self._counters[name][tuple(labels.items())] += amount

    def observe(self, name: str, text: str, value: float, bounds: tuple[float, ...], **labels: str) -> None:
        """Add a value to a histogram: its bucket counts, then sum and count."""
        with self._lock:
            self._help[name], self._bounds[name] = text, bounds
            cells = self._histograms[name].setdefault(tuple(labels.items()), [0.0] * (len(bounds) + 2))
            for place, bound in enumerate(bounds):
                cells[place] += value <= bound
            cells[-2] += value
            cells[-1] += 1

    def render(self) -> str:
        lines = []
        for name, (text, value) in self._gauges.items():
            lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge", f"{name} {value():g}"]

        with self._lock:
            for name, values in self._counters.items():
                lines += [f"# HELP {name} {self._help[name]}", f"# TYPE {name} counter"]
                lines += [f"{name}{_shown(labels)} {value:.10g}" for labels, value in values.items()]

            for name, cells in self._histograms.items():
                lines += [f"# HELP {name} {self._help[name]}", f"# TYPE {name} histogram"]
                for labels, numbers in cells.items():
                    *buckets, total, count = numbers
                    bounds = [f"{bound:g}" for bound in self._bounds[name]]
                    for bound, number in zip([*bounds, "+Inf"], [*buckets, count], strict=True):
                        lines.append(f"{name}_bucket{_shown((*labels, ('le', bound)))} {number:.10g}")
                    lines.append(f"{name}_sum{_shown(labels)} {total:.10g}")
                    lines.append(f"{name}_count{_shown(labels)} {count:.10g}")
        return "\n".join(lines) + "\n"


def _shown(labels: Labels) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels) + "}" if labels else ""
