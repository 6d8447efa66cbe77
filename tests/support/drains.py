"""A drainer whose clock the test moves, and what its tests look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from spans import batch
from spool.delivery.drainer import Drainer
from spool.errors import SpoolFileError
from spool.settings.settings import Settings
from spool.settings.target import Target
from spool.store import eviction
from spool.store.records import Ledger, Route
from spool.store.schema import ID_BITS
from spool.store.store import Store
from standin import StandIn

NewDrainer = Callable[..., Drainer]
NAMES = [f"s{number}" for number in range(20)]


class Clock:
    """Wall-clock time that a test moves."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def drainer_of(store: Store, settings: Settings, target: Target, clock: Clock) -> Drainer:
    drainer = Drainer(store, settings, clock=clock)
    drainer.routes.add(target)
    return drainer


def drain_all(drainer: Drainer) -> None:
    while drainer.send_due():
        pass


def route_of(store: Store) -> Route:
    return store.routes()[0]


def assert_nothing_lost(store: Store, langfuse: StandIn, dead: int = 0) -> Ledger:
    ledger = store.ledger()
    assert ledger.accepted == ledger.delivered + ledger.dead + ledger.pending
    assert (ledger.delivered, ledger.dead, ledger.pending) == (20 - dead, dead, 0)
    assert len(langfuse.names()) == 20 - dead
    return ledger


def evict(store: Store, excess: int, now: float = 1.0) -> int:
    """Evict one chunk, as if there were so many bytes too many; give its spans."""
    return eviction.evict(store, store.database.live_bytes() - excess, now)


def refuse_to_settle(*_: object, **__: object) -> int:
    raise SpoolFileError("no space left")


# What is in the journal


def end(store: Store, target: Target, *names: str) -> None:
    for name in names:
        store.accept(target, batch(name), 1.0)


def spans_in_rows(store: Store) -> int:
    """Count the spans that a route ever took into rows."""
    return store.last_id(store.routes()[0].name) & (1 << ID_BITS) - 1


def assert_delivered(store: Store, langfuse: StandIn, *names: str) -> None:
    assert langfuse.names() == Counter(names)
    assert store.ledger() == Ledger(accepted=len(names), delivered=len(names))
