"""Packing: many small rows become few request-sized ones, while there is time."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from spool.otlp.batch import merge
from spool.store import rows, sql

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from spool.store.database import Database
    from spool.store.records import Row


def pack(database: Database, route_id: int, max_bytes: int) -> bool:
    """Make one row of the oldest rows that are not packed, deflated, if `max_bytes` wait.

    Says whether there may be more to pack. Only for the holder of the drain lock.
    """
    first, last = rows.id_range(route_id)
    with database.reading() as connection:
        salt, (_, packed_to) = rows.salt(connection), rows.pending(connection, route_id)
        bounds = (max(first, packed_to + 1), last)
        cursor = connection.execute(sql.OLDEST, (*bounds, rows.MOST))
        with contextlib.closing(cursor):
            run, is_whole = _run_of(rows.read(cursor, *bounds), max_bytes)
    if not is_whole:
        return False
    packed = merge([row.batch for row in run], compress=True) if len(run) > 1 else None
    with database.transaction() as connection:
        ids = (run[0].id, run[-1].id)
        is_there = connection.execute(sql.SUMS, ids).fetchone() == _sums(run)
        if rows.salt(connection) != salt or not is_there:  # evicted, adopted or moved meanwhile
            return True
        if packed is not None:
            connection.execute(sql.PACK, (*rows.values(packed), ids[0]))
            rows.take_out(connection, ids[0] + 1, ids[1])
        connection.execute(sql.PACKED, (ids[1], route_id))
    return True


def _run_of(waiting: Iterable[Row], max_bytes: int) -> tuple[list[Row], bool]:
    """Choose rows to pack, and say whether they make a whole pack: more than fit would wait.

    A row that is unsound or large stands alone: it stays as it is.
    """
    run: list[Row] = []
    size = 0
    for row in waiting:
        size += row.batch.raw_bytes
        if run and (size > max_bytes or not row.is_sound):
            return run, True
        run.append(row)
        if size > max_bytes or not row.is_sound:
            return run, True
    return run, len(run) == rows.MOST


def _sums(run: Sequence[Row]) -> tuple[int, float, float]:
    """Count rows, their spans and their bytes, as `sql.SUMS` does."""
    batches = [row.batch for row in run]
    return len(run), sum(one.spans for one in batches), sum(one.raw_bytes for one in batches)
