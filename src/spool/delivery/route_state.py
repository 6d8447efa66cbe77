"""What a route's row says: how it stands, and for how long it waits. `routes` acts on it.

Nothing here reads or writes a file, a clock or a network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from spool.delivery import backoff

if TYPE_CHECKING:
    from spool.store.records import Route


# A span that nobody sends for so long, though a drainer runs, waits for somebody with the secret.
SOON: Final = 30.0


class RouteState(Enum):
    """How a route stands; the values are public, as `status --json` has them."""

    OK = "ok"
    WAITING = "waiting"  # for the next attempt, after a backoff
    HELD = "held"  # the receiver refuses what is configured
    NO_SECRET = "no-secret"  # noqa: S105 - says that there is none

    @classmethod
    def of(cls, route: Route, now: float, *, is_secret_known: bool) -> RouteState:
        """Say how a route stands; `now` is in seconds since 1970."""
        if not route.pending_spans:
            return cls.OK  # what failed was adopted, purged or evicted since
        if route.is_held:
            return cls.HELD
        is_left_alone = route.oldest_at is not None and now - route.oldest_at > SOON
        if is_left_alone and not is_secret_known:  # whatever came of it when somebody had that
            return cls.NO_SECRET
        return cls.WAITING if route.attempts else cls.OK


@dataclass(frozen=True, slots=True)
class Wait:
    """So many seconds from a moment on, which is in seconds since 1970."""

    since: float
    seconds: float

    def left(self, now: float) -> float:
        """Tell how many seconds of it are left; none or fewer where it is over."""
        return self.since + self.seconds - now

    def is_over(self, now: float) -> bool:
        """Say whether it has been waited for."""
        return now - self.since >= self.seconds

    def is_to_come(self, now: float) -> bool:
        """Say whether it begins only later: the clock went back."""
        return now < self.since and self.seconds > 0


NO_WAIT: Final = Wait(-math.inf, 0.0)


def wait_of(route: Route, fingerprint: str) -> Wait:
    """Give the wait that counts for a target with this fingerprint."""
    if fingerprint in route.fingerprints:
        return Wait(route.held_at, backoff.HOLD_SECONDS)
    if route.fingerprints and route.waited_at == route.held_at:
        return NO_WAIT  # a new secret or a new endpoint: it was not this that was refused
    return Wait(route.waited_at, route.wait_seconds)


def probe_wait_of(route: Route, first: float) -> Wait:
    """Give the wait of what has come since others were suspected; `first` is the least backoff.

    None at first, and where it is refused as well more and more, over restarts too.
    """
    pause = backoff.between_probes(route.probes, first, route.wait_seconds)
    return Wait(route.waited_at, pause)


def waits_of(route: Route, first: float) -> tuple[Wait, ...]:
    """Give all that may count, whatever its target."""
    return (
        Wait(route.waited_at, route.wait_seconds),
        Wait(route.held_at, backoff.HOLD_SECONDS),
        probe_wait_of(route, first),
    )
