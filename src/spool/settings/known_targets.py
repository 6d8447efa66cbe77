"""Known targets: whose spans this process may send. Those that calls bring are bounded.

A target holds a secret, which only this process has: while spans of its route may wait, it is kept.

Invariant: a target is forgotten only when it was not used for a while, all that was appended before
has left the journal, and nothing of its route is pending.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from spool.settings.target import Named

if TYPE_CHECKING:
    from collections.abc import Collection

    from spool.settings.target import Target

# From so many on, those that are idle are forgotten.
MANY: Final = 64
_IDLE_SECONDS: Final = 60.0


class KnownTargets:
    """The target of each route, by its name; safe between threads and in signal handlers."""

    def __init__(self) -> None:
        self._known: dict[str, Target] = {}
        self._lasting: set[str] = set()
        self._used: dict[str, float] = {}

    def __len__(self) -> int:
        """Count them."""
        return len(self._known)

    def get(self, route: str) -> Target | None:
        """Give a route's target, if it is known."""
        return self._known.get(route)

    def __getitem__(self, route: str) -> Target:
        """Give a route's target. Raises KeyError."""
        return self._known[route]

    def values(self) -> list[Target]:
        """Give every target."""
        return list(self._known.values())

    def add(self, target: Target) -> Target:
        """Send this target's route from now on, for good; give it as it is known.

        Where its route is taken by another endpoint that the owner named, or by other headers that
        were given in code, it gets one of its own.
        """
        known = self._known.get(target.route) if target.route in self._lasting else None
        if known and _is_another(known, target):
            target = target.marked()
        self._lasting.add(target.route)
        self._known[target.route] = target
        return target

    def use(self, target: Target) -> None:
        """Note that spans of this target come: its route is sent as long as any of them wait."""
        route = target.route
        if route in self._lasting:
            return
        self._used[route] = time.monotonic()  # first: see `forget`
        self._known.setdefault(route, target)

    def idle(self) -> dict[str, float]:
        """Give the routes that were not used for a while, and when they last were.

        None while there are not many.
        """
        if len(self._known) <= MANY:
            return {}
        before = time.monotonic() - _IDLE_SECONDS
        return {route: used for route, used in list(self._used.items()) if used < before}

    def forget(self, idle: dict[str, float], pending: Collection[str]) -> None:
        """Forget those of `idle` that are so still, and of which nothing is `pending`."""
        for route, used in idle.items():
            if route in pending or self._used.get(route) != used:
                continue
            target = self._known.pop(route)
            if self._used.get(route) != used:  # it was used just now
                self._known.setdefault(route, target)
            else:
                del self._used[route]


def _is_another(known: Target, target: Target) -> bool:
    """Say whether it is for another receiver than the known one, and no new secret for that."""
    is_named = known.named is target.named is Named.BY_OWNER
    has_moved = is_named and known.endpoint != target.endpoint
    return has_moved or _given_headers(known) != _given_headers(target)


def _given_headers(target: Target) -> dict[str, str]:
    return {name: value for name, value in target.own_headers.items() if name != "authorization"}
