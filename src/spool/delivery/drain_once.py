"""A drain by hand: what is pending now goes out at once, as far as its receivers take it.

Every route is an errand, with a patience of its own. Backoffs are ignored; a held route is tried
once.

Invariant: a drain makes nothing worse. What it cannot send is tried again no later than without it,
unless the receiver asked for that.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from spool.delivery import drain_full_disk
from spool.delivery.http.classification import Verdict
from spool.errors import SpoolDamagedError, SpoolUnavailableError
from spool.store import takeover
from spool.store.drainers import MOVES_SECONDS
from spool.system.words import count_of, duration_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from spool.delivery.drainer import Drainer
    from spool.settings.target import Target
    from spool.store.drainers import Presence
    from spool.store.records import Route

_FEW_FAILURES: Final = 3
_LONG_WAIT: Final = 60.0
_PAUSE: Final = 0.005


@dataclass(slots=True)
class _Errand:
    """One route: up to which span, and what is left of its patience.

    `failures` since the last delivery; without a `limit` they are not counted. `ending` says why
    the route is left alone.
    """

    target: Target
    last_id: int
    limit: float
    failures: int = 0
    not_before: float = 0.0
    ending: str = ""

    @property
    def is_over(self) -> bool:
        """Whether the route is left alone."""
        return self.failures >= self.limit

    def heed(
        self,
        verdict: Verdict | None,
        route: Route | None,
        backoff_seconds: tuple[float, float],
        *,
        is_unsettled: bool,
    ) -> None:
        """Decide what is left of the patience; `route` is what the file says of it now.

        `is_unsettled`: something of it was delivered, and the file refuses to settle that.
        """
        first, largest = backoff_seconds
        if verdict is Verdict.DELIVERED:
            self.failures = 0
        elif is_unsettled:  # all was sent that can be
            self._wait(first)
        elif verdict is Verdict.HOLD:
            self._give_up("a held route is tried once")
        elif verdict is Verdict.WAIT:
            wait = route.wait_seconds if route else 0.0
            self._wait(wait)
            # Nobody watches a command that sleeps for long, unless it was told how long.
            if wait > max(largest, _LONG_WAIT) and self.limit < math.inf:
                self._give_up(f"the next try is due in {duration_of(wait)}")
        elif verdict is None:  # another process sends, or the file is another by now
            self.not_before = time.monotonic() + _PAUSE
            if route is None or route.name != self.target.route:
                self._give_up("the spool file is another by now")

    def _wait(self, seconds: float) -> None:
        self.failures += 1
        self.not_before = time.monotonic() + seconds
        if self.is_over:
            self.ending = f"given up after {count_of(self.failures, 'try')}"

    def _give_up(self, why: str) -> None:
        """Leave the route alone, whatever the patience."""
        self.limit, self.ending = 0, why


def _ignore(route: str, end: float) -> None:
    """Tell nobody."""


def drain(
    drainer: Drainer,
    timeout: float | None,
    progress: Callable[[], None],
    pausing: Callable[[str, float], None] = _ignore,
) -> dict[str, str]:
    """Send what is pending now, ignoring every backoff; a held route is tried once.

    Without a `timeout` (seconds) a route is left alone after a few failures in a row. Gives the
    routes that were, and why. `progress` is called after each request, `pausing` before a pause,
    with the route that is waited for and until when (monotonic time). Raises SpoolError.
    """
    store, sending = drainer.store, drainer.client.timeout
    end = math.inf if timeout is None else time.monotonic() + timeout
    is_refused = not _is_taken_in(drainer, sending, end)
    limit = _FEW_FAILURES if timeout is None else math.inf
    endings: dict[str, str] = {}
    errands = {
        route.id: _Errand(target, store.last_id(route.name), limit)
        for route in sorted(store.routes(), key=lambda one: -(one.last_success_at or 0.0))
        if (target := drainer.routes.target_of(route)) is not None
    }
    while errands and (began_at := time.monotonic()) < end:
        drainer.show()
        for route_id, errand in list(errands.items()):
            now = time.monotonic()
            if errand.not_before <= now < end:
                _run(drainer, route_id, errand, began_at, end)
                progress()
            if errand.is_over or store.is_settled(errand.last_id):
                endings[errand.target.route] = errand.ending
                del errands[route_id]
        if errands:
            next_one = min(errands.values(), key=lambda one: one.not_before)
            _pause(drainer.presence, next_one, end, pausing)
    if is_refused:
        drain_full_disk.send_journals(drainer, end, progress)
    over = {errand.target.route: "the time is over" for errand in errands.values()}
    return {route: why for route, why in {**endings, **over}.items() if why}


def _pause(
    presence: Presence, next_one: _Errand, end: float, pausing: Callable[[str, float], None]
) -> None:
    until = min(next_one.not_before, end)
    if until > time.monotonic():
        pausing(next_one.target.route, until)
    while (seconds := until - time.monotonic()) > 0:
        presence.move()  # who waits is not stopped
        time.sleep(min(seconds, MOVES_SECONDS))


def _is_taken_in(drainer: Drainer, sending: float, end: float) -> bool:
    """Move what waits in the journals into rows; say whether the file takes that."""
    compress = drainer.settings.is_gzip
    try:
        takeover.take_over_all(drainer.store, compress=compress, sending=sending, end=end)
        drainer.routes.name_endpoints()
    except SpoolDamagedError:
        raise
    except SpoolUnavailableError:  # what cannot be settled, either, says why
        return False
    return True


def _run(drainer: Drainer, route_id: int, errand: _Errand, began_at: float, end: float) -> None:
    """Send one request of an errand, and see what is left of its patience."""
    verdict, route = _send(drainer, route_id, errand.target, began_at, end)
    errand.heed(
        verdict,
        route,
        drainer.settings.backoff_seconds,
        is_unsettled=drainer.row_delivery.has_unsettled(errand.target.route),
    )


def _send(
    drainer: Drainer, route_id: int, target: Target, began_at: float, end: float
) -> tuple[Verdict | None, Route | None]:
    """Send one request of a route, whatever its wait; no verdict where that was not possible.

    Gives also the route, as it waits then. Where its host has answered nobody since the round
    began, that tells for it, too.
    """
    store, routes = drainer.store, drainer.routes
    known, verdict = store.route(route_id), None
    lock = store.drain_lock if known is None else store.lock_of(known)
    with lock.take(drainer.client.timeout) as is_had:
        silence = drainer.client.silent_hosts.silence(target.endpoint, began_at)
        if is_had and known is not None and silence is not None:
            verdict = Verdict.WAIT
            routes.put_off([known], silence)
        elif is_had and (left := end - time.monotonic()) > 0:
            verdict = drainer.row_delivery.send(route_id, target, left, is_forced=True)
        route = store.route(route_id)
        if known and route and verdict in (Verdict.WAIT, Verdict.HOLD):
            routes.restore(known, route)
    return verdict, route
