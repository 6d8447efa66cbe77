"""The lanes: routes that are well go out in one, those in trouble in the other.

Invariants:

- Which lane a route is in its row tells: in trouble is what has failed since its last delivery. So
  all processes agree, and that changes only when a request of its lane has ended.
- Each lane has a drain lock of its own, and only its holder sends, one request a turn. So a process
  that alone has a route's secret gets its turn, and who waits for a receiver that does not answer
  delays nobody who is well.
- Those that were delivered last go first, and in the lane of the well a failure that took long ends
  the pass: trouble that begins delays each other route by one request. One that was never delivered
  has only a short time for its first, while others wait.
- Where a host answers nobody one request tells for all of its routes.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from spool.delivery.http.classification import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from spool.delivery.client import Client
    from spool.delivery.routes import Routes
    from spool.delivery.silent_hosts import Silence
    from spool.settings.target import Target
    from spool.store.records import Route
    from spool.system.drain_lock import DrainLock

    Send = Callable[[int, Target, float], Verdict | None]

# So long a process is passed over before it tries to get its turn all the time.
_LONG: Final = 0.5
# A failure that took so long may have delayed others.
_SLOW: Final = 0.25


@dataclass(frozen=True, slots=True)
class _Miss:
    """A route's turn that was not to be had, while the last request of anybody's was the same.

    `since` is monotonic time.
    """

    sent: tuple[float | None, int]
    since: float

    def is_old(self) -> bool:
        """Say whether nobody seems to send the route."""
        return time.monotonic() - self.since > _LONG


class Lane:
    """Sends the routes of one lane, for one thread: one request of each in a pass.

    `send` sends one of a route, by its id, within so many seconds; None where that was cut short.
    """

    def __init__(
        self, lock: DrainLock, routes: Routes, client: Client, send: Send, *, is_troubled: bool
    ) -> None:
        self._is_troubled = is_troubled
        self._lock = lock
        self._routes = routes
        self._client = client
        self._send = send
        self._missed: dict[str, _Miss] = {}

    @property
    def has_missed(self) -> bool:
        """Whether a turn was not to be had in the last pass."""
        return bool(self._missed)

    def mine(self, due: Sequence[tuple[Route, Target]]) -> list[tuple[Route, Target]]:
        """Give those of the routes that are of this lane, those that were delivered last first."""
        mine = [one for one in due if one[0].is_troubled is self._is_troubled]
        return sorted(mine, key=lambda one: one[0].last_success_at or 0.0, reverse=True)

    def send(self, due: Sequence[tuple[Route, Target]]) -> bool:
        """Send one request of each route of this lane; say whether there may be more at once.

        Raises SpoolError.
        """
        left = self.mine(due)
        names = {route.name for route, _ in left}
        self._missed = {name: miss for name, miss in self._missed.items() if name in names}
        # Who is in trouble is there to be tried: only what this pass has found is told of others.
        since = time.monotonic() if self._is_troubled else -math.inf
        left, is_more = self._put_off(left, since), False
        while left:
            route, target = left.pop(0)
            asked_at = time.monotonic()
            is_delaying = bool(left) and not self._is_troubled
            longest = self._routes.longest(route, is_delaying=is_delaying)
            verdict = self._send_in_turn(route, target, longest)
            is_more = is_more or verdict in (Verdict.DELIVERED, Verdict.SPLIT)
            if verdict is not Verdict.WAIT:
                continue
            left = self._put_off(left, since)
            if left and not self._is_troubled and time.monotonic() - asked_at > _SLOW:
                return True
        return is_more or any(miss.is_old() for miss in self._missed.values())

    def _put_off(
        self, left: list[tuple[Route, Target]], since: float
    ) -> list[tuple[Route, Target]]:
        """Put off, in their turn, routes whose host is silent since then; give the others."""
        silent: dict[Silence, list[Route]] = {}
        others = []
        for route, target in left:
            silence = self._client.silent_hosts.silence(target.endpoint, since)
            if silence is None:
                others.append((route, target))
            else:
                silent.setdefault(silence, []).append(route)
        if silent:
            with self._lock.take(self._client.timeout) as is_had:
                for silence, routes in silent.items() if is_had else ():
                    self._routes.put_off(routes, silence)
        return others

    def _send_in_turn(self, route: Route, target: Target, longest: float) -> Verdict | None:
        """Send one request of a route, in its turn; remember the turn that was missed.

        Where nobody else sends the route, it looks for the turn all the time.
        """
        sent = route.last_success_at, route.attempts
        missed = self._missed.pop(route.name, None)
        if missed is None or missed.sent != sent:
            missed = _Miss(sent, time.monotonic())
        patience = _LONG if missed.is_old() else 0.0
        with self._lock.take(self._client.timeout, patience) as is_had:
            if is_had:
                return self._probe(route, target, longest)
        self._missed[route.name] = missed
        return None

    def _probe(self, route: Route, target: Target, longest: float) -> Verdict | None:
        """Send one request; what had only a short time for that gets more in the other lane."""
        asked_at = time.monotonic()
        verdict = self._send(route.id, target, longest)
        now = time.monotonic()
        if verdict is not None or longest == self._client.timeout or now - asked_at < longest:
            return verdict
        self._routes.cut_short(route, target, asked_at, longest)
        return Verdict.WAIT
