"""A server that remembers which request brought which span, so that repeats can be counted."""

from __future__ import annotations

import standin
from standin import Connection, Reply, StandIn


class Witness(StandIn):
    """A stand-in that remembers which spans each request brought in."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[frozenset[str]] = []

    def settle(self, index: int, reply: Reply, connection: Connection) -> None:
        super().settle(index, reply, connection)
        self.loads.append(
            frozenset(span.span_id.hex() for span in standin.spans_of(reply.accepted))
        )

    def repeated(self) -> int:
        """Count the requests of which a span arrived once more in a later one."""
        later: set[str] = set()
        repeated = 0
        for load in reversed(self.loads):
            repeated += not load.isdisjoint(later)
            later |= load
        return repeated
