"""The client: one request of a route's batches, and what is known of those that read them.

Invariants:

- One that may not read gzip is asked once more without it, within the same deadline.
- How much a request may hold, and which hosts are silent, is found again within a few requests: it
  lives as long as a drainer.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from spool.delivery.http.classification import Outcome, Verdict
from spool.delivery.http.connection_pool import ConnectionPool
from spool.delivery.http.sender import Sender
from spool.delivery.metrics import RequestMetrics
from spool.delivery.request_size import RequestSize
from spool.delivery.silent_hosts import SilentHosts
from spool.errors import PayloadError
from spool.otlp.batch import join
from spool.system.log import LimitedWarnings, logger
from spool.system.redaction import without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from spool.otlp.batch import Batch
    from spool.settings.settings import Settings
    from spool.settings.target import Target


# So many spans, in so many bytes, when so many had been sent before.
_NOTHING_UNDER_WAY: Final = (0, 1, 0)


@dataclass(slots=True)
class Tally:
    """What one drainer did: spans delivered, requests sent, spans that became dead letters."""

    delivered: int = 0
    requests: int = 0
    dead: int = 0


class Client:
    """Sends the requests of all routes, over connections that are kept open.

    `timeout` is how many seconds a request may last at most. `asked_at` is when the last one began
    that is not done, by the monotonic clock; None where none is.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self.tally = Tally()
        self.connections = ConnectionPool(settings)
        self.silent_hosts = SilentHosts()
        self.timeout = settings.timeout_seconds
        self._metrics = RequestMetrics(settings.path)
        self._settings = settings
        self._clock = clock
        self._senders: dict[str, Sender] = {}
        self._request_sizes: dict[str, RequestSize] = {}
        self._unanswered: dict[str, tuple[str, float]] = {}
        self._warnings = LimitedWarnings()
        self.asked_at: float | None = None
        self._under_way = _NOTHING_UNDER_WAY

    def spans_under_way(self) -> float:
        """Tell how many spans of the last request that is not done were sent, by its bytes."""
        spans, size, before = self._under_way
        return spans * min(self.connections.sent_bytes - before, size) / size

    def request_size(self, route: str) -> RequestSize:
        """Give how much a request of a route may hold."""
        return self._request_sizes.setdefault(route, RequestSize(self._settings.max_request_bytes))

    def post(self, target: Target, batches: Sequence[Batch], timeout: float) -> Outcome:
        """Send batches as one request, within `timeout` seconds; say what came of it.

        Where that is not read, and no gzip body was yet, they are sent once more as they are.
        """
        with self._metrics.operation(target, sum(batch.spans for batch in batches)) as operation:
            operation.outcome = self._post(target, batches, timeout)
        return operation.outcome

    def ended(self, route: str, delivered: int, dead: int) -> None:
        """Count spans of a route that are done."""
        self.tally.delivered += delivered
        self.tally.dead += dead
        sender = self._senders.get(route)
        self._metrics.ended(None if sender is None else sender.target, delivered, dead)

    def _post(self, target: Target, batches: Sequence[Batch], timeout: float) -> Outcome:
        sender = self._senders.get(target.route)
        if sender is None or sender.target != target:
            sender = self._senders[target.route] = Sender(target, self._settings, self.connections)
        end, encoding = time.monotonic() + timeout, sender.encoding
        spans = sum(batch.spans for batch in batches)
        try:
            outcome = self._send(sender, join(batches, compress=encoding.is_gzip), spans, timeout)
            is_doubtful = encoding.is_doubtful(outcome, spans, self._clock())
            if not is_doubtful or (left := end - time.monotonic()) <= 0:
                return outcome
            body = join(batches, compress=False)
        except PayloadError as error:
            return Outcome(Verdict.SPLIT, str(error), is_damage=True)
        refused, outcome = outcome, self._send(sender, body, spans, left)
        encoding.learn(refused, outcome, self._clock())
        if not encoding.is_gzip:
            trouble = f"route {target.route} reads no gzip"
            said = f"it said {refused.reason}; it gets uncompressed requests now"
            self._warnings.warn(trouble, said)
        return outcome

    def _send(self, sender: Sender, body: bytes, spans: int, timeout: float) -> Outcome:
        self.tally.requests += 1
        target, asked_at = sender.target, time.monotonic()
        self._under_way = spans, max(1, len(body)), self.connections.sent_bytes
        self.asked_at = asked_at
        outcome = sender.send(body, timeout)
        self._under_way, self.asked_at = _NOTHING_UNDER_WAY, None
        if outcome.is_unanswered:
            self._unanswered[target.route] = target.endpoint, asked_at
        else:
            self.silent_hosts.answered(target.endpoint)
        logger.debug(
            "langfuse-spool: sent %d spans (%d bytes) in %.3f s to %s: %s %s",
            spans,
            len(body),
            time.monotonic() - asked_at,
            without_secrets(target.endpoint),
            outcome.verdict.value,
            outcome.reason,
        )
        return outcome

    def doubt_encoding(self, route: str) -> None:
        """Note that the receiver of a route takes nothing: it may be another one by now."""
        if (sender := self._senders.get(route)) is not None:
            sender.encoding.doubt()

    def mute(self, route: str, seconds: float, outcome: Outcome) -> None:
        """Note that the last request of a route got no answer, and waits for so many seconds."""
        if asked := self._unanswered.pop(route, None):
            self.silent_hosts.mute(*asked, seconds, outcome.reason, outcome.cause)
