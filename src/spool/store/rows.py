"""The rows of batches: how they are read, chosen for a request, packed, and taken out.

All of it is for one connection: of one moment where it reads, in one transaction where it writes.

Invariants:

- What is taken out is counted off its route's pending at once; what comes in the triggers count.
- A row's place, its numbers and its checksum are compared wherever it is read.
"""

from __future__ import annotations

import itertools
import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from spool.otlp.batch import CODECS, Batch
from spool.store import history, sql
from spool.store.records import Row, Take, checksum
from spool.store.schema import ID_BITS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from spool.journal.identity import Identity

LAST_ID: Final = (1 << 63) - 1
# A request is made of so many rows at most, a pack too.
MOST: Final = 4096
# A row that is too large is divided into about so many parts, or all its spans.
PARTS: Final = 1024
# So many rows are evicted or adopted at once.
CHUNK: Final = 256
# So much is buried or adopted at once.
CHUNK_BYTES: Final = 4 << 20


def salt(connection: sqlite3.Connection) -> bytes:
    """Give what tells this file from any other that was, or will be, at its path.

    Raises sqlite3.DatabaseError for damage.
    """
    (found,) = connection.execute(sql.SALT).fetchone() or (None,)
    if type(found) is not bytes:
        raise sqlite3.DatabaseError("the salt is damaged")
    return found


def id_range(route_id: int) -> tuple[int, int]:
    """Give the first and the last id that a row of a route can have."""
    return (route_id << ID_BITS) + 1, (route_id + 1 << ID_BITS) - 1


def pending(connection: sqlite3.Connection, route_id: int) -> tuple[int, int]:
    """Give a route's pending spans, and up to which id its rows are packed."""
    spans, packed = connection.execute(sql.PENDING, (route_id,)).fetchone() or (0, 0)
    return int(spans), int(packed)


def append(
    connection: sqlite3.Connection, identity: Identity, batch: Batch, created_at: float
) -> None:
    """Append one row to the route of this identity."""
    row = (created_at, *values(batch), identity[0])
    if connection.execute(sql.APPEND, row).rowcount != 1:  # a fresh file: ours was moved
        connection.execute(sql.REGISTER, identity)
        connection.execute(sql.APPEND, row)


def route_of(connection: sqlite3.Connection, identity: Identity) -> int:
    """Give the id of the route of this identity, which is registered where it is unknown."""
    if not (row := connection.execute(sql.ROUTE_ID, identity[:1]).fetchone()):  # a fresh file
        connection.execute(sql.REGISTER, identity)
        row = connection.execute(sql.ROUTE_ID, identity[:1]).fetchone()
    return int(row[0])


def count_delivered(
    connection: sqlite3.Connection, route_id: int, spans: int, now: float, accepted_by: str | None
) -> None:
    """Count delivered spans; the route is well if there is a target that took them."""
    connection.execute(sql.COUNT.format("delivered"), (spans, route_id))
    if accepted_by is not None:
        history.recover(connection, route_id, spans, now)
        connection.execute(sql.SUCCEED, (now, accepted_by, route_id))
    else:
        history.leave(connection, route_id, spans, now)


def read(cursor: Iterable[tuple[Any, ...]], first: int, last: int) -> Iterator[Row]:
    """Make rows of what is read between two ids. Raises sqlite3.DatabaseError for damage."""
    for row_id, created_at, *stored in cursor:
        if not first <= row_id <= last:  # else the same rows could be read for ever
            raise sqlite3.DatabaseError("the rows are out of order")
        first = row_id + 1
        batch, is_sound = batch_of(*stored)
        yield Row(row_id, created_at, batch, stored[3], is_sound)


def batch_of(
    spans: Any, raw_bytes: Any, codec: Any, crc32: Any, payload: Any
) -> tuple[Batch, bool]:
    """Make a stored batch, and say whether it is sound. Raises sqlite3.DatabaseError for damage."""
    if not (type(spans) is type(raw_bytes) is type(codec) is type(crc32) is int):
        raise sqlite3.DatabaseError("a row's numbers are damaged")
    if type(payload) is not bytes:
        raise sqlite3.DatabaseError("a row's payload is damaged")
    is_sound = codec in CODECS and checksum(spans, raw_bytes, codec, payload) == crc32
    return Batch(payload, spans, raw_bytes, codec), is_sound


def values(batch: Batch) -> tuple[Any, ...]:
    """Give what is stored of a batch: the arguments of `batch_of`."""
    numbers = batch.spans, batch.raw_bytes, int(batch.codec)
    return *numbers, checksum(*numbers, batch.payload), batch.payload


def fitting(rows: Iterable[Row], max_bytes: int, max_spans: int) -> list[Row]:
    """Keep the first rows that fit together; a first row that is unsound or too large, alone."""
    chosen: list[Row] = []
    for row in rows:
        max_bytes -= row.batch.raw_bytes
        max_spans -= row.batch.spans
        if chosen and (max_bytes < 0 or max_spans < 0 or not row.is_sound):
            break
        chosen.append(row)
        # The next one would be read for nothing, as it hardly fits: rows are alike.
        if not row.is_sound or max_bytes < row.batch.raw_bytes // 2:
            break
    return chosen


