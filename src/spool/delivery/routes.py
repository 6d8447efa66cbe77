"""The line to the receivers: whose spans can be sent, when, how many at once, and one POST.

Invariants:

- A process sends only routes whose secret it has, to the endpoint that its owner named: in the
  settings or the credentials file, else the remembered one (see `credentials` for those secrets).
- Waits and holds must outlive the process: they are written to the store, and remembered here only
  while the file refuses them. The size, here, is found again within a few requests.
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from spool.delivery import backoff
from spool.delivery.backoff import HOLD_SECONDS
from spool.delivery.http.classification import Outcome, Verdict
from spool.delivery.http.connection_pool import ConnectionPool
from spool.delivery.http.sender import Sender
from spool.delivery.request_size import RequestSize
from spool.delivery.silent_hosts import Hosts
from spool.errors import PayloadError, SettingsError
from spool.otlp.batch import join
from spool.settings.credentials import Credentials
from spool.settings.known_targets import KnownTargets
from spool.settings.target import Named, Target
from spool.system.log import LimitedWarnings, logger
from spool.system.redaction import without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from spool.delivery.silent_hosts import Silence
    from spool.otlp.batch import Batch
    from spool.settings.settings import Settings
    from spool.store.records import Route
    from spool.store.store import Store


@dataclass(slots=True)
class Tally:
    """What one drainer did: spans delivered, requests sent, spans that became dead letters."""

    delivered: int = 0
    requests: int = 0
    dead: int = 0


@dataclass(frozen=True, slots=True)
class _Trouble:
    """A route's wait that the file could not take: `until` is monotonic time."""

    attempts: int
    until: float


