"""The store: spans as rows, the routes, the ledger. All SQL stands here; the file is `database`'s.

Invariants:

- What `append` returned from is committed.
- The ledger balances, in spans: accepted + imported = delivered + dead + evicted + purged +
  exported + damaged + pending. What leaves `pending` is counted in the same transaction.
- The rows of a route are taken in the order of their ids, and a row that is cut keeps its id: so
  all that was accepted before a moment is settled when no such id is pending.
- Readers take one bounded page at a time.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from spool import place
from spool.database import BRIEFLY, ID_BITS, PATIENTLY, Database
from spool.errors import PayloadError, SpoolFileError, SpoolFullError
from spool.lock import FileLock, is_held, signature
from spool.otlp import Batch, Codec, cut, join
from spool.records import DeadLetter, Ledger, Route, Row, Take, checksum
from spool.settings import without_secrets

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from spool.overflow import Held
    from spool.settings import Target

_LAST_ID: Final = (1 << 63) - 1
_TAKE_ROWS: Final = 4096
_CHUNK_ROWS: Final = 256
_PAGE_ROWS: Final = 64
_KNOWN_FINGERPRINTS: Final = 15

_REGISTER: Final = """
    INSERT INTO route (name, endpoint, public_key) VALUES (?, ?, ?)
    ON CONFLICT (name) DO UPDATE SET endpoint = excluded.endpoint
    WHERE endpoint <> excluded.endpoint"""

_COLUMNS: Final = "created_at, spans, raw_bytes, codec, crc32, payload"

_APPEND: Final = f"""
    INSERT INTO batch (id, route, {_COLUMNS})
    SELECT (id << {ID_BITS}) + next + 1, id, ?, ?, ?, ?, ?, ? FROM route WHERE name = ?"""

_OLDEST: Final = f"SELECT id, {_COLUMNS} FROM batch WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?"

_HIDDEN: Final = """
    SELECT 1 FROM route WHERE id = ? AND pending_spans > 0
    AND NOT EXISTS (SELECT 1 FROM batch WHERE id BETWEEN ? AND ?)"""

_DELETE: Final = "DELETE FROM batch WHERE id BETWEEN ? AND ?"

_SIZES: Final = "SELECT id, spans, length(payload) FROM batch WHERE id BETWEEN ? AND ? LIMIT ?"

_COUNT: Final = "UPDATE route SET {0} = {0} + ? WHERE id = ?"

_PENDING: Final = "SELECT pending_spans FROM route WHERE id = ?"

_CUT: Final = f"""
    UPDATE batch SET ({_COLUMNS}) = (created_at, ?, ?, ?, ?, ?) WHERE id = ? AND spans > ?"""

_BURY: Final = f"""
    INSERT INTO dead (route, died_at, reason, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"""

_DELIVER: Final = """
    UPDATE route SET delivered = delivered + ?, attempts = 0, wait_seconds = 0, fingerprints = ''
    WHERE id = ?"""

_CREDIT: Final = """
    UPDATE route SET accepted = accepted + ?, delivered = delivered + ? WHERE name = ?"""

_SUCCEED: Final = "UPDATE route SET last_success_at = ?, last_error = '' WHERE id = ?"

_WAIT: Final = """
    UPDATE route SET attempts = attempts + 1, waited_at = ?, wait_seconds = ?, last_error = ?
    WHERE id = ?"""

_HOLD: Final = "UPDATE route SET fingerprints = ? WHERE id = ?"

# The rows of a route that moves get ids behind those of the route that adopts them.
_ADOPT: Final = f"""
    INSERT INTO batch (id, route, {_COLUMNS})
    SELECT (r.id << {ID_BITS}) + r.next + row_number() OVER (ORDER BY b.id), r.id,
           b.created_at, b.spans, b.raw_bytes, b.codec, b.crc32, b.payload
    FROM batch b, route r WHERE b.id BETWEEN ? AND ? AND r.name = ?"""

_RETRY: Final = f"""
    INSERT INTO batch (id, route, {_COLUMNS})
    SELECT (r.id << {ID_BITS}) + r.next + 1, r.id,
           d.created_at, d.spans, d.raw_bytes, d.codec, d.crc32, d.payload
    FROM dead d JOIN route r ON r.id = d.route WHERE d.id = ?"""

# A row that only moves was accepted before; the trigger counted it once more.
_NOT_ACCEPTED_AGAIN: Final = "UPDATE route SET accepted = accepted - ? WHERE {} = ?"

_ROUTES: Final = f"""
    SELECT id, name, endpoint, public_key, pending_spans, pending_batches, pending_bytes, attempts,
           waited_at, wait_seconds, fingerprints, last_error, last_success_at,
           (SELECT created_at FROM batch
            WHERE batch.id > route.id << {ID_BITS} AND batch.id < route.id + 1 << {ID_BITS}
            ORDER BY batch.id LIMIT 1)
    FROM route ORDER BY id"""

_LEDGER: Final = """
    SELECT total(accepted), total(imported), total(delivered), total(dead), total(evicted),
           total(purged), total(exported), total(damaged), total(pending_spans),
           (SELECT refused FROM meta) FROM route"""

_DEAD: Final = f"""
    SELECT dead.id, name, died_at, reason, {_COLUMNS}
    FROM dead JOIN route ON route.id = dead.route WHERE dead.id >= ? ORDER BY dead.id LIMIT ?"""


class Store:
    """The spool as one process uses it: safe between threads and across forks.

    `turn` is held by the process that sends, for one turn; `presence` by every process that has a
    drainer. While `is_full` nothing can be appended. All methods raise SpoolFileError, those that
    write SpoolBusyError too.
    """

    def __init__(self, path: Path, *, sync_each_commit: bool = False) -> None:
        self.database = Database(path, sync_each_commit=sync_each_commit)
        create = self.database.create_beside
        self.turn = FileLock(place.beside(path, ".turn"), create)
        self.presence = FileLock(place.beside(path, ".drainer"), create, shared=True)
        self.is_full = False
        self._refused = 0

    def exists(self) -> bool:
        """Say whether there is a spool; an empty file is none yet."""
        with self.database.file_errors():
            status = place.check(self.database.path)
        return status is not None and status.st_size > 0

    def open(self) -> None:
        """Create the file if need be, and check that it can be written."""
        with self.database.writing():
            pass

    def close(self) -> None:
        """Close what is open; the next call opens it again."""
        self.database.close()
        self.turn.close()
        self.presence.close()

    # Writing: the application's threads

    def register(self, target: Target) -> None:
        """Record a target's identity and the endpoint last used; create the file if need be."""
        with self.database.writing() as connection:
            connection.execute(_REGISTER, _identity(target))

    def append(
        self, target: Target, batch: Batch, now: float, *, patience: float = BRIEFLY
    ) -> None:
        """Commit one batch: one statement, one transaction. It is spooled when this returns.

        Raises SpoolFullError besides the others.
        """
        if self.is_full:
            raise SpoolFullError(f"{self.database.path}: it is as large as SPOOL_MAX_BYTES allows")
        values = (now, *_values(batch), target.route)
        with self.database.writing(patience) as connection:
            if connection.execute(_APPEND, values).rowcount != 1:  # a fresh file: ours was moved
                connection.execute(_REGISTER, _identity(target))
                connection.execute(_APPEND, values)

    def record(self, held: Held) -> None:
        """Take over a batch from the overflow: pending, or delivered if it was sent from there."""
        if not held.is_delivered:
            self.append(held.target, held.batch, held.created_at, patience=PATIENTLY)
            return
        spans = held.batch.spans
        with self.database.writing() as connection:
            connection.execute(_REGISTER, _identity(held.target))
            connection.execute(_CREDIT, (spans, spans, held.target.route))

    def refuse(self, spans: int) -> None:
        """Remember to count spans that could not be appended; see `count_refused`."""
        self._refused += spans
        self.database.written.set()

    def count_refused(self) -> None:
        """Write down how many spans were refused since the last time."""
        if not self._refused:
            return
        with self.database.writing() as connection:
            counted = self._refused
            connection.execute("UPDATE meta SET refused = refused + ?", (counted,))
        self._refused -= counted

    # Writing: the keeper

    def evict(self, excess: int) -> int:
        """Delete the oldest spans, pending or dead, to free up to `excess` bytes: one chunk.

        Gives the number of spans evicted; 0 where nothing is left that could go.
        """
        routes = [route for route in self.routes() if route.oldest_at is not None]
        letters = self.dead_letters(count=1)
        oldest = min(routes, key=lambda route: route.oldest_at or 0.0, default=None)
        if letters and (oldest is None or letters[0].created_at <= (oldest.oldest_at or 0.0)):
            return self._drop(letters[0], "evicted")
        return 0 if oldest is None else self._evict_rows(oldest, excess)

    def _evict_rows(self, route: Route, excess: int) -> int:
        with self.database.transaction() as connection:
            rows = connection.execute(_SIZES, (*_id_range(route.id), _CHUNK_ROWS)).fetchall()
            sizes = itertools.accumulate(size for _, _, size in rows)
            count = 1 + sum(1 for size in sizes if size < excess)
            chosen = rows[:count]
            if chosen:
                connection.execute(_DELETE, (chosen[0][0], chosen[-1][0]))
            spans = sum(int(row[1]) for row in chosen)
            connection.execute(_COUNT.format("evicted"), (spans, route.id))
        return spans

    # Writing: the drainer

    def settle(self, take: Take, now: float, *, dead: int = 0, reason: str = "") -> int:
        """End a request: `dead` of its spans become a dead letter, the others are delivered.

        Gives the number delivered. Only what was still there counts: a row that was evicted or
        purged meanwhile is in the ledger already.
        """
        with self.database.transaction() as connection:
            if _salt(connection) != take.salt:  # the file was moved: these rows went with it
                return 0
            gone = _remove(connection, take)
            if not gone and _is_astray(connection, take):
                raise sqlite3.DatabaseError("a row is not where its id says")
            buried = max(0, min(dead, gone))
            if buried:
                _bury(connection, take, buried, now, reason)
            connection.execute(_DELIVER, (gone - buried, take.route_id))
            if gone > buried:
                connection.execute(_SUCCEED, (now, take.route_id))
        return gone - buried

    def wait(self, route: Route, seconds: float, now: float, reason: str) -> None:
        """Keep a route's spans for a later attempt, `seconds` from now."""
        with self.database.writing() as connection:
            connection.execute(_WAIT, (now, seconds, reason, route.id))

    def hold(self, route: Route, fingerprint: str, seconds: float, now: float, reason: str) -> None:
        """Keep them, because the target with this fingerprint was refused: no backoff helps."""
        others = [known for known in route.fingerprints if known != fingerprint]
        known = " ".join([*others[-_KNOWN_FINGERPRINTS:], fingerprint])
        with self.database.transaction() as connection:
            connection.execute(_WAIT, (now, seconds, reason, route.id))
            connection.execute(_HOLD, (known, route.id))

    def restart_wait(self, route: Route, now: float) -> None:
        """Let a wait begin now: the clock went back behind its beginning."""
        with self.database.writing() as connection:
            connection.execute("UPDATE route SET waited_at = ? WHERE id = ?", (now, route.id))

    # Writing: the commands

    def adopt(self, stranded: Route, target: Target) -> int:
        """Give a route's pending spans to the target's route; give their number."""
        self.register(target)
        moved = 0
        while chunk := self._adopt_chunk(stranded, target):
            moved += chunk
        return moved

    def _adopt_chunk(self, stranded: Route, target: Target) -> int:
        with self.database.transaction() as connection:
            oldest = (*_id_range(stranded.id), _CHUNK_ROWS)
            rows = connection.execute(_OLDEST, oldest).fetchall()
            if not rows:
                return 0
            bounds = (rows[0][0], rows[-1][0])
            spans = sum(int(row[2]) for row in rows)
            connection.execute(_ADOPT, (*bounds, target.route))
            connection.execute(_NOT_ACCEPTED_AGAIN.format("name"), (spans, target.route))
            connection.execute(_DELETE, bounds)
        return spans

    def retry(self, letter: DeadLetter) -> int:
        """Make a dead letter pending again; give its spans, 0 where it is gone already."""
        with self.database.transaction() as connection:
            spans, route_id = _dead(connection, letter)
            connection.execute(_RETRY, (letter.id,))
            connection.execute(_NOT_ACCEPTED_AGAIN.format("id"), (spans, route_id))
            connection.execute("DELETE FROM dead WHERE id = ?", (letter.id,))
        return int(spans)

    def purge(self, letter: DeadLetter) -> int:
        """Delete a dead letter for good; give its spans, 0 where it is gone already."""
        return self._drop(letter, "purged")

    def _drop(self, letter: DeadLetter, column: str) -> int:
        with self.database.transaction() as connection:
            spans, route_id = _dead(connection, letter)
            connection.execute(_COUNT.format(column), (spans, route_id))
            connection.execute("DELETE FROM dead WHERE id = ?", (letter.id,))
        return spans

    # Reading

    def oldest(
        self, route_id: int, *, max_bytes: int, max_spans: int, after: int = 0
    ) -> Take | None:
        """Take the oldest spans of a route, as many as fit, one at the least; None without any.

        Rows up to the id `after` are passed over.
        """
        first, last = _id_range(route_id)
        bounds = (max(first, after + 1), last)
        with self.database.reading() as connection:
            cursor = connection.execute(_OLDEST, (*bounds, _TAKE_ROWS))
            with contextlib.closing(cursor):
                rows = _fitting(_rows(cursor, *bounds), max_bytes, max_spans)
            if (
                not rows
                and not after
                and connection.execute(_HIDDEN, (route_id, *bounds)).fetchone()
            ):
                raise sqlite3.DatabaseError("rows that are counted cannot be found")
            salt = _salt(connection)
        return _take(route_id, salt, rows, max_bytes, max_spans) if rows else None

    def last_id(self, route: str) -> int:
        """Give the id of the last batch that a route took in; 0 for an unknown route."""
        with self.database.reading() as connection:
            row = connection.execute(
                f"SELECT (id << {ID_BITS}) + next FROM route WHERE name = ?", (route,)
            ).fetchone()
        return int(row[0]) if row else 0

    def is_settled(self, last_id: int) -> bool:
        """Say whether nothing is pending of a route's batches up to this id."""
        first = (last_id >> ID_BITS) << ID_BITS
        with self.database.reading() as connection:
            row = connection.execute(
                "SELECT 1 FROM batch WHERE id BETWEEN ? AND ? LIMIT 1", (first, last_id)
            ).fetchone()
        return row is None

    def route(self, route_id: int) -> Route | None:
        """Give one route as it is now; None if there is none (any more)."""
        return next((route for route in self.routes() if route.id == route_id), None)

    def routes(self) -> list[Route]:
        """Give every route, in the order of their first use."""
        with self.database.reading() as connection:
            rows = connection.execute(_ROUTES).fetchall()
        return [_route(row) for row in rows]

    def ledger(self) -> Ledger:
        """Give the totals."""
        with self.database.reading() as connection:
            row = connection.execute(_LEDGER).fetchone()
        return Ledger(*map(int, row))

    def salt(self) -> bytes:
        """Give the file's salt for fingerprints."""
        with self.database.reading() as connection:
            return _salt(connection)

    def pending(self, after: int = 0) -> list[Row]:
        """Give a page of pending rows behind an id."""
        bounds = (after + 1, _LAST_ID)
        with self.database.reading() as connection:
            return list(_rows(connection.execute(_OLDEST, (*bounds, _PAGE_ROWS)), *bounds))

    def dead_letters(self, first: int = 0, count: int = _PAGE_ROWS) -> list[DeadLetter]:
        """Give a page of dead letters, from an id on."""
        with self.database.reading() as connection:
            rows = connection.execute(_DEAD, (first, count)).fetchall()
            return [_letter(row) for row in rows]

    @contextlib.contextmanager
    def present(self) -> Iterator[None]:
        """Let other processes see that this one drains, if the file lets us."""
        is_seen = False
        with contextlib.suppress(SpoolFileError):
            is_seen = self.presence.acquire(timeout=BRIEFLY)
        try:
            yield
        finally:
            if is_seen:
                self.presence.release()

    def drainer(self) -> tuple[bool, int | None]:
        """Say whether any process drains this spool, and the pid of the last to take a turn."""
        with self.database.file_errors():
            if not is_held(self.presence.path):
                return False, None
            return True, signature(self.turn.path)


def _salt(connection: sqlite3.Connection) -> bytes:
    return bytes(connection.execute("SELECT salt FROM meta").fetchone()[0])


def _identity(target: Target) -> tuple[str, str, str | None]:
    return target.route, without_secrets(target.endpoint), target.public_key


def _id_range(route_id: int) -> tuple[int, int]:
    return (route_id << ID_BITS) + 1, (route_id + 1 << ID_BITS) - 1


def _rows(cursor: Iterable[tuple[Any, ...]], first: int, last: int) -> Iterator[Row]:
    """Make rows of what is read between two ids. Raises sqlite3.DatabaseError for damage."""
    for values in cursor:
        if not first <= values[0] <= last:  # else the same rows could be read for ever
            raise sqlite3.DatabaseError("the rows are out of order")
        first = values[0] + 1
        yield _row(values)


def _row(values: tuple[Any, ...]) -> Row:
    row_id, created_at, *rest = values
    batch, is_sound = _batch(rest)
    return Row(row_id, created_at, batch, is_sound)


def _batch(values: Sequence[Any]) -> tuple[Batch, bool]:
    """Make a stored batch, and say whether it is sound. Raises sqlite3.DatabaseError for damage."""
    spans, raw_bytes, codec, crc32, payload = values
    if not all(isinstance(number, int) for number in (spans, raw_bytes, codec, crc32)):
        raise sqlite3.DatabaseError("a row's numbers are damaged")
    if not isinstance(payload, bytes):
        raise sqlite3.DatabaseError("a row's payload is damaged")
    batch = Batch(payload, spans, raw_bytes, Codec.GZIP if codec else Codec.RAW)
    return batch, checksum(spans, raw_bytes, codec, payload) == crc32


def _values(batch: Batch) -> tuple[Any, ...]:
    numbers = batch.spans, batch.raw_bytes, int(batch.codec)
    return *numbers, checksum(*numbers, batch.payload), batch.payload


def _fitting(rows: Iterable[Row], max_bytes: int, max_spans: int) -> list[Row]:
    """Keep the first rows that fit together; a first row that is unsound or too large, alone."""
    fitting: list[Row] = []
    for row in rows:
        max_bytes -= row.batch.raw_bytes
        max_spans -= row.batch.spans
        if fitting and (max_bytes < 0 or max_spans < 0 or not row.is_sound):
            break
        fitting.append(row)
        if not row.is_sound:
            break
    return fitting


def _take(route_id: int, salt: bytes, rows: list[Row], max_bytes: int, max_spans: int) -> Take:
    whole = Take(route_id, salt, tuple(rows), tuple(row.batch for row in rows))
    if not rows[0].is_sound:
        return replace(whole, damage="its checksum does not match: it was damaged on disk")
    first = rows[0].batch
    spans = min(max_spans, max(1, first.spans * max_bytes // max(1, first.raw_bytes)))
    if len(rows) > 1 or spans >= first.spans:
        return whole
    try:
        head, rest = cut(first, spans)
    except PayloadError as error:
        return replace(whole, damage=str(error))
    return replace(whole, batches=(head,), rest=rest)


def _remove(connection: sqlite3.Connection, take: Take) -> int:
    """Remove what a request took; give the number of spans that were still there."""
    (before,) = connection.execute(_PENDING, (take.route_id,)).fetchone()
    if take.rest is None:
        connection.execute(_DELETE, (take.rows[0].id, take.rows[-1].id))
    else:
        connection.execute(_CUT, (*_values(take.rest), take.rows[0].id, take.rest.spans))
    (after,) = connection.execute(_PENDING, (take.route_id,)).fetchone()
    return int(before - after)


def _is_astray(connection: sqlite3.Connection, take: Take) -> bool:
    """Say whether a reader comes to the first row of a take, and its id does not: it is damaged."""
    row_id = take.rows[0].id
    bounds = _id_range(take.route_id)
    head = connection.execute(_SIZES, (*bounds, 1)).fetchone()
    found = connection.execute("SELECT 1 FROM batch WHERE id = ?", (row_id,)).fetchone()
    return head is not None and head[0] == row_id and found is None


def _bury(connection: sqlite3.Connection, take: Take, dead: int, now: float, reason: str) -> None:
    payload = take.batches[0].payload
    codec = take.batches[0].codec
    if len(take.batches) > 1:
        payload, codec = join(take.batches, compress=False), Codec.RAW
    letter = Batch(payload, dead, take.raw_bytes, codec)
    created_at = take.rows[0].created_at
    connection.execute(_BURY, (take.route_id, now, reason, created_at, *_values(letter)))


def _dead(connection: sqlite3.Connection, letter: DeadLetter) -> tuple[int, int]:
    row = connection.execute("SELECT spans, route FROM dead WHERE id = ?", (letter.id,)).fetchone()
    return row or (0, 0)


def _letter(values: tuple[Any, ...]) -> DeadLetter:
    letter_id, route, died_at, reason, created_at, *batch = values
    return DeadLetter(letter_id, route, died_at, reason, created_at, _batch(batch)[0])


def _route(values: tuple[Any, ...]) -> Route:
    named = dict(zip(Route.__slots__, values, strict=True))
    return Route(**{**named, "fingerprints": tuple(named["fingerprints"].split())})
