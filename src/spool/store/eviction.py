"""The limits of size and of age: what is evicted, oldest first.

Invariants:

- Eviction is decided on live bytes, never on the size of the file, and counted where it happens.
- No wall clock decides on age: a span is as old as somebody watched it, by monotonic clocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spool.store import dead_letters, history, rows, sql
from spool.store.history import Kind
from spool.store.schema import ID_BITS
from spool.store.sqlite import live_bytes

if TYPE_CHECKING:
    import sqlite3

    from spool.store.store import Store


def evict(store: Store, limit: int, now: float) -> int:
    """Delete the oldest spans, pending or dead, while live data has more than `limit` bytes.

    One chunk. Gives the number of spans evicted; 0 where nothing is left that must or could go.
    """
    routes = [route for route in store.routes() if route.oldest_at is not None]
    letters = store.dead_letters(count=1)
    oldest = min(routes, key=lambda route: route.oldest_at or 0.0, default=None)
    with store.database.transaction() as connection:
        if live_bytes(connection) > limit:
            history.make_room(connection, limit)
        excess, evicted, route = live_bytes(connection) - limit, 0, ""
        if excess <= 0:  # another process was faster
            return 0
        if letters and (oldest is None or letters[0].created_at <= (oldest.oldest_at or 0.0)):
            route = letters[0].route
            evicted = dead_letters.drop(connection, letters[0].id, "evicted")
        elif oldest is not None:
            route = oldest.name
            evicted = rows.evict(connection, *rows.id_range(oldest.id), excess)
            history.leave(connection, oldest.id, evicted, now)
        if evicted:
            _tell(connection, route, evicted, now, history.LIMIT_OF_SIZE)
    return evicted


def watch(store: Store, seconds: float, at: float) -> None:
    """Let everything grow older by time that somebody watched, and mark what has come.

    The time ends `at`, by the monotonic clock; what another process has told of it counts once.
    """
    with store.database.transaction() as connection:
        connection.execute(sql.WATCH, {"seconds": seconds, "at": at})
        connection.execute(sql.MARK)


def expire(store: Store, max_age: float, now: float) -> int:
    """Delete spans, pending or dead, that were watched for `max_age` seconds: one chunk.

    Gives the number of spans evicted; 0 where no more are so old.
    """
    with store.database.transaction() as connection:
        while mark := connection.execute(sql.OLD_MARK, (max_age,)).fetchone():
            if evicted := _expire(connection, mark[0]):
                route = rows.name_of(connection, mark[0] >> ID_BITS)
                _tell(connection, route, evicted, now, history.LIMIT_OF_AGE)
                history.leave(connection, mark[0] >> ID_BITS, evicted, now)
                return evicted
            connection.execute(sql.DELETE_MARK, mark)
    return 0


def _tell(connection: sqlite3.Connection, route: str, spans: int, now: float, why: str) -> None:
    connection.execute(sql.EVICTED, (now,))
    history.note(connection, Kind.EVICTED, route, spans, now, why)


def _expire(connection: sqlite3.Connection, mark: int) -> int:
    """Evict one chunk of what had come when a mark was made; 0 when all of it is gone."""
    route_id = mark >> ID_BITS
    if route_id:
        return rows.evict(connection, rows.id_range(route_id)[0], rows.last_of(connection, mark))
    letter = connection.execute(sql.OLD_LETTER, (mark,)).fetchone()
    return dead_letters.drop(connection, letter[0], "evicted") if letter else 0