class Routes:
    """Sends the routes of one store, to the targets it was given and the credentials file's."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        clock: Callable[[], float],
        targets: KnownTargets | None = None,
    ) -> None:
        self.tally = Tally()
        self.targets = KnownTargets() if targets is None else targets
        self._store = store
        self._settings = settings
        self._clock = clock
        self.connections = ConnectionPool(settings)
        self.hosts = Hosts()
        self._unanswered: dict[str, tuple[str, float]] = {}
        self._senders: dict[str, Sender] = {}
        self._request_sizes: dict[str, RequestSize] = {}
        self._troubles: dict[str, _Trouble] = {}
        self._failed: set[str] = set()
        self._warnings = LimitedWarnings()
        self._credentials = Credentials(settings.credentials_file, store.database.path)

    # Whose spans

    def add(self, target: Target) -> None:
        """Send this target's route from now on."""
        self.targets.add(target)

    def target_of(self, route: Route) -> Target | None:
        """Give the target that a route's spans go to; None where its secret is not known."""
        return self._find(route)[0]

    def credentials_state(self) -> object:
        """Give what is different after each change of the credentials file."""
        with contextlib.suppress(OSError):
            return self._credentials.state()
        return None

    def missing(self, route: Route) -> str:
        """Say what is missing for sending a route from here; nothing where it can be sent."""
        return self._find(route)[1]

    def _find(self, route: Route) -> tuple[Target | None, str]:
        target = self.targets.get(route.name)
        if target is not None:
            is_named = target.named is not Named.BY_NOBODY
            return (target if is_named else replace(target, endpoint=route.endpoint)), ""
        try:
            if (key := route.public_key) and (credential := self._credentials.of(key)) is not None:
                return credential.target_of(route.name, key, self._settings.named_endpoint), ""
        except SettingsError as error:
            self._warnings.warn("routes wait for their secrets", f"{route.name}: {error}")
            return None, str(error)
        adopt = f"`python -m spool adopt {route.name}`"
        return None, f"its secret is not known here; run a drainer with its keys, or {adopt}"

    # When

    def is_due(self, route: Route, target: Target) -> bool:
        """Say whether a route's wait is over, by the store, or something of it need not wait."""
        return self._is_wait_over(route, target) or self._is_probe_due(route)

    def _is_wait_over(self, route: Route, target: Target) -> bool:
        since, seconds = route.waited_at, route.wait_seconds
        if route.fingerprints:
            if self.fingerprint(target) in route.fingerprints:
                since, seconds = route.held_at, HOLD_SECONDS
            elif route.waited_at == route.held_at:
                return True  # a new secret or a new endpoint: it was not this that was refused
        waited = self._clock() - since
        if waited < 0 < seconds:  # the clock went back: wait from now on, once
            self._store.restart_wait(route, self._clock())
        return waited >= seconds

    def _is_probe_due(self, route: Route) -> bool:
        """Say whether spans that came since others were suspected are to be tried, for themselves.

        At once, and where they are refused as well more and more rarely, over restarts too.
        """
        if not route.suspect_to:
            return False
        is_time = self._clock() - route.waited_at >= self._probe_pause(route)
        return is_time and self._store.newest_id(route.id) > route.suspect_to

    def _probe_pause(self, route: Route) -> float:
        first = self._settings.backoff_seconds[0]
        return backoff.between_probes(route.probes, first, route.wait_seconds)

    def next_due(self, routes: Iterable[Route]) -> float:
        """Tell in how many seconds the next of these waits is over; infinity for none."""
        now = self._clock()
        waits = [
            at - now
            for route in routes
            for at in (
                route.waited_at + route.wait_seconds,
                route.held_at + HOLD_SECONDS,
                route.waited_at + self._probe_pause(route),
            )
        ]
        troubles = [one.until - time.monotonic() for one in list(self._troubles.values())]
        return min((left for left in (*waits, *troubles) if left > 0), default=math.inf)

    def is_in_trouble(self, route: str) -> bool:
        """Say whether a route waits, and the file could not take that."""
        trouble = self._troubles.get(route)
        return trouble is not None and time.monotonic() < trouble.until

    def has_failed(self, route: str) -> bool:
        """Say whether the last request of a route from here was not delivered."""
        return route in self._failed

    def is_well(self, route: Route) -> bool:
        """Say whether a route can be sent from here, and its last request was delivered."""
        target = self.target_of(route)
        if target is None or route.attempts or self.is_in_trouble(route.name):
            return False
        return not route.fingerprints or self.fingerprint(target) not in route.fingerprints

    def hold(
        self, route: Route, target: Target, outcome: Outcome, suspect_to: int = 0, probes: int = 0
    ) -> None:
        """Keep a route's spans from this target: no backoff helps. Raises SpoolError.

        With `suspect_to` those up to that id: perhaps it is they that are refused. So many `probes`
        of what came since were refused as well.
        """
        self._warnings.warn(f"route {route.name} is held", outcome.reason)
        self._remember(route.name, route.attempts, HOLD_SECONDS)
        if (sender := self._senders.get(route.name)) is not None:
            sender.encoding.doubt()
        fingerprint, now = self.fingerprint(target), self._clock()
        self._store.hold(route, fingerprint, HOLD_SECONDS, now, outcome.reason)
        self._suspect(route, suspect_to, probes)

    def wait(self, route: Route, outcome: Outcome, suspect_to: int = 0) -> None:
        """Keep a route's spans for a later attempt, or those up to an id. Raises SpoolError."""
        delay = self._delay(route.name, route.attempts, outcome)
        self._warnings.warn(f"route {route.name} waits", outcome.reason)
        if outcome.is_unanswered and (asked := self._unanswered.pop(route.name, None)):
            self.hosts.mute(*asked, delay, outcome.reason)
        self._remember(route.name, route.attempts, delay)
        self._store.wait(route, delay, self._clock(), outcome.reason)
        self._suspect(route, suspect_to)

    def _suspect(self, route: Route, suspect_to: int, probes: int = 0) -> None:
        if suspect_to:
            self._store.suspect(route, suspect_to, probes)
        del self._troubles[route.name]

    def put_off(self, routes: Sequence[Route], silence: Silence) -> None:
        """Keep the spans of routes whose host is silent until that is tried next.

        For no longer than if a request of their own had failed. Raises SpoolError.
        """
        first, largest = self._settings.backoff_seconds
        left = max(silence.until - time.monotonic(), 0.0)
        waits = [
            (route, min(left, backoff.longest(route.attempts + 1, first, largest)))
            for route in routes
        ]
        self._store.put_off(waits, self._clock(), silence.reason)

    def wait_without_file(self, route: str, outcome: Outcome) -> None:
        """Remember that a route waits: the file takes nothing."""
        self._remember(route, 0, self._delay(route, 0, outcome))

    def _remember(self, route: str, attempts: int, delay: float) -> None:
        self._failed.add(route)
        self._troubles[route] = _Trouble(
            self._attempts(route, attempts) + 1, time.monotonic() + delay
        )

    def _attempts(self, route: str, stored: int) -> int:
        known = self._troubles.get(route)
        return max(stored, known.attempts if known else 0)

    def _delay(self, route: str, attempts: int, outcome: Outcome) -> float:
        first, largest = self._settings.backoff_seconds
        if outcome.retry_after is not None:
            return max(outcome.retry_after, first)
        return backoff.draw(self._attempts(route, attempts) + 1, first, largest)

    def fingerprint(self, target: Target) -> str:
        """Give what tells a target from others, and is no secret."""
        return target.fingerprint(self._store.salt())

    # How many at once, and the POST

    def request_size(self, route: str) -> RequestSize:
        """Give how much a request of a route may hold."""
        return self._request_sizes.setdefault(route, RequestSize(self._settings.max_request_bytes))

    def post(self, target: Target, batches: Sequence[Batch], timeout: float) -> Outcome:
        """Send batches as one request, within `timeout` seconds; say what came of it.

        Where that is not read, and no gzip body was yet, they are sent once more as they are.
        """
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
        encoding.is_gzip = False
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
        outcome = sender.send(body, timeout)
        if outcome.is_unanswered:
            self._unanswered[target.route] = target.endpoint, asked_at
        else:
            self.hosts.answered(target.endpoint)
        logger.debug(
            "langfuse-spool: sent %d spans (%d bytes) to %s: %s %s",
            spans,
            len(body),
            without_secrets(target.endpoint),
            outcome.verdict.value,
            outcome.reason,
        )
        return outcome

    def count(self, route: str, spans: int, dead: int, reason: str) -> None:
        """Count the spans of a request that is done, some of them dead: its route is well."""
        if dead:
            self._warnings.warn(f"route {route}: dead letters", reason)
        self._troubles.pop(route, None)
        self._failed.discard(route)
        self.tally.delivered += spans - dead
        self.tally.dead += dead
