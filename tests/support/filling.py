"""Fills the journals of several processes."""

from __future__ import annotations

from spans import batch
from spool.store.store import Store
from targets import MINE


def fill(stores: list[Store], size: int) -> int:
    """Append as many bytes to the journals of all, in turn; give the spans."""
    one = batch("a", size=20_000)
    count = size // len(one.payload)
    for number in range(count):
        stores[number % len(stores)].accept(MINE, one, float(number))
    return count
