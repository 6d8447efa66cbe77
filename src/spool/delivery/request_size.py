"""How much one request of a route holds. Lives as long as a drainer.

It is found again within a few requests, so nothing of it is stored.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Protocol

from spool.delivery.http.classification import Verdict
from spool.otlp.batch import ROW_BYTES

if TYPE_CHECKING:
    from spool.delivery.http.classification import Outcome

# A packed row fits: on a good line none is ever divided.
_FIRST_BYTES: Final = ROW_BYTES
_MOST_SPANS: Final = 1 << 20
_FAST: Final = 0.25  # of the deadline

# So near to what was too large a request is large enough; after so many of them more is tried.
_NEAR: Final = 0.875
_MANY_REQUESTS: Final = 100
_MORE: Final = 1.25


class Sized(Protocol):
    """What a request held: so many spans, and bytes before compression."""

    @property
    def spans(self) -> int: ...
    @property
    def raw_bytes(self) -> int: ...


class RequestSize:
    """How much one request of a route may hold: grows while requests are fast, halves on trouble.

    Halving the spans down to one is also how the one bad span of a request is found. A size that
    was too large for the receiver is remembered: sizes come near to it, and rarely go above it.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.spans = _MOST_SPANS
        self.reset()

    def reset(self) -> None:
        """Begin anew with the bytes: a receiver that was not well has said what was too large."""
        self.bytes = min(_FIRST_BYTES, self._max_bytes)
        self._too_large = math.inf
        self._requests = 0

    def learn(self, sent: Sized, outcome: Outcome, seconds: float, timeout: float) -> None:
        """Go up or down after a request that took `seconds`, of the `timeout` that it had."""
        if outcome.is_delivered:
            self.rise(seconds, timeout)
        elif outcome.verdict is Verdict.SPLIT:
            self.refuse(sent.spans, sent.raw_bytes, is_too_large=outcome.is_too_large)
        elif outcome.is_timeout:
            self.fall(sent.raw_bytes)

    def rise(self, seconds: float, timeout: float) -> None:
        """Go up after a delivery that took `seconds`."""
        self.spans = min(2 * self.spans, _MOST_SPANS)
        if seconds >= _FAST * timeout:
            return
        if self.bytes < _NEAR * self._too_large:
            middle = (self.bytes + self._too_large) / 2
            self.bytes = int(min(2 * self.bytes, middle, self._max_bytes))
            return
        self._requests += 1
        if self._requests > _MANY_REQUESTS:
            self._requests = 0
            self._too_large *= _MORE

    def fall(self, raw_bytes: int) -> None:
        """Go down after a request of so many bytes that took too long."""
        self.bytes = max(1, min(self.bytes, raw_bytes) // 2)

    def refuse(self, spans: int, raw_bytes: int, *, is_too_large: bool) -> None:
        """Send less than was refused the next time: a span of it is bad, or all of it too large."""
        if is_too_large and spans > 1:
            self._too_large, self._requests = raw_bytes, 0
            self.fall(raw_bytes)
        else:
            self.spans = max(1, spans // 2)
