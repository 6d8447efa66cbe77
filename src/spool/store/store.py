"""The store: spans as rows, the routes, the ledger. Statements are `sql`'s, the file `database`'s.

Invariants:

- What `accept` returned from is in the journal; what `append` or `ingest` did, in the file.
  Nothing is in both: how far a journal was moved is committed with its rows, or with its delivery.
  A file that comes to the path after another one gets only what that one did not.
- The ledger balances, in spans: accepted + imported = delivered + dead + evicted + purged +
  exported + damaged + pending. What leaves `pending` is counted in the same transaction.
- A row's id is its first span's number. The rows of a route are taken in the order of their ids,
  the parts of one that is divided stand in its place, and rows that are packed keep the first one's
  id: so all that was accepted before a moment is settled when no such id is pending.
- Settling ends only what was taken: nothing of a row that was packed with others meanwhile.
- No wall clock decides on age: a span is as old as somebody watched it, by monotonic clocks.
- Readers take one bounded page at a time.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from spool.errors import PayloadError, SpoolFileError
from spool.journal import directory, journal
from spool.journal.identity import Identity
from spool.otlp.batch import Batch, merge
from spool.otlp.cutting import divide
from spool.settings.durability import Durability
from spool.store import rows, sql
from spool.store.database import Database
from spool.store.records import DeadLetter, Ledger, Route, Row, Take, Trouble
from spool.store.schema import ID_BITS
from spool.store.sqlite import in_transaction, live_bytes
from spool.system import disk, location, spool_files
from spool.system.drain_lock import DrainLock
from spool.system.event import SignalSafeEvent
from spool.system.locks import BRIEFLY, PATIENTLY, FileLock, is_held

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from spool.journal.chunk import Chunk
    from spool.journal.file import File
    from spool.journal.frames import Frame
    from spool.journal.overflow import Held
    from spool.settings.target import Target

_PAGE_ROWS: Final = 64
_KNOWN_FINGERPRINTS: Final = 15


class Store:
    """The spool as one process uses it: safe between threads and across forks.

    `journal` takes what the application's threads bring, and `come` is set by that. `drain_lock`
    is held by the process that sends, for one turn, and `probe_lock` by the one that sends a route
    in trouble; `presence` by every process that has a drainer. While it `is_full`, or the disk
    `is_cramped`, nothing is accepted. `unreadable` are the journals that were passed over when they
    were read last, and why. All methods raise SpoolFileError, those that write SpoolBusyError
    too.
    """

    def __init__(self, path: Path, durability: Durability = Durability.PROCESS_DEATH) -> None:
        self.database = Database(path, durability)
        create = self.database.create_beside
        self.journal = journal.Journal(path, create, durability)
        self.drain_lock = DrainLock(path, create)
        self.probe_lock = DrainLock(path, create, kind=".probe")
        self.presence = FileLock(spool_files.beside(path, ".drainer"), create, shared=True)
        self.come = SignalSafeEvent()
        self.is_full = False
        self.is_cramped = False
        self.unreadable: dict[Path, str] = {}
        self._refused = 0

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

    def refuse(self, spans: int) -> None:
        """Remember to count spans that could not be appended; see `count_refused`."""
        self._refused += spans
        self.database.written.set()

    def forget_refused(self) -> None:
        """Leave that count to another process: the one that this one was forked from."""
        self._refused = 0

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

    def moved(self, file: File) -> int:
        """Tell up to which offset a journal was moved."""
        with self.database.reading() as connection:
            return _moved(connection, file)[0]

    def ingest(self, file: File, chunk: Chunk, as_rows: Iterable[Frame], patience: float) -> bool:
        """Commit a chunk of a journal, made into rows; False where another process has moved it."""
        with self._moving(file, chunk, patience) as connection:
            if connection is None:
                return False
            for one in as_rows:
                rows.append(connection, Identity.decode(one.identity), one.batch, one.created_at)
            if chunk.lost:
                _lose(connection, chunk)
        return True

    def evict_from_journal(self, file: File, chunk: Chunk, now: float) -> bool:
        """Evict a chunk of a journal as it is; False where another process has moved it."""
        with self._moving(file, chunk) as connection:
            if connection is None:
                return False
            for identity, mine in chunk.by_route().items():
                spans = sum(frame.batch.spans for frame in mine)
                route_id = _route_id(connection, Identity.decode(identity))
                for column in ("accepted", "evicted"):
                    connection.execute(sql.COUNT.format(column), (spans, route_id))
            if chunk.lost:
                _lose(connection, chunk)
            connection.execute(sql.EVICTED, (now,))
        return True

    def inbound_bytes(self) -> int:
        """Tell how much waits in the journals of all processes."""
        with self.database.file_errors():
            return directory.bytes_beside(self.database.path, self.journals())

    @contextlib.contextmanager
    def _moving(
        self, file: File, chunk: Chunk, patience: float = PATIENTLY
    ) -> Iterator[sqlite3.Connection | None]:
        """Hold a transaction for what becomes of a chunk; None where another has moved it."""
        with self.database.writing(patience) as connection:
            with in_transaction(connection):
                is_next = _is_next(connection, file, chunk)
                yield connection if is_next else None
                if is_next:
                    connection.execute(sql.MOVE, (file.path.name, chunk.end))
                    salt = rows.salt(connection)
            if is_next:  # before anyone can take it into another file
                file.write_header(salt, chunk.end)

    def journals(self) -> dict[str, int]:
        """Tell how far each journal was moved of which something was, by name."""
        with self.database.reading() as connection:
            known = connection.execute(sql.JOURNALS).fetchall()
            return {name: _offset(moved) for name, moved in known}

    def forget(self, names: Iterable[str]) -> None:
        """Forget journals that are gone."""
        with self.database.transaction() as connection:
            connection.executemany(sql.FORGET, [(name,) for name in names])

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
        with self.database.writing(patience) as connection:
            counted = self._refused
            connection.execute(sql.REFUSED, (counted, now))
        self._refused -= counted

    def evict(self, limit: int, now: float) -> int:
        """Delete the oldest spans, pending or dead, while live data has more than `limit` bytes.

        One chunk. Gives the number of spans evicted; 0 where nothing is left that must or could go.
        """
        routes = [route for route in self.routes() if route.oldest_at is not None]
        letters = self.dead_letters(count=1)
        oldest = min(routes, key=lambda route: route.oldest_at or 0.0, default=None)
        with self.database.transaction() as connection:
            excess, evicted = live_bytes(connection) - limit, 0
            if excess <= 0:  # another process was faster
                return 0
            if letters and (oldest is None or letters[0].created_at <= (oldest.oldest_at or 0.0)):
                evicted = _drop(connection, letters[0].id, "evicted")
            elif oldest is not None:
                evicted = rows.evict(connection, *rows.id_range(oldest.id), excess)
            if evicted:
                connection.execute(sql.EVICTED, (now,))
        return evicted

    def watch(self, seconds: float, at: float) -> None:
        """Let everything grow older by time that somebody watched, and mark what has come.

        The time ends `at`, by the monotonic clock; what another process has told of it counts once.
        """
        with self.database.transaction() as connection:
            connection.execute(sql.WATCH, {"seconds": seconds, "at": at})
            connection.execute(sql.MARK)

    def expire(self, max_age: float, now: float) -> int:
        """Delete spans, pending or dead, that were watched for `max_age` seconds: one chunk.

        Gives the number of spans evicted; 0 where no more are so old.
        """
        with self.database.transaction() as connection:
            while mark := connection.execute(sql.OLD_MARK, (max_age,)).fetchone():
                if evicted := _expire(connection, mark[0]):
                    connection.execute(sql.EVICTED, (now,))
                    return evicted
                connection.execute(sql.DELETE_MARK, mark)
        return 0

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
                _bury(connection, why, take.batches, buried)
            _count_delivered(connection, take.route_id, gone - buried, now, accepted_by)
        return gone - buried

    def deliver(
        self, file: File, chunk: Chunk, now: float, *, dead: int = 0, reason: str = ""
    ) -> bool:
        """End a request with spans of one route that were sent straight from a journal.

        `dead` of them become a dead letter. False where another process has moved them.
        """
        first, spans = chunk.frames[0], chunk.spans
        with self._moving(file, chunk) as connection:
            if connection is None:
                return False
            route_id = _route_id(connection, Identity.decode(first.identity))
            connection.execute(sql.COUNT.format("accepted"), (spans, route_id))
            buried = min(dead, spans)
            if buried:
                batches = [frame.batch for frame in chunk.frames]
                _bury(connection, (route_id, now, reason, first.created_at), batches, buried)
            _count_delivered(connection, route_id, spans - buried, now, "")
        return True

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

    def wait(self, route: Route, seconds: float, now: float, reason: str) -> None:
        """Keep a route's spans for a later attempt, `seconds` from now."""
        with self.database.writing() as connection:
            connection.execute(sql.WAIT, (now, seconds, reason, route.id))

    def suspect(self, route: Route, last_id: int, probes: int = 0) -> None:
        """Note that what waits up to an id may itself be to blame: what comes is not.

        So many `probes` of what came since were refused as well.
        """
        with self.database.writing() as connection:
            connection.execute(sql.SUSPECT, (last_id, probes, route.id))

    def bury(self, route_id: int, salt: bytes, words: Mapping[int, str], now: float) -> int:
        """Make dead letters of rows of one span, with the words about each; give their number.

        Those that are not there any more are passed over, all of them where the file is another.
        """
        left, buried = deque(words.items()), 0
        while left:
            with self.database.transaction() as connection:
                if rows.salt(connection) != salt:
                    break
                buried += rows.bury(connection, route_id, left, now)
        return buried

    def put_off(self, waits: Iterable[tuple[Route, float]], now: float, reason: str) -> None:
        """Let routes wait, each for so many seconds, which were not tried themselves.

        Only for who has their turn. Not one that another has tried since it was read.
        """
        values = [(now, s, reason, route.id, route.name, route.attempts) for route, s in waits]
        with self.database.transaction() as connection:
            connection.executemany(sql.PUT_OFF, values)

    def hold(self, route: Route, fingerprint: str, seconds: float, now: float, reason: str) -> None:
        """Keep them, because the target with this fingerprint was refused: no backoff helps."""
        others = [known for known in route.fingerprints if known != fingerprint]
        known = " ".join([*others[-_KNOWN_FINGERPRINTS:], fingerprint])
        with self.database.transaction() as connection:
            connection.execute(sql.WAIT, (now, seconds, reason, route.id))
            connection.execute(sql.HOLD, (known, now, route.id))

    def restart_wait(self, route: Route, now: float) -> None:
        """Let a wait begin now: the clock went back behind its beginning."""
        with self.database.writing() as connection:
            connection.execute(sql.RESTART_WAIT, {"now": now, "id": route.id})

    def pack(self, route_id: int, max_bytes: int) -> bool:
        """Make one row of the oldest rows that are not packed, deflated, if `max_bytes` wait.

        Says whether there may be more to pack. Only for the holder of the turn.
        """
        first, last = rows.id_range(route_id)
        with self.database.reading() as connection:
            salt, (_, packed_to) = rows.salt(connection), rows.pending(connection, route_id)
            bounds = (max(first, packed_to + 1), last)
            cursor = connection.execute(sql.OLDEST, (*bounds, rows.MOST))
            with contextlib.closing(cursor):
                run, is_whole = rows.run_of(rows.read(cursor, *bounds), max_bytes)
        if not is_whole:
            return False
        packed = merge([row.batch for row in run], compress=True) if len(run) > 1 else None
        with self.database.transaction() as connection:
            ids = (run[0].id, run[-1].id)
            is_there = connection.execute(sql.SUMS, ids).fetchone() == rows.sums(run)
            if rows.salt(connection) != salt or not is_there:  # evicted, adopted or moved meanwhile
                return True
            if packed is not None:
                connection.execute(sql.PACK, (*rows.values(packed), ids[0]))
                rows.take_out(connection, ids[0] + 1, ids[1])
            connection.execute(sql.PACKED, (ids[1], route_id))
        return True

    # Writing: the commands

    def adopt(self, stranded: Route, target: Target, sending: float) -> int:
        """Give a route's pending spans to the target's route; give their number.

        In both turns, so that none is being sent meanwhile. `sending` is how many seconds a request
        can last at most.
        """
        moved = 0
        while True:
            with (
                self.drain_lock.take(sending, patience=BRIEFLY) as is_one_had,
                self.probe_lock.take(sending, patience=BRIEFLY) as is_other_had,
            ):
                is_had = is_one_had and is_other_had
                chunk = self._adopt_chunk(stranded, target) if is_had else 0
            if is_had and not chunk:
                return moved
            moved += chunk

    def _adopt_chunk(self, stranded: Route, target: Target) -> int:
        with self.database.transaction() as connection:
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
        return spans

    def retry(self, letter: DeadLetter) -> int:
        """Make a dead letter pending again; give its spans, 0 where it is gone already."""
        with self.database.transaction() as connection:
            spans, route_id = _dead(connection, letter.id)
            connection.execute(sql.RETRY, (letter.id,))
            connection.execute(sql.NOT_ACCEPTED_AGAIN.format("id"), (spans, route_id))
            connection.execute(sql.DELETE_LETTER, (letter.id,))
        return spans

    def purge(self, letter: DeadLetter) -> int:
        """Delete a dead letter for good; give its spans, 0 where it is gone already."""
        with self.database.transaction() as connection:
            return _drop(connection, letter.id, "purged")

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
        """Give the turn in which a route is sent, as it is now."""
        return self.probe_lock if route.is_troubled else self.drain_lock

    def waiting(self) -> list[Route]:
        """Give the routes with something pending, in the order of their first use.

        Not since when: so it costs little, however many there are.
        """
        return self._routes(sql.WAITING)

    def routes(self) -> list[Route]:
        """Give every route, in the order of their first use."""
        return self._routes(sql.ROUTES)

    def _routes(self, statement: str, *values: object) -> list[Route]:
        with self.database.reading() as connection:
            cursor = connection.execute(statement, values)
            names = [column for column, *_ in cursor.description]
            return [_route(dict(zip(names, row, strict=True))) for row in cursor.fetchall()]

    def ledger(self) -> Ledger:
        """Give the totals, with what is in the journals."""
        with self.database.file_errors():
            known_by, before = self._known()
            read = self._unmoved(known_by, before)
            found = [(path, piece) for path, chunk in read for piece in chunk.ends()]
            with self.database.reading() as connection:  # one moment: not a span is counted twice
                *row, salt, moved = connection.execute(sql.LEDGER).fetchone()
            if salt != known_by:  # another file is there now
                return self.ledger()
            offsets = _offsets(moved)
            gone = {
                path
                for path in {path for path, _ in found}
                if path.name not in offsets and (path.name in before or not path.exists())
            }
            spans = sum(
                count
                for path, (end, count) in found
                if path not in gone and end > offsets.get(path.name, 0)
            )
            ledger = Ledger(*map(int, row))
        return replace(ledger, accepted=ledger.accepted + spans, pending=ledger.pending + spans)

    def inbound(self) -> Generator[Frame]:
        """Give what is in the journals, any process's, and not in the file yet."""
        with self.database.file_errors():
            for _, chunk in self._unmoved(*self._known()):
                yield from chunk.frames

    def _known(self) -> tuple[bytes, dict[str, int]]:
        """Tell the file's salt, and how far each journal was moved, by name."""
        with self.database.reading() as connection:
            *_, salt, moved = connection.execute(sql.LEDGER).fetchone()
        return salt, _offsets(moved)

    def _unmoved(self, salt: bytes, moved: Mapping[str, int]) -> Generator[tuple[Path, Chunk]]:
        """Read what the journals, any process's, have behind these offsets: one after the other."""
        self.unreadable = {}
        for path in directory.paths(self.database.path):
            offset = moved.get(path.name, 0)
            with directory.passing_over(path, self.unreadable):
                if os.stat(path, follow_symlinks=False).st_size <= offset:
                    continue
                with directory.opened(path, self.database.path) as file:
                    file.moved = max(file.begins_at(salt), offset)
                    for chunk in file.unmoved():
                        yield path, chunk

    def strangers(self) -> tuple[str, ...]:
        """Name what others have put in place of the spool's files, each with the reason."""
        with self.database.file_errors():
            return tuple(spool_files.strangers(self.database.path))

    def last_trouble(self) -> Trouble:
        """Tell when what a person should look at happened last."""
        with self.database.reading() as connection:
            return Trouble(*connection.execute(sql.LAST_TROUBLE).fetchone())

    def salt(self) -> bytes:
        """Give the file's salt for fingerprints."""
        with self.database.reading() as connection:
            return rows.salt(connection)

    def pending(self, after: int = 0) -> list[Row]:
        """Give a page of pending rows behind an id."""
        bounds = (after + 1, rows.LAST_ID)
        with self.database.reading() as connection:
            return list(rows.read(connection.execute(sql.OLDEST, (*bounds, _PAGE_ROWS)), *bounds))

    def dead_letters(self, first: int = 0, count: int = _PAGE_ROWS) -> list[DeadLetter]:
        """Give a page of dead letters, from an id on."""
        with self.database.reading() as connection:
            found = connection.execute(sql.DEAD, (first, count)).fetchall()
            return [_letter(values) for values in found]

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
            if not is_held(self.presence.path, self.database.path):
                return False, None
            return True, self.drain_lock.pid()


