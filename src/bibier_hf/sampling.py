"""Random draws that depend on a seed and a name, not on the order or number of the other rows."""

import hashlib
from collections.abc import Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")


def seeded_hash(*parts: object) -> bytes:
    """Return the SHA-256 digest of the parts, joined by slashes."""
    return hashlib.sha256("/".join(map(str, parts)).encode()).digest()


def sample_by_hash(items: Iterable[Item], count: int, name: Callable[[Item], object], *seed: object) -> list[Item]:
    """Draw `count` items uniformly without replacement: those with the smallest hashes.

    Adding or reordering other items changes at most which of them are drawn, never the rank of two items.

    Args:
        items: what to draw from.
        count: how many to draw; fewer if there are not as many.
        name: returns the unique name of an item.
        seed: seed of the draw, in one or several parts.
    """
    return sorted(items, key=lambda item: seeded_hash(*seed, name(item)))[:count]
