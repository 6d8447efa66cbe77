"""The store: what a span passes on its way, from `accept` to `settle`; and what waits.

Invariants:

- What `accept` returned from is in the journal; what `append` did, in the file.
- The ledger balances, in spans: accepted + imported = delivered + dead + evicted + purged +
  exported + damaged + pending. What leaves `pending` is counted in the same transaction.
- A row's id is its first span's number. The rows of a route are taken in the order of their ids,
  the parts of one that is divided stand in its place, and rows that are packed keep the first one's
  id: so all that was accepted before a moment is settled when no such id is pending.
- Settling ends only what was taken: nothing of a row that was packed with others meanwhile.
- Readers take one bounded page at a time.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from spool.errors import PayloadError
from spool.journal import journal
from spool.journal.identity import Identity
from spool.otlp.cutting import divide
from spool.settings.durability import Durability
from spool.store import dead_letters, history, journal_chunks, rows, sql
from spool.store.database import Database
from spool.store.records import DeadLetter, Ledger, Route, Row, Take, Trouble
from spool.store.schema import ID_BITS
from spool.system import disk, location, spool_files
from spool.system.drain_lock import DrainLock
from spool.system.event import SignalSafeEvent
from spool.system.first_comer import FirstComer
from spool.system.locks import PATIENTLY, FileLock

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path

    from spool.journal.chunk import Chunk
    from spool.journal.frames import Frame
    from spool.journal.overflow import Held
    from spool.otlp.batch import Batch
    from spool.settings.target import Target

_PAGE_ROWS: Final = 64


class Store:
    """The spool as one process uses it: safe between threads and across forks.

    `journal` takes what the application's threads bring, and `come` is set by that. `drain_lock`
    is held by the process that sends, for one turn, and `probe_lock` by the one that sends a route
    in trouble; `presence` by every process that has a drainer; `reporter` is the one that tells
    metrics of it. While it `is_full`, or the disk `is_cramped`, nothing is accepted. `unreadable`
    are the journals that were passed over when they were read last, and why. All methods raise
    SpoolFileError, those that write SpoolBusyError too.
    """

    def __init__(self, path: Path, durability: Durability = Durability.PROCESS_DEATH) -> None:
        self.database = Database(path, durability)
        create = self.database.create_beside
        self.journal = journal.Journal(path, create, durability)
        self.drain_lock = DrainLock(path, create)
        self.probe_lock = DrainLock(path, create, kind=".probe")
        self.presence = FileLock(spool_files.beside(path, ".drainer"), create, shared=True)
        self.reporter = FirstComer(spool_files.beside(path, ".reporter"), create)
        self.come = SignalSafeEvent()
        self.is_full = False
        self.is_cramped = False
        self.unreadable: dict[Path, str] = {}
        self._refused: Counter[str] = Counter()

    def exists(self) -> bool:
        """Say whether there is a spool; an empty file is none yet."""
        with self.database.file_errors():
            status = location.check(self.database.path)
        return status is not None and status.st_size > 0

    def open(self) -> None:
        """Create the file if need be, and check that it can be written."""
        with self.database.writing():
            pass

    def close(self) -> None:
        """Close what is open; the next call opens it again."""
        self.journal.close()
        self.database.close()
        self.drain_lock.close()
        self.probe_lock.close()
        self.presence.close()
        self.reporter.close()

    # Writing: the application's threads

    def accept(self, target: Target, batch: Batch, now: float) -> None:
        """Append one batch to the journal. It is spooled when this returns.

        Raises SpoolFileError, SpoolFullError.
        """
        self._check_room()
        self.journal.append(target, batch, now)
        self.rouse()

    def rouse(self) -> None:
        """Let maintenance and drainer see that something has come."""
        if not self.database.written.is_set():
            self.database.written.set()
        if not self.come.is_set():
            self.come.set()
        if self.journal.is_crowded and not self.database.is_wal_large.is_set():
            self.database.is_wal_large.set()  # it rouses maintenance at once

    def register(self, target: Target, patience: float = PATIENTLY) -> None:
        """Record a target's identity and the endpoint last used; create the file if need be."""
        with self.database.writing(patience) as connection:
            connection.execute(sql.REGISTER, Identity.of(target))

    def refuse(self, spans: int, reason: object = history.BY_DISK) -> None:
        """Remember to count spans that were refused, by an error or words; see `count_refused`."""
        self._refused[history.why_refused(reason)] += spans
        self.database.written.set()

    def forget_refused(self) -> None:
        """Leave that count to another process: the one that this one was forked from."""
        self._refused = Counter()

    def _check_room(self) -> None:
        if self.is_cramped:
            raise disk.almost_full(self.database.path)
        if self.is_full:
            raise disk.over_limit(self.database.path)

    # Writing, as maintenance does

    def append(
        self, target: Target, batch: Batch, now: float, *, patience: float = PATIENTLY
    ) -> None:
        """Commit one batch as a row."""
        with self.database.transaction(patience) as connection:
            rows.append(connection, Identity.of(target), batch, now)

    def record(self, held: Held, patience: float = PATIENTLY) -> None:
        """Take over a batch from the overflow."""
        self._check_room()
        self.append(held.target, held.batch, held.created_at, patience=patience)

    def credit(self, target: Target, spans: int, patience: float = PATIENTLY) -> None:
        """Count spans that were delivered from the overflow: they never were in the file."""
        with self.database.transaction(patience) as connection:
            connection.execute(sql.REGISTER, Identity.of(target))
            connection.execute(sql.CREDIT, (spans, spans, target.route))

    def count_refused(self, now: float, patience: float = PATIENTLY) -> None:
        """Write down how many spans were refused since the last time."""
        if not self._refused:
            return
        with self.database.transaction(patience) as connection:
            for why, spans in (counted := self._refused.copy()).items():
                history.refuse(connection, spans, now, why)
        self._refused -= counted

    # Writing: the drainer

    def settle(
        self,
        take: Take,
        now: float,
        *,
        dead: int = 0,
        reason: str = "",
        accepted_by: str | None = None,
    ) -> int:
        """End a request: `dead` of its spans become a dead letter, the others are delivered.

        `accepted_by` is the fingerprint of the target that took it: the route is well then. None
        where it was not sent, or refused. Gives the number delivered. Only what was still there
        counts: a row that was evicted or purged meanwhile is in the ledger already.
        """
        with self.database.transaction() as connection:
            if rows.salt(connection) != take.salt:  # the file was moved: these rows went with it
                return 0
            gone = rows.remove(connection, take)
            if gone > sum(row.batch.spans for row in take.rows):
                raise sqlite3.DatabaseError("several rows have one id")
            if rows.pending(connection, take.route_id)[0] < 0:
                raise sqlite3.DatabaseError("there are more rows than were counted")
            if not gone and rows.is_astray(connection, take):
                raise sqlite3.DatabaseError("a row is not where its id says")
            buried = max(0, min(dead, gone))
            if buried:
                why = take.route_id, now, reason, take.rows[0].created_at
                dead_letters.bury(connection, why, take.batches, buried)
            rows.count_delivered(connection, take.route_id, gone - buried, now, accepted_by)
            self.database.pace.deliver(connection, gone - buried, now)
        return gone - buried

    def take(self, route_id: int, *, max_bytes: int, max_spans: int, after: int = 0) -> Take | None:
        """Take the oldest rows, as `oldest`; one that alone is too large is divided first.

        Its parts are small, so that nothing of it is written again each time that some of it goes.
        """
        while (
            take := self.oldest(route_id, max_bytes=max_bytes, max_spans=max_spans, after=after)
        ) is not None:
            is_small = take.raw_bytes <= max_bytes and take.spans <= max_spans
            if take.damage or is_small or take.spans == 1:
                return take
            row = take.rows[0]
            try:
                parts = divide(row.batch, -(-row.batch.spans // rows.PARTS))
            except PayloadError as error:
                return replace(take, damage=str(error))
            with self.database.transaction() as connection:
                if rows.salt(connection) == take.salt:
                    rows.divide(connection, row, parts)
        return None

    # Reading

    def oldest(
        self, route_id: int, *, max_bytes: int, max_spans: int, after: int = 0
    ) -> Take | None:
        """Take the oldest rows of a route, as many as fit, one at the least; None without any.

        Rows up to the id `after` are passed over.
        """
        first, last = rows.id_range(route_id)
        bounds = (max(first, after + 1), last)
        with self.database.reading() as connection:
            cursor = connection.execute(sql.OLDEST, (*bounds, rows.MOST))
            with contextlib.closing(cursor):
                found = rows.fitting(rows.read(cursor, *bounds), max_bytes, max_spans)
            if not found and not after and rows.is_hidden(connection, route_id):
                raise sqlite3.DatabaseError("rows that are counted cannot be found")
            mark = rows.salt(connection), rows.pending(connection, route_id)[1]
        return rows.take_of(route_id, mark, found) if found else None

    def last_id(self, route: str) -> int:
        """Give the id of the last batch that a route took in; 0 for an unknown route."""
        with self.database.reading() as connection:
            row = connection.execute(sql.LAST_ID, (route,)).fetchone()
        return int(row[0]) if row else 0

    def is_settled(self, last_id: int) -> bool:
        """Say whether nothing is pending of a route's batches up to this id."""
        first = (last_id >> ID_BITS) << ID_BITS
        with self.database.reading() as connection:
            row = connection.execute(sql.IS_PENDING, (first, last_id)).fetchone()
        return row is None

    def first_id(self, route_id: int, after: int = 0) -> int:
        """Give the id of the first row of a route that is pending, behind another; 0 for none."""
        first, last = rows.id_range(route_id)
        with self.database.reading() as connection:
            found = connection.execute(sql.BEHIND, (max(first, after + 1), last)).fetchone()
        return int(found[0] or 0)

    def newest_id(self, route_id: int) -> int:
        """Give the id of the last row of a route that is pending; 0 for none."""
        with self.database.reading() as connection:
            return int(connection.execute(sql.NEWEST, rows.id_range(route_id)).fetchone()[0] or 0)

    def route(self, route_id: int) -> Route | None:
        """Give one route as it is now, not since when; None if there is none (any more)."""
        return next(iter(self._routes(sql.ROUTE, route_id)), None)

    def lock_of(self, route: Route) -> DrainLock:
        """Give the lock with which a route is sent, as it is now."""
        return self.probe_lock if route.is_troubled else self.drain_lock

    def waiting(self) -> list[Route]:
        """Give the routes with something pending, not since when: so it costs little."""
        return self._routes(sql.WAITING)

    def routes(self) -> list[Route]:
        """Give every route, in the order of their first use."""
        return self._routes(sql.ROUTES)

    def _routes(self, statement: str, *values: object) -> list[Route]:
        with self.database.reading() as connection:
            cursor = connection.execute(statement, values)
            names = [column for column, *_ in cursor.description]
            return [Route.of(dict(zip(names, row, strict=True))) for row in cursor.fetchall()]

    def ledger(self) -> Ledger:
        """Give the totals, with what is in the journals."""
        with self.database.file_errors():
            salt, before = self._moved()
            read = self._unmoved(salt, before)
            found = [(path, piece) for path, chunk in read for piece in chunk.ends()]
            with self.database.reading() as connection:  # one moment: not a span is counted twice
                is_same_file = rows.salt(connection) == salt
                moved = journal_chunks.offsets_in(connection)
                ledger = Ledger(*map(int, connection.execute(sql.LEDGER).fetchone()))
            if not is_same_file:
                return self.ledger()
            gone = {
                path for path in {path for path, _ in found}
                if path.name not in moved and (path.name in before or not path.exists())
            }  # fmt: skip
            spans = sum(
                count
                for path, (end, count) in found
                if path not in gone and end > moved.get(path.name, 0)
            )
        return replace(ledger, accepted=ledger.accepted + spans, pending=ledger.pending + spans)

    def inbound(self) -> Generator[Frame]:
        """Give what is in the journals, any process's, and not in the file yet."""
        with self.database.file_errors():
            for _, chunk in self._unmoved(*self._moved()):
                yield from chunk.frames

    def _moved(self) -> tuple[bytes, dict[str, int]]:
        """Tell the file's salt, and how far each journal was moved, by name."""
        with self.database.reading() as connection:
            return rows.salt(connection), journal_chunks.offsets_in(connection)

    def _unmoved(self, salt: bytes, moved: Mapping[str, int]) -> Generator[tuple[Path, Chunk]]:
        self.unreadable = {}
        return journal_chunks.unmoved(self.database.path, salt, moved, self.unreadable)

    def last_trouble(self) -> Trouble:
        """Tell when what a person should look at happened last."""
        with self.database.reading() as connection:
            return Trouble(*connection.execute(sql.LAST_TROUBLE).fetchone())

    def salt(self) -> bytes:
        """Give the file's salt for fingerprints."""
        with self.database.reading() as connection:
            return rows.salt(connection)

    def pending(
        self, after: int = 0, last: int = rows.LAST_ID, count: int = _PAGE_ROWS
    ) -> list[Row]:
        """Give a page of pending rows behind an id, up to another."""
        bounds = (after + 1, last)
        with self.database.reading() as connection:
            return list(rows.read(connection.execute(sql.OLDEST, (*bounds, count)), *bounds))

    def dead_letters(self, first: int = 0, count: int = _PAGE_ROWS) -> list[DeadLetter]:
        """Give a page of dead letters, from an id on."""
        with self.database.reading() as connection:
            found = connection.execute(sql.DEAD, (first, count)).fetchall()
            return [dead_letters.letter_of(values) for values in found]
