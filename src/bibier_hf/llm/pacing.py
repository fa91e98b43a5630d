"""When the next request may go out: rate limits, back-off, and several servers in turn."""

import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


class RateLimiter:
    """Spreads requests evenly over time so that neither limit is passed; shared by threads.

    Args:
        requests_per_minute, tokens_per_minute: limits; None: no limit.
        clock: seconds.
    """

    def __init__(
        self,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.requests_per_minute = requests_per_minute
        self.tokens_per_minute = tokens_per_minute
        self._clock = clock
        self._free_at = clock()
        self._lock = threading.Lock()

    def reserve(self, tokens: int) -> float:
        """Take the next place in the line; returns the seconds to wait until it is this request's turn."""
        cost = 60 / self.requests_per_minute if self.requests_per_minute else 0.0
        if self.tokens_per_minute:
            cost = max(cost, 60 * tokens / self.tokens_per_minute)
        with self._lock:
            now = self._clock()
            start = max(now, self._free_at)
            self._free_at = start + cost
        return start - now


class ServerPool:
    """Servers in turn; one that failed rests while others answer.

    Args:
        servers: their names.
        base_delay_s, longest_delay_s: the rest doubles with every failure in a row, from the one to the other.
        clock: seconds.
    """

    def __init__(
        self,
        servers: list[str],
        base_delay_s: float = 1.0,
        longest_delay_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.servers = list(servers)
        self.base_delay_s = base_delay_s
        self.longest_delay_s = longest_delay_s
        self._clock = clock
        self._rests_until = dict.fromkeys(servers, 0.0)
        self._failures = dict.fromkeys(servers, 0)
        self._turn = 0
        self._lock = threading.Lock()

    def next(self) -> tuple[str, float]:
        """(server, seconds to wait for it): the next one in turn that does not rest, else the one that is rested
        first."""
        with self._lock:
            now = self._clock()
            in_turn = self.servers[self._turn :] + self.servers[: self._turn]
            server = min(in_turn, key=lambda name: max(self._rests_until[name], now))
            self._turn = (self.servers.index(server) + 1) % len(self.servers)
            return server, max(0.0, self._rests_until[server] - now)

    def succeeded(self, server: str) -> None:
        with self._lock:
            self._failures[server] = 0

    def failed(self, server: str, retry_after_s: float | None = None) -> None:
        """Let a server rest: as long as it asks for, else for a random part of a delay that doubles."""
        with self._lock:
            now = self._clock()
            resting = now < self._rests_until[server]
            if not resting:  # requests that were under way together fail together, and count as one failure
                delay = min(self.longest_delay_s, self.base_delay_s * 2 ** min(self._failures[server], 30))
                self._failures[server] += 1
                # A random part, so that many clients do not come back at the same moment.
                self._rests_until[server] = now + delay * random.uniform(0.5, 1.0)
            if retry_after_s is not None:
                asked = now + retry_after_s
                self._rests_until[server] = max(self._rests_until[server], asked) if resting else asked


def parse_retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds of a `Retry-After` header (a number, or an HTTP date); None where there is none that can be read."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (date - (now or datetime.now(UTC))).total_seconds())
