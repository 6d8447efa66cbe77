"""What a store holds, and whether its ledger balances."""

from __future__ import annotations

import sqlite3

from ledgers import balances
from spans import batch, names_in
from spool.otlp.batch import Batch, join
from spool.settings.target import Target
from spool.store import row_packing
from spool.store.records import Ledger, Route, Take
from spool.store.store import Store
from targets import MINE

ALL = 1 << 40


def assert_balanced(store: Store) -> Ledger:
    ledger = store.ledger()
    assert balances(ledger), ledger
    pending, after = 0, 0
    while rows := store.pending(after):
        pending, after = pending + sum(row.batch.spans for row in rows), rows[-1].id
    assert ledger.pending == pending
    return ledger


def route_of(store: Store, target: Target = MINE) -> Route:
    return next(route for route in store.routes() if route.name == target.route)


def take_of(
    store: Store, target: Target = MINE, *, max_bytes: int = ALL, max_spans: int = ALL
) -> Take:
    take = store.take(route_of(store, target).id, max_bytes=max_bytes, max_spans=max_spans)
    assert take is not None
    return take


def names_of(*batches: Batch) -> list[str]:
    """Give the names of their spans."""
    return names_in(join(batches, compress=False))


TWO = 2 * batch("a").raw_bytes


def pack_all(store: Store, max_bytes: int = TWO) -> None:
    while row_packing.pack(store.database, route_of(store).id, max_bytes):
        pass


def drop_history(sqlite: sqlite3.Connection) -> None:
    """Make a file's schema what it was before it kept a history."""
    for table in ("event", "hour"):
        sqlite.execute(f"DROP TABLE {table}")
    for column in ("cause", "failing_since"):
        sqlite.execute(f"ALTER TABLE route DROP COLUMN {column}")
    sqlite.execute("DELETE FROM _sqlite_migrations WHERE name = 'keep_history'")
    sqlite.execute("PRAGMA user_version = 102")
