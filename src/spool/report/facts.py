"""The facts: what a spool, its routes and its disk say of themselves at one moment."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from spool.delivery.route_state import RouteState
from spool.journal.identity import Identity
from spool.store import drainers, history
from spool.store.journal_chunks import inbound_bytes
from spool.store.records import Route
from spool.system import disk, spool_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from typing_extensions import Self

    from spool.delivery.routes import Routes
    from spool.journal.frames import Frame
    from spool.store.drainers import SeenDrainer
    from spool.store.records import Ledger, Trouble
    from spool.store.store import Store


DiskState = Literal["ok", "almost-full", "read-only"]


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a spool empties. `seconds_left` is None where as much comes as goes."""

    spans_per_second: float
    seconds_left: float | None


@dataclass(frozen=True, slots=True)
class Facts:
    """A spool at one moment; `now` is in seconds since 1970.

    `drainers` are the processes that drain it, those that are stopped, too; `pid` is that of one
    which is not. `missing` is what keeps a route from being sent, by them and from here: by its
    name, where something does.
    """

    path: Path
    file_bytes: int
    max_bytes: int
    ledger: Ledger
    drainers: tuple[SeenDrainer, ...]
    pid: int | None
    routes: tuple[Route, ...]
    states: tuple[RouteState, ...]
    missing: Mapping[str, str]
    trouble: Trouble
    refused_by: str
    used_bytes: int
    free_bytes: int
    disk: DiskState
    strangers: tuple[str, ...]
    unreadable: tuple[str, ...]
    now: float

    @classmethod
    def of(cls, store: Store, routes: Routes, max_bytes: int, now: float) -> Self:
        """Read a spool's state; `routes` knows whose secrets this environment holds."""
        seen = drainers.seen(store)
        with store.database.file_errors():
            strangers = tuple(spool_files.strangers(store.database.path))
            free, is_readonly = disk.free(store.database.path.parent)
        is_full = store.database.is_cramped()
        state: DiskState = "read-only" if is_readonly else "almost-full" if is_full else "ok"
        known = tuple(with_inbound(store.routes(), store.inbound()))
        missing = {
            one.name: said
            for one in known
            if not any(drainer.can_send(one.name) for drainer in seen)
            and (said := routes.missing(one))
        }
        return cls(
            path=store.database.path,
            file_bytes=store.database.file_bytes(),
            max_bytes=max_bytes,
            ledger=store.ledger(),
            drainers=seen,
            pid=_pid(seen, store.drain_lock.pid()),
            routes=known,
            states=tuple(
                RouteState.of(one, now, is_secret_known=one.name not in missing) for one in known
            ),
            missing=missing,
            trouble=store.last_trouble(),
            refused_by=_refused_by(store, now),
            used_bytes=store.database.live_bytes() + inbound_bytes(store.database),
            free_bytes=free,
            disk=state,
            strangers=strangers,
            unreadable=tuple(f"{p.name}: {why}" for p, why in sorted(store.unreadable.items())),
            now=now,
        )

    @property
    def is_running(self) -> bool:
        """Whether any process drains that is not stopped."""
        return not all(one.is_stopped for one in self.drainers)

    @property
    def oldest_seconds(self) -> float | None:
        """The age of the oldest pending span; None where nothing is pending."""
        return max((a for r in self.routes if (a := _age(r, self.now)) is not None), default=None)

    @property
    def is_under_way(self) -> bool:
        """Whether something that waits is being sent, as far as can be told."""
        states = zip(self.routes, self.states, strict=True)
        return any(
            route.pending_spans and state is RouteState.OK and self.is_sent(route)
            for route, state in states
        )

    def is_sent(self, route: Route) -> bool:
        """Say whether any process that drains can send a route, as far as is known."""
        return any(one.can_send(route.name) for one in self.drainers)

    def pace(self, earlier: Facts) -> Pace:
        """Tell how fast it empties, by what was there earlier."""
        seconds = max(self.now - earlier.now, 0.001)
        rate = (self.ledger.delivered - earlier.ledger.delivered) / seconds
        less = (earlier.ledger.pending - self.ledger.pending) / seconds
        return Pace(max(0.0, rate), self.ledger.pending / less if less > 0 else None)

    def missing_of(self, route: Route) -> str:
        """Say what keeps a route from being sent; nothing where it can be."""
        return self.missing.get(route.name, "")

    def failing_seconds(self, route: Route) -> float | None:
        """Tell for how long a route has been failing; None where it does not, or nobody knows."""
        began = route.failing_since
        return None if began is None or not route.attempts else max(0.0, self.now - began)

    def next_attempt_seconds(self, route: Route) -> float:
        """Tell in how many seconds a route is tried next."""
        seconds = route.wait_seconds
        return max(0.0, min(route.waited_at + seconds - self.now, seconds))


def with_inbound(routes: Iterable[Route], inbound: Iterable[Frame]) -> Iterable[Route]:
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


def _refused_by(store: Store, now: float) -> str:
    """Say why spans were refused last, within a day; nothing where no history tells it."""
    if (store.last_trouble().refused_at or 0.0) < now - 86400:
        return ""
    with store.database.reading() as connection:
        found = history.events(connection, now - 86400)
    return next((one.words for one in reversed(found) if one.kind == history.Kind.REFUSED), "")


def _pid(seen: Iterable[SeenDrainer], last: int | None) -> int | None:
    """Give the pid of who drains: of many who had a turn `last`; None where nobody does."""
    pids = [one.pid for one in seen if not one.is_stopped]
    return last if last in pids else next(iter(pids), None)


def _age(route: Route, now: float) -> float | None:
    return None if route.oldest_at is None else max(0.0, now - route.oldest_at)