def _route_id(connection: sqlite3.Connection, identity: Identity) -> int:
    if not (row := connection.execute(sql.ROUTE_ID, identity[:1]).fetchone()):  # a fresh file
        connection.execute(sql.REGISTER, identity)
        row = connection.execute(sql.ROUTE_ID, identity[:1]).fetchone()
    return int(row[0])


def _is_next(connection: sqlite3.Connection, file: File, chunk: Chunk) -> bool:
    """Say whether a chunk is what comes next of a journal: nobody has moved it. Raises OSError."""
    moved, is_known = _moved(connection, file)
    # What the database does not know of, its own process may know better than the file does.
    is_next = chunk.start == moved or (chunk.start > moved and not is_known)
    return is_next and not file.is_gone()


def _moved(connection: sqlite3.Connection, file: File) -> tuple[int, bool]:
    """Tell how far a journal was moved, and whether this database knows of it. Raises OSError."""
    row = connection.execute(sql.MOVED, (file.path.name,)).fetchone()
    begins_at = file.begins_at(rows.salt(connection))
    return max(begins_at, _offset(row[0]) if row else 0), row is not None


def _count_delivered(
    connection: sqlite3.Connection, route_id: int, spans: int, now: float, accepted_by: str | None
) -> None:
    connection.execute(sql.COUNT.format("delivered"), (spans, route_id))
    if accepted_by is not None:
        connection.execute(sql.SUCCEED, (now, accepted_by, route_id))


