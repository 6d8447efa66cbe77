"""How much one request of a route holds, and which rows it goes around. Lives as long as a drainer.

It is found again within a few requests, so nothing of it is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from spool.otlp import ROW_BYTES

if TYPE_CHECKING:
    from spool.records import Take

# A packed row fits: on a good line none is ever cut.
_FIRST_BYTES: Final = ROW_BYTES
_MOST_SPANS: Final = 1 << 20
_FAST: Final = 0.25  # of the deadline

_ENOUGH_FAILURES: Final = 10
_ENOUGH_PROOFS: Final = 3


class Pace:
    """How much one request of a route may hold: grows while requests are fast, halves on trouble.

    Halving the spans down to one is also how the one bad span of a request is found.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.bytes = min(_FIRST_BYTES, max_bytes)
        self.spans = _MOST_SPANS

    def rise(self, seconds: float, timeout: float) -> None:
        """Go up after a delivery that took `seconds`."""
        self.spans = min(2 * self.spans, _MOST_SPANS)
        if seconds < _FAST * timeout:
            self.bytes = min(2 * self.bytes, self._max_bytes)

    def fall(self, raw_bytes: int) -> None:
        """Go down after a request of so many bytes that took too long."""
        self.bytes = max(1, min(self.bytes, raw_bytes) // 2)

    def split(self, spans: int) -> None:
        """Send less than so many spans next time: there is a bad one, or they are too large."""
        self.spans = max(1, spans // 2)


@dataclass(slots=True)
class Suspect:
    """The rows at the head of a route that failed twice running: perhaps they alone do.

    Others go around them. When those are delivered, the server is well and the head is poison: it
    is tried in smaller and smaller parts, until one span has failed alone often enough.

    `last_id` ends the suspected rows, `spans` is how many the next try holds, `failures` counts
    those of one span alone, `proofs` the requests that went around and were delivered, and `until`
    is the monotonic time of the next try.
    """

    last_id: int
    spans: int
    failures: int = 0
    proofs: int = 0
    until: float = 0.0
    is_gone_around: bool = True

    def narrow(self, take: Take) -> None:
        """Suspect a part that has failed, and try less of it next time."""
        self.last_id = take.rows[-1].id
        self.spans = max(1, take.spans // 2)
        self.failures += take.spans == 1
        self.is_gone_around = True

    def is_of(self, take: Take) -> bool:
        """Say whether it is one of these rows: not when its own have left in another way."""
        return take.rows[0].id <= self.last_id

    @property
    def is_proven(self) -> bool:
        """Whether one span has failed alone often enough while others were delivered."""
        return self.failures >= _ENOUGH_FAILURES and self.proofs >= _ENOUGH_PROOFS
