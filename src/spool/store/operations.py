"""What a person does by command: a backlog adopted, dead letters tried again or purged."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from spool.journal.identity import Identity
from spool.store import dead_letters, history, rows, sql
from spool.store.history import Kind
from spool.system.locks import BRIEFLY

if TYPE_CHECKING:
    import sqlite3

    from spool.settings.target import Target
    from spool.store.records import Route
    from spool.store.store import Store


def adopt(store: Store, stranded: Route, target: Target, sending: float) -> int:
    """Give a route's pending spans to the target's route; give their number.

    It has both locks, so that none is being sent meanwhile. `sending` is how many seconds a request
    can last at most.
    """
    moved = 0
    while True:
        with (
            store.drain_lock.take(sending, patience=BRIEFLY) as is_one_had,
            store.probe_lock.take(sending, patience=BRIEFLY) as is_other_had,
        ):
            is_had = is_one_had and is_other_had
            chunk = _adopt_chunk(store, stranded, target) if is_had else 0
        if is_had and not chunk:
            return moved
        moved += chunk


def _adopt_chunk(store: Store, stranded: Route, target: Target) -> int:
    with store.database.transaction() as connection:
        connection.execute(sql.REGISTER, Identity.of(target))
        # By its name: the file may be another one by now, and have the id for another route.
        known = connection.execute(sql.ROUTE_ID, (stranded.name,)).fetchone()
        if known is None or stranded.name == target.route:
            return 0
        if (bounds := rows.chunk(connection, *rows.id_range(known[0]))) is None:
            return 0
        connection.execute(sql.ADOPT, (*bounds, target.route))
        spans = rows.take_out(connection, *bounds)
        connection.execute(sql.NOT_ACCEPTED_AGAIN.format("name"), (spans, target.route))
        now = time.time()
        history.note(connection, Kind.ADOPTED, stranded.name, spans, now, target.route)
        history.leave(connection, known[0], spans, now)
    return spans


def retry(store: Store, letter_id: int) -> int:
    """Make a dead letter pending again; give its spans, 0 where it is gone already."""
    with store.database.transaction() as connection:
        spans, route_id = dead_letters.spans_of(connection, letter_id)
        connection.execute(sql.RETRY, (letter_id,))
        connection.execute(sql.NOT_ACCEPTED_AGAIN.format("id"), (spans, route_id))
        connection.execute(sql.DELETE_LETTER, (letter_id,))
        _tell(connection, Kind.RETRIED, route_id, spans)
    return spans


def purge(store: Store, letter_id: int) -> int:
    """Delete a dead letter for good; give its spans, 0 where it is gone already."""
    with store.database.transaction() as connection:
        _, route_id = dead_letters.spans_of(connection, letter_id)
        spans = dead_letters.drop(connection, letter_id, "purged")
        _tell(connection, Kind.PURGED, route_id, spans)
    return spans


def _tell(connection: sqlite3.Connection, kind: Kind, route_id: int, spans: int) -> None:
    if spans:
        history.note(connection, kind, rows.name_of(connection, route_id), spans, time.time())
