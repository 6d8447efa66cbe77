"""The status: what waits, how old it is, what each route is doing, and what a person should see to.

The shape of `Report.as_json` is public: people script against its keys.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from spool.delivery.route_state import RouteState
from spool.journal.identity import Identity
from spool.store import drainer_presence
from spool.store.records import Route
from spool.system import spool_files

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from spool.delivery.routes import Routes
    from spool.journal.frames import Frame
    from spool.store.records import Ledger, Trouble
    from spool.store.store import Store

# So long it is a concern that spans were evicted, refused or damaged; the ledger tells it for ever.
_A_DAY: Final = 86400.0


@dataclass(frozen=True, slots=True)
class Report:
    """A spool at one moment; `now` is in seconds since 1970."""

    path: Path
    file_bytes: int
    max_bytes: int
    ledger: Ledger
    is_running: bool
    pid: int | None
    routes: tuple[Route, ...]
    states: tuple[RouteState, ...]
    missing: tuple[str, ...]
    trouble: Trouble
    is_disk_cramped: bool
    strangers: tuple[str, ...]
    unreadable: tuple[str, ...]
    now: float

    @classmethod
    def of(cls, store: Store, routes: Routes, max_bytes: int, now: float) -> Report:
        """Read a spool's state; `routes` knows whose secrets this environment holds."""
        is_running, pid = drainer_presence.drainer(store)
        with store.database.file_errors():
            strangers = tuple(spool_files.strangers(store.database.path))
        known = tuple(_with_inbound(store.routes(), store.inbound()))
        missing = tuple(routes.missing(one) for one in known)
        return cls(
            path=store.database.path,
            file_bytes=store.database.file_bytes(),
            max_bytes=max_bytes,
            ledger=store.ledger(),
            is_running=is_running,
            pid=pid,
            routes=known,
            states=tuple(
                RouteState.of(one, now, is_secret_known=not said)
                for one, said in zip(known, missing, strict=True)
            ),
            missing=missing,
            trouble=store.last_trouble(),
            is_disk_cramped=store.database.is_cramped(),
            strangers=strangers,
            unreadable=tuple(f"{p.name}: {why}" for p, why in sorted(store.unreadable.items())),
            now=now,
        )

    @property
    def oldest_seconds(self) -> float | None:
        """The age of the oldest pending span; None where nothing is pending."""
        return max((a for r in self.routes if (a := _age(r, self.now)) is not None), default=None)

    def as_json(self) -> dict[str, Any]:
        """Give the public shape."""
        return {
            "path": str(self.path),
            "file_bytes": self.file_bytes,
            "max_bytes": self.max_bytes,
            "pending": {
                "spans": self.ledger.pending,
                "batches": sum(route.pending_batches for route in self.routes),
                "bytes": sum(route.pending_bytes for route in self.routes),
                "oldest_seconds": _rounded(self.oldest_seconds),
            },
            "ledger": asdict(self.ledger),
            "drainer": {"running": self.is_running, "pid": self.pid},
            "routes": [
                _route_json(route, state, self.now)
                for route, state in zip(self.routes, self.states, strict=True)
            ],
        }

    def concerns(self, max_age: float) -> list[str]:
        """Say what a person should see to; `max_age` in seconds. Empty where all is well."""
        routes = zip(self.routes, self.states, self.missing, strict=True)
        found = [said for of_route in routes if (said := self._concern(*of_route, max_age))]
        if self.ledger.dead:
            found.append(
                f"{self.ledger.dead} spans are dead letters; see `python -m spool dead list`"
            )
        if self._is_recent(self.trouble.damaged_at):
            found.append(
                f"the file was damaged and salvaged, {self.ledger.damaged} spans are known to be "
                "lost; see to the disk"
            )
        if self._is_recent(self.trouble.evicted_at):
            found.append(
                f"spans are evicted, {self.ledger.evicted} in all; raise SPOOL_MAX_BYTES or "
                "SPOOL_MAX_AGE_SECONDS"
            )
        if self._is_recent(self.trouble.refused_at):
            found.append(
                f"spans are refused, {self.ledger.refused} in all; raise SPOOL_MAX_BYTES, or see "
                "to the disk"
            )
        if self.is_disk_cramped:
            found.append("the disk is almost full: spans are held in memory; make room there")
        found += [
            f"passed over, as it is none of the spool's: {one}; remove it" for one in self.strangers
        ]
        found += [
            f"a journal cannot be read, what it holds is in no count: {one}; see to the disk"
            for one in self.unreadable
        ]
        if self.ledger.pending and not self.is_running:
            found.append(
                f"{self.ledger.pending} spans wait and no process drains; `python -m spool drain`"
            )
        return found

    def _concern(self, route: Route, state: RouteState, missing: str, max_age: float) -> str:
        if state is RouteState.HELD:
            # What single spans were refused for may be theirs: others that come will tell.
            cure = "headers, or what stands between" if route.suspect_to else "keys"
            return f"route {route.name} is held: {route.last_error}; correct the host or the {cure}"
        if state is RouteState.NO_SECRET:
            spans = route.pending_spans
            return f"route {route.name}: {spans} spans wait: {missing}"
        age, silence = _age(route, self.now), self._since(route.last_success_at)
        if age is not None and age > max_age and (silence is None or silence > max_age):
            why = f": {route.last_error}" if route.last_error else ""
            return (
                f"route {route.name}: nothing was delivered for {max_age:g} s, and older spans "
                f"wait{why}"
            )
        return ""

    def _since(self, at: float | None) -> float | None:
        return None if at is None else max(0.0, self.now - at)

    def _is_recent(self, at: float | None) -> bool:
        since = self._since(at)
        return since is not None and since < _A_DAY


def _with_inbound(routes: Iterable[Route], inbound: Iterable[Frame]) -> Iterable[Route]:
    """Add to the routes what waits in the journals for them."""
    by_name = {route.name: route for route in routes}
    for frame in inbound:
        name, endpoint, public_key, _ = Identity.decode(frame.identity)
        route = by_name.get(name) or Route.unknown(name, endpoint, public_key)
        oldest_at = frame.created_at if route.oldest_at is None else route.oldest_at
        by_name[name] = replace(
            route,
            pending_spans=route.pending_spans + frame.batch.spans,
            pending_batches=route.pending_batches + 1,
            pending_bytes=route.pending_bytes + frame.batch.raw_bytes,
            oldest_at=min(oldest_at, frame.created_at),
        )
    return by_name.values()


def _age(route: Route, now: float) -> float | None:
    return None if route.oldest_at is None else max(0.0, now - route.oldest_at)


def _next_attempt(route: Route, now: float) -> float:
    return max(0.0, min(route.waited_at + route.wait_seconds - now, route.wait_seconds))


def _route_json(route: Route, state: RouteState, now: float) -> dict[str, Any]:
    succeeded = route.last_success_at
    return {
        "route": route.name,
        "endpoint": route.endpoint,
        "public_key": route.public_key,
        "state": state.value,
        "attempts": route.attempts,
        "next_attempt_seconds": _rounded(_next_attempt(route, now)),
        "last_error": route.last_error or None,
        "last_success_seconds": None if succeeded is None else _rounded(max(0.0, now - succeeded)),
        "pending_spans": route.pending_spans,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
