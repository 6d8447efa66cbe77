"""The routes: whose spans can be sent from here, to which target, and when.

Invariants:

- A process sends only routes whose secret it has, to the endpoint that its owner named: in the
  settings or the credentials file, else the remembered one (see `credentials` for those secrets).
- Waits and holds must outlive the process: they are written to the store, and remembered here only
  while the file refuses them.
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from spool.delivery import backoff
from spool.delivery.backoff import HOLD_SECONDS
from spool.delivery.causes import Cause
from spool.delivery.route_state import probe_wait_of, wait_of, waits_of
from spool.delivery.silent_hosts import Silence
from spool.errors import SettingsError, SpoolError
from spool.journal.identity import Identity
from spool.settings.credentials import Credentials
from spool.settings.known_targets import KnownTargets
from spool.settings.target import Named, Target
from spool.store import route_waits
from spool.system.log import LimitedWarnings
from spool.system.words import count_of, duration_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from spool.delivery.client import Client
    from spool.delivery.http.classification import Outcome
    from spool.settings.settings import Settings
    from spool.store.records import Route
    from spool.store.store import Store


# So long other routes wait for one that was never delivered yet.
_FIRST_SECONDS: Final = 1.0
_AN_HOUR: Final = 3600.0


@dataclass(frozen=True, slots=True)
class _Failure:
    """What the file does not know of a route whose last request from here was not delivered.

    So many `attempts`, and until when it waits, in monotonic time: nothing where it was written.
    """

    attempts: int = 0
    until: float = -math.inf


class Routes:
    """The routes of one store, as this process may send them."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        client: Client,
        clock: Callable[[], float],
        targets: KnownTargets | None = None,
    ) -> None:
        self.targets = KnownTargets() if targets is None else targets
        self._store = store
        self._settings = settings
        self._client = client
        self._clock = clock
        self._failures: dict[str, _Failure] = {}
        self._warnings = LimitedWarnings()
        self._downs: dict[str, LimitedWarnings] = {}
        self._first_backoff = settings.backoff_seconds[0]
        self._credentials = Credentials(settings.credentials_file, store.database.path)

    # Whose spans

    def add(self, target: Target) -> None:
        """Send this target's route from now on."""
        self.targets.add(target)

    def target_of(self, route: Route) -> Target | None:
        """Give the target that a route's spans go to; None where its secret is not known."""
        return self._find(route)[0]

    def sendable(self, waiting: Iterable[Route]) -> set[str]:
        """Name the routes that can be sent from here: all that are known, and those that wait."""
        found = {route.name for route in waiting if self.target_of(route) is not None}
        return found.union(target.route for target in self.targets.values())

    def credentials_state(self) -> object:
        """Give what is different after each change of the credentials file."""
        with contextlib.suppress(OSError):
            return self._credentials.state()
        return None

    def read_credentials(self) -> None:
        """Read the credentials file now: what is wrong with it is said when it is needed."""
        with contextlib.suppress(SettingsError):
            self._credentials.of("")

    def reload_credentials(self) -> str:
        """Read the credentials file again; say what has changed.

        Raises SettingsError where it cannot be read: then those stay that were read before.
        """
        return self._credentials.reload()

    def missing(self, route: Route) -> str:
        """Say what is missing for sending a route from here; nothing where it can be sent."""
        return self._find(route)[1]

    def _find(self, route: Route) -> tuple[Target | None, str]:
        target = self.targets.get(route.name)
        if target is not None:
            is_named = target.named is not Named.BY_NOBODY
            return (target if is_named else target.at(route.endpoint)), ""
        try:
            if (key := route.public_key) and (credential := self._credentials.of(key)) is not None:
                found = credential.target_of(route.name, key, self._settings.named_endpoint)
                return self._settings.with_extra_headers(found), ""
        except SettingsError as error:
            self._warnings.warn("routes wait for their secrets", f"{route.name}: {error}")
            return None, str(error)
        adopt = (
            f"give its spans to the project of your keys by `python -m spool adopt {route.name}`"
        )
        if route.public_key is None:
            here = f"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT={route.endpoint} and its headers"
            return None, f"nobody here is set to send there; run a drainer with {here}, or {adopt}"
        with_keys = "run a drainer with its keys, or with a SPOOL_CREDENTIALS_FILE that has them"
        return None, f"its secret is not known here; {with_keys}, or {adopt}"

    def name_endpoints(self) -> None:
        """Let the spool know where its routes go now, if their owner names it. Raises SpoolError.

        What makes spans says so with them; what only sends them does here.
        """
        for route in self._store.routes():
            target = self.target_of(route)
            is_named = target is not None and target.named is Named.BY_OWNER
            if target and is_named and Identity.of(target).endpoint != route.endpoint:
                self._store.register(target)

    # When

    def now(self) -> float:
        """Tell the time, in seconds since 1970."""
        return self._clock()

    def is_due(self, route: Route, target: Target) -> bool:
        """Say whether a route's wait is over, by the store, or something of it need not wait."""
        now = self.now()
        wait = wait_of(route, self.fingerprint(target) if route.fingerprints else "")
        if wait.is_to_come(now):  # wait from now on, once
            route_waits.restart_wait(self._store.database, route, now)
        return wait.is_over(now) or self._is_probe_due(route, now)

    def _is_probe_due(self, route: Route, now: float) -> bool:
        """Say whether spans that came since others were suspected are to be tried by themselves."""
        if not route.suspect_to or not probe_wait_of(route, self._first_backoff).is_over(now):
            return False
        return self._store.newest_id(route.id) > route.suspect_to

    def next_due(self, routes: Iterable[Route]) -> float:
        """Tell in how many seconds the next of these waits is over; infinity for none."""
        now = self.now()
        waits = [w.left(now) for route in routes for w in waits_of(route, self._first_backoff)]
        troubles = [one.until - time.monotonic() for one in list(self._failures.values())]
        return min((left for left in (*waits, *troubles) if left > 0), default=math.inf)

    def has_unwritten_wait(self, route: str) -> bool:
        """Say whether a route waits, and the file could not take that."""
        failure = self._failures.get(route)
        return failure is not None and time.monotonic() < failure.until

    def has_failed(self, route: str) -> bool:
        """Say whether the last request of a route from here was not delivered."""
        return route in self._failures

    def well_target_of(self, route: Route) -> Target | None:
        """Give the target of a route whose last request was delivered; None where it was not."""
        if route.attempts or self.has_unwritten_wait(route.name):
            return None
        target = self.target_of(route)
        if target is None or not route.fingerprints:
            return target
        return None if self.fingerprint(target) in route.fingerprints else target

    def hold(
        self, route: Route, target: Target, outcome: Outcome, suspect_to: int = 0, probes: int = 0
    ) -> None:
        """Keep a route's spans from this target: no backoff helps. Raises SpoolError.

        With `suspect_to` those up to that id: perhaps it is they that are refused. So many `probes`
        of what came since were refused as well.
        """
        self._remember(route.name, route.attempts, HOLD_SECONDS)
        self._say_down(f"route {route.name} is held", route.name, outcome)
        self._client.doubt_encoding(route.name)
        fingerprint, now = self.fingerprint(target), self.now()
        database, reason, cause = self._store.database, outcome.reason, outcome.cause.value
        route_waits.hold(database, route, fingerprint, HOLD_SECONDS, now, reason, cause=cause)
        self._suspect(route, suspect_to, probes)

    def wait(self, route: Route, outcome: Outcome, suspect_to: int = 0) -> None:
        """Keep a route's spans for a later attempt, or those up to an id. Raises SpoolError."""
        delay = self._delay(route.name, route.attempts, outcome)
        self._remember(route.name, route.attempts, delay)
        self._say_down(f"route {route.name} waits", route.name, outcome)
        if outcome.is_unanswered:
            self._client.mute(route.name, delay, outcome)
        database, reason, cause = self._store.database, outcome.reason, outcome.cause.value
        route_waits.wait(database, route, delay, self.now(), reason, cause=cause)
        self._suspect(route, suspect_to)

    def _suspect(self, route: Route, suspect_to: int, probes: int = 0) -> None:
        if suspect_to:
            route_waits.suspect(self._store.database, route, suspect_to, probes)
        # What memory holds of the route may have been delivered meanwhile, by another thread.
        if route.name in self._failures:
            self._failures[route.name] = _Failure()

    def restore(self, before: Route, failed: Route) -> None:
        """Undo what a try by hand has done to a wait that was there before: it makes none longer.

        Unless the receiver asked for that: Langfuse caches an unknown key anew with each request.
        Raises SpoolError.
        """
        is_asked = Cause.of(failed.cause) in (Cause.ASKED_TO_WAIT, Cause.KEYS)
        if before.attempts and before.fingerprints == failed.fingerprints and not is_asked:
            route_waits.restore(self._store.database, before)

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
        database, reason, cause = self._store.database, silence.reason, silence.cause.value
        route_waits.put_off(database, waits, self.now(), reason, cause=cause)

    def longest(self, route: Route, *, is_delaying: bool) -> float:
        """Give how many seconds a request may take, of a route that is `is_delaying` others."""
        timeout = self._client.timeout
        is_unknown = is_delaying and route.last_success_at is None
        return min(_FIRST_SECONDS, timeout) if is_unknown else timeout

    def cut_short(self, route: Route, target: Target, asked_at: float, seconds: float) -> None:
        """Leave a route to the lane of the troubled: its request took too long for the others.

        It is tried there at once, with all the time that a request has. Raises SpoolError.
        """
        now = time.monotonic()
        reason = f"no complete answer within {seconds:g} s, while others waited"
        cause = Cause.NO_ANSWER
        self._client.silent_hosts.mute(target.endpoint, asked_at, seconds, reason, cause)
        self.put_off([route], Silence(now, now, reason, cause))

    def wait_without_file(self, route: str, outcome: Outcome) -> None:
        """Remember that a route waits: the file takes nothing."""
        self._remember(route, 0, self._delay(route, 0, outcome))

    def _remember(self, route: str, attempts: int, delay: float) -> None:
        attempts, until = self._attempts(route, attempts) + 1, time.monotonic() + delay
        self._failures[route] = _Failure(attempts, until)

    def _attempts(self, route: str, stored: int) -> int:
        known = self._failures.get(route)
        return max(stored, known.attempts if known else 0)

    def _delay(self, route: str, attempts: int, outcome: Outcome) -> float:
        first, largest = self._settings.backoff_seconds
        if outcome.retry_after is not None:
            return max(outcome.retry_after, first)
        return backoff.draw(self._attempts(route, attempts) + 1, first, largest)

    def fingerprint(self, target: Target) -> str:
        """Give what tells a target from others, and is no secret."""
        return target.fingerprint(self._store.salt())

    def count(self, route: str, spans: int, outcome: Outcome) -> None:
        """Count the spans of a request that is done, some of them dead: its route is well."""
        dead = min(outcome.rejected, spans)
        if dead:
            self._warnings.warn(f"route {route}: dead letters", outcome.reason)
        self._failures.pop(route, None)
        if dead < spans and self._downs.pop(route, None) is not None:
            self._say_up(route)
        self._client.ended(route, spans - dead, dead)

    def _say_down(self, what: str, route: str, outcome: Outcome) -> None:
        """Say why a route is not sent: once, and once an hour as long as that lasts."""
        said = self._downs.setdefault(route, LimitedWarnings(_AN_HOUR))
        # Each cause by itself, but not each of the words that servers find.
        said.warn(what, _advice(outcome), kind=outcome.cause.value)

    def say_recovered(self) -> None:
        """Say of routes that were down here, and that others found well, that they work again.

        Raises SpoolError.
        """
        downs = [name for name in list(self._downs) if not self._is_unwritten(name)]
        routes = {route.name: route for route in self._store.routes()} if downs else {}
        for name in downs:
            route = routes.get(name)
            if route is not None and not route.attempts and self._downs.pop(name, None) is not None:
                self._say_up(name)

    def _is_unwritten(self, route: str) -> bool:
        """Say whether the file does not know of the last failure of a route from here."""
        failure = self._failures.get(route)
        return failure is not None and failure.attempts > 0

    def _say_up(self, name: str) -> None:
        """Say that a route works again; as a warning, which who saw the other one sees, too."""
        waiting: list[Route] = []
        with contextlib.suppress(SpoolError):
            waiting = [route for route in self._store.waiting() if route.name == name]
        said = "what waited is being sent"
        for route in waiting:
            are = "is" if route.pending_spans == 1 else "are"
            said = f"{count_of(route.pending_spans, 'span')} that waited {are} being sent"
            if route.failing_since is not None:
                said = f"after {duration_of(max(0.0, self.now() - route.failing_since))}, {said}"
        self._warnings.warn(f"route {name} works again", said)


def _advice(outcome: Outcome) -> str:
    return f"{outcome.cause.explain(outcome.reason)}; {outcome.cause.remedy}"