def _lose(connection: sqlite3.Connection, chunk: Chunk) -> None:
    """Count spans that were damaged in a journal: as those of the next one's route, or of any."""
    if chunk.frames:
        name = Identity.decode(chunk.frames[0].identity).route
    else:
        (name,) = connection.execute(sql.ANY_ROUTE).fetchone() or ("",)
    connection.execute(sql.LOSE, (chunk.lost, chunk.lost, name))
    connection.execute(sql.DAMAGED, (time.time(),))


def _offsets(moved: str | None) -> dict[str, int]:
    """Read how far the journals were moved, as `sql.LEDGER` tells it, by name."""
    said = (line.rsplit(" ", 1) for line in (moved or "").splitlines())
    return {name: _offset(offset) for name, offset in said}


def _offset(moved: Any) -> int:
    """Read how far a journal was moved. Raises sqlite3.DatabaseError for damage."""
    if not str(moved).isdecimal():
        raise sqlite3.DatabaseError("how far a journal was moved is damaged")
    return int(moved)


def _expire(connection: sqlite3.Connection, mark: int) -> int:
    """Evict one chunk of what had come when a mark was made; 0 when all of it is gone."""
    route_id = mark >> ID_BITS
    if route_id:
        return rows.evict(connection, rows.id_range(route_id)[0], rows.last_of(connection, mark))
    letter = connection.execute(sql.OLD_LETTER, (mark,)).fetchone()
    return _drop(connection, letter[0], "evicted") if letter else 0


