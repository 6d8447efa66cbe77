"""Reports of spools, as commands make them."""

from __future__ import annotations

from spool.delivery.drainer import Drainer
from spool.report.report import Report
from spool.settings.settings import Settings
from spool.settings.target import Target
from spool.store import route_waits
from spool.store.store import Store
from stores import route_of


def report_of(store: Store, settings: Settings, now: float) -> Report:
    """Read a spool, with the secrets of these settings."""
    drainer = Drainer(store, settings)
    if settings.target is not None:
        drainer.routes.add(settings.target)
    return Report.of(store, drainer.routes, settings.max_bytes, now)


def hold(store: Store, target: Target, reason: str, now: float) -> None:
    """Let a receiver have refused a target, with these words."""
    fingerprint = target.fingerprint(store.salt())
    route_waits.hold(store.database, route_of(store, target), fingerprint, 330, now, reason)
