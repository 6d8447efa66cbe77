"""The dead letters: written, read and dropped, mostly in the transaction of a caller."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from spool.otlp.batch import merge
from spool.store import history, rows, sql
from spool.store.history import Kind
from spool.store.records import DeadLetter

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence

    from spool.otlp.batch import Batch
    from spool.store.database import Database


def bury(
    connection: sqlite3.Connection,
    why: tuple[int, float, str, float],
    batches: Sequence[Batch],
    dead: int,
) -> None:
    """Write a dead letter; `why` is its route's id, when and why it died, and since when it was."""
    letter = replace(merge(batches, compress=False), spans=dead)
    connection.execute(sql.BURY, (*why, *rows.values(letter)))
    route_id, now, reason, _ = why
    history.note(connection, Kind.DEAD, rows.name_of(connection, route_id), dead, now, reason)


def bury_refused(
    database: Database, route_id: int, salt: bytes, words: Mapping[int, str], now: float
) -> int:
    """Make dead letters of rows of one span, with the words about each; give their number.

    Those that are not there any more are passed over, all of them where the file is another.
    """
    left, buried = deque(words.items()), 0
    while left:
        with database.transaction() as connection:
            if rows.salt(connection) != salt:
                break
            buried += _bury_chunk(connection, route_id, left, now)
    return buried


def _bury_chunk(
    connection: sqlite3.Connection, route_id: int, left: deque[tuple[int, str]], now: float
) -> int:
    """Make dead letters of rows of one span that are left: one chunk; give their number."""
    size = buried = 0
    while left and size < rows.CHUNK_BYTES:
        row_id, reason = left.popleft()
        if (row := connection.execute(sql.REFUSED_ALONE, (row_id,)).fetchone()) is not None:
            connection.execute(sql.BURY, (route_id, now, reason, *row))
            buried += rows.take_out(connection, row_id, row_id)
            size += len(row[-1])
    if buried:
        name = rows.name_of(connection, route_id)
        history.note(connection, Kind.DEAD, name, buried, now, reason)
        history.leave(connection, route_id, buried, now)
    return buried


def spans_of(connection: sqlite3.Connection, letter_id: int) -> tuple[int, int]:
    """Give a dead letter's spans and its route's id; 0 and 0 where it is gone."""
    spans, route_id = connection.execute(sql.LETTER, (letter_id,)).fetchone() or (0, 0)
    return int(spans), int(route_id)


def drop(connection: sqlite3.Connection, letter_id: int, column: str) -> int:
    """Delete a dead letter and count its spans; 0 where it is gone already."""
    spans, route_id = spans_of(connection, letter_id)
    connection.execute(sql.COUNT.format(column), (spans, route_id))
    connection.execute(sql.DELETE_LETTER, (letter_id,))
    return spans


def letter_of(values: tuple[Any, ...]) -> DeadLetter:
    """Make a dead letter of what is stored of it. Raises sqlite3.DatabaseError for damage."""
    letter_id, route, died_at, reason, created_at, *batch = values
    return DeadLetter(letter_id, route, died_at, reason, created_at, rows.batch_of(*batch)[0])