def _drop(connection: sqlite3.Connection, letter_id: int, column: str) -> int:
    """Delete a dead letter and count its spans; 0 where it is gone already."""
    spans, route_id = _dead(connection, letter_id)
    connection.execute(sql.COUNT.format(column), (spans, route_id))
    connection.execute(sql.DELETE_LETTER, (letter_id,))
    return spans


def _bury(
    connection: sqlite3.Connection,
    why: tuple[int, float, str, float],
    batches: Sequence[Batch],
    dead: int,
) -> None:
    """Write a dead letter; `why` is its route's id, when and why it died, and since when it was."""
    letter = replace(merge(batches, compress=False), spans=dead)
    connection.execute(sql.BURY, (*why, *rows.values(letter)))


def _dead(connection: sqlite3.Connection, letter_id: int) -> tuple[int, int]:
    spans, route_id = connection.execute(sql.LETTER, (letter_id,)).fetchone() or (0, 0)
    return int(spans), int(route_id)


def _letter(values: tuple[Any, ...]) -> DeadLetter:
    letter_id, route, died_at, reason, created_at, *batch = values
    return DeadLetter(letter_id, route, died_at, reason, created_at, rows.batch_of(*batch)[0])


def _route(row: dict[str, Any]) -> Route:
    """Make a route of its row; one that an older version wrote lacks what came later."""
    known = {"held_at": 0.0, "suspect_to": 0, "probes": 0, **row}
    known["fingerprints"] = tuple(known["fingerprints"].split())
    return Route(**{name: known[name] for name in Route.__slots__})