def take_of(route_id: int, mark: tuple[bytes, int], rows: list[Row]) -> Take:
    """Make a request of rows; `mark` is the file's salt, and up to which id rows were packed."""
    whole = Take(route_id, *mark, tuple(rows), tuple(row.batch for row in rows))
    if not rows[0].is_sound:
        return replace(whole, damage="its checksum does not match: it was damaged on disk")
    return whole


def divide(connection: sqlite3.Connection, row: Row, parts: Sequence[Batch]) -> None:
    """Let parts of a row stand in its place, if it is still what was read.

    Each has its first span's id. Where there are no such ids (a salvaged file may be old) all but
    the first part go behind what waits.
    """
    first, rest = parts[0], parts[1:]
    if connection.execute(sql.CUT, (*values(first), row.id, row.crc32)).rowcount != 1:
        return
    route_id, spans = row.id >> ID_BITS, sum(part.spans for part in rest)
    end = id_range(route_id)[0] + connection.execute(sql.NEXT, (route_id,)).fetchone()[0]
    (behind,) = connection.execute(sql.BEHIND, (row.id + 1, end)).fetchone()
    has_room = row.id + first.spans + spans <= (behind or end)
    next_id = row.id + first.spans if has_room else end
    for part in rest:
        connection.execute(sql.PIECE, (next_id, route_id, row.created_at, *values(part)))
        next_id += part.spans
    connection.execute(sql.DIVIDED, (spans, spans if has_room else 0, route_id))


def remove(connection: sqlite3.Connection, take: Take) -> int:
    """Remove what a request took; give the number of spans that were still there."""
    first = take.rows[0]
    if pending(connection, take.route_id)[1] == take.packed:
        return take_out(connection, first.id, take.rows[-1].id)
    return sum(
        take_out(connection, row.id, row.id)
        for row in take.rows
        if connection.execute(sql.CRC32, (row.id,)).fetchone() == (row.crc32,)
    )


def take_out(connection: sqlite3.Connection, first: int, last: int) -> int:
    """Delete a route's rows between two ids, and count them off; give their spans."""
    counted = connection.execute(sql.SUMS, (first, last)).fetchone()
    connection.execute(sql.DELETE, (first, last))
    connection.execute(sql.LEAVE, (*map(int, counted), first >> ID_BITS))
    return int(counted[1])


def chunk(
    connection: sqlite3.Connection, first: int, last: int, most: int = CHUNK_BYTES
) -> tuple[int, int] | None:
    """Give the ids of the first and the last of a route's oldest rows between two: one chunk.

    It ends with the row that brings it to `most` bytes. None where there is no row.
    """
    oldest = connection.execute(sql.SIZES, (first, last, CHUNK)).fetchall()
    if not oldest:
        return None
    sizes = itertools.accumulate(size for _, size in oldest)
    chosen = oldest[: 1 + sum(1 for size in sizes if size < most)]
    return chosen[0][0], chosen[-1][0]


def evict(connection: sqlite3.Connection, first: int, last: int, excess: int = LAST_ID) -> int:
    """Evict a route's oldest rows between two ids, up to `excess` bytes: one chunk; give spans."""
    if (bounds := chunk(connection, first, last, excess)) is None:
        return 0
    spans = take_out(connection, *bounds)
    connection.execute(sql.COUNT.format("evicted"), (spans, first >> ID_BITS))
    return spans


def name_of(connection: sqlite3.Connection, route_id: int) -> str:
    """Give a route's name; "" where it is unknown."""
    (name,) = connection.execute(sql.ROUTE_NAME, (route_id,)).fetchone() or ("",)
    return str(name)


def last_of(connection: sqlite3.Connection, mark: int) -> int:
    """Give the last row that holds nothing but what had come when a mark was made.

    Of rows that were packed since, the last may hold younger spans, too.
    """
    route_id = mark >> ID_BITS
    is_next_row_there = connection.execute(sql.IS_PENDING, (mark + 1, mark + 1)).fetchone()
    if is_next_row_there or pending(connection, route_id)[1] <= mark:
        return mark
    (newest,) = connection.execute(sql.NEWEST, (id_range(route_id)[0], mark)).fetchone()
    return int(newest or mark) - 1


def is_hidden(connection: sqlite3.Connection, route_id: int) -> bool:
    """Say whether spans are counted as pending where no row can be found: that is damage."""
    is_found = connection.execute(sql.IS_PENDING, id_range(route_id)).fetchone()
    return not is_found and pending(connection, route_id)[0] > 0


def is_astray(connection: sqlite3.Connection, take: Take) -> bool:
    """Say whether a reader comes to the first row of a take, and its id does not: it is damaged."""
    row_id = take.rows[0].id
    bounds = id_range(take.route_id)
    head = connection.execute(sql.SIZES, (*bounds, 1)).fetchone()
    found = connection.execute(sql.IS_PENDING, (row_id, row_id)).fetchone()
    return head is not None and head[0] == row_id and found is None
