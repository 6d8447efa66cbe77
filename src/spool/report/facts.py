"""The facts: what a spool, its routes and its disk say of themselves at one moment."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from spool.delivery.route_state import RouteState
from spool.journal.identity import Identity
from spool.store import drainer_presence
from spool.store.records import Route
from spool.system import spool_files

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from typing_extensions import Self

    from spool.delivery.routes import Routes
    from spool.journal.frames import Frame
    from spool.store.records import Ledger, Trouble
    from spool.store.store import Store


@dataclass(frozen=True, slots=True)
class Facts:
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
    def of(cls, store: Store, routes: Routes, max_bytes: int, now: float) -> Self:
        """Read a spool's state; `routes` knows whose secrets this environment holds."""
        is_running, pid = drainer_presence.drainer(store)
        with store.database.file_errors():
            strangers = tuple(spool_files.strangers(store.database.path))
        known = tuple(with_inbound(store.routes(), store.inbound()))
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


def _age(route: Route, now: float) -> float | None:
    return None if route.oldest_at is None else max(0.0, now - route.oldest_at)
