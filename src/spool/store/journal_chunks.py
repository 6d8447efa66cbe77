"""What becomes of a chunk of a journal: rows, or a delivery, or an eviction.

Invariants:

- Nothing is in a journal and in the file: how far a journal was moved is committed with what became
  of it, and only by who comes first.
- A file that comes to the path after another one gets only what that one did not: before anyone can
  take it into another file, a journal says itself how far it was moved, and into which file.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from typing import TYPE_CHECKING, Any

from spool.journal import directory
from spool.journal.identity import Identity
from spool.store import dead_letters, history, rows, sql
from spool.store.history import Kind
from spool.system.locks import PATIENTLY

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping
    from pathlib import Path

    from spool.journal.chunk import Chunk
    from spool.journal.file import File
    from spool.journal.frames import Frame
    from spool.store.database import Database


def ingest(
    database: Database, file: File, chunk: Chunk, as_rows: Iterable[Frame], patience: float
) -> bool:
    """Commit a chunk of a journal, made into rows; False where another process has moved it."""
    with _moving(database, file, chunk, patience) as connection:
        if connection is None:
            return False
        for one in as_rows:
            rows.append(connection, Identity.decode(one.identity), one.batch, one.created_at)
        if chunk.lost:
            _lose(connection, chunk)
    return True


def deliver(  # noqa: PLR0913 - each says something else of one request
    database: Database, file: File, chunk: Chunk, now: float, *, dead: int = 0, reason: str = ""
) -> bool:
    """End a request with spans of one route that were sent from a journal.

    `dead` of them become a dead letter. False where another process has moved them.
    """
    first, spans = chunk.frames[0], chunk.spans
    with _moving(database, file, chunk) as connection:
        if connection is None:
            return False
        route_id = rows.route_of(connection, Identity.decode(first.identity))
        connection.execute(sql.COUNT.format("accepted"), (spans, route_id))
        buried = min(dead, spans)
        if buried:
            batches = [frame.batch for frame in chunk.frames]
            dead_letters.bury(
                connection, (route_id, now, reason, first.created_at), batches, buried
            )
        rows.count_delivered(connection, route_id, spans - buried, now, "")
        database.pace.deliver(connection, spans - buried, now)
    return True


def evict(database: Database, file: File, chunk: Chunk, now: float) -> bool:
    """Evict a chunk of a journal as it is; False where another process has moved it."""
    with _moving(database, file, chunk) as connection:
        if connection is None:
            return False
        for identity, mine in chunk.by_route().items():
            spans = sum(frame.batch.spans for frame in mine)
            route_id = rows.route_of(connection, Identity.decode(identity))
            for column in ("accepted", "evicted"):
                connection.execute(sql.COUNT.format(column), (spans, route_id))
            name = Identity.decode(identity).route
            history.note(connection, Kind.EVICTED, name, spans, now, history.LIMIT_OF_SIZE)
        if chunk.lost:
            _lose(connection, chunk)
        connection.execute(sql.EVICTED, (now,))
    return True


@contextlib.contextmanager
def _moving(
    database: Database, file: File, chunk: Chunk, patience: float = PATIENTLY
) -> Iterator[sqlite3.Connection | None]:
    """Hold a transaction for what becomes of a chunk; None where another has moved it."""
    with database.writing(patience) as connection:
        with database.in_transaction(connection):
            is_next = _is_next(connection, file, chunk)
            yield connection if is_next else None
            if is_next:
                connection.execute(sql.MOVE, (file.path.name, chunk.end))
                salt = rows.salt(connection)
        if is_next:  # before anyone can take it into another file
            file.write_header(salt, chunk.end)


def _is_next(connection: sqlite3.Connection, file: File, chunk: Chunk) -> bool:
    """Say whether a chunk is what comes next of a journal: nobody has moved it. Raises OSError."""
    moved, is_known = _moved(connection, file)
    # What the database does not know of, its own process may know better than the file does.
    is_next = chunk.start == moved or (chunk.start > moved and not is_known)
    return is_next and not file.is_gone()


def _lose(connection: sqlite3.Connection, chunk: Chunk) -> None:
    """Count spans that were damaged in a journal: as those of the next one's route, or of any."""
    if chunk.frames:
        name = Identity.decode(chunk.frames[0].identity).route
    else:
        (name,) = connection.execute(sql.ANY_ROUTE).fetchone() or ("",)
    connection.execute(sql.LOSE, (chunk.lost, chunk.lost, name))
    now = time.time()
    connection.execute(sql.DAMAGED, (now,))
    history.note(connection, Kind.DAMAGED, name, chunk.lost, now, "a journal was damaged")


def moved(database: Database, file: File) -> int:
    """Tell up to which offset a journal was moved."""
    with database.reading() as connection:
        return _moved(connection, file)[0]


def _moved(connection: sqlite3.Connection, file: File) -> tuple[int, bool]:
    """Tell how far a journal was moved, and whether this database knows of it. Raises OSError."""
    row = connection.execute(sql.MOVED, (file.path.name,)).fetchone()
    begins_at = file.begins_at(rows.salt(connection))
    return max(begins_at, _offset(row[0]) if row else 0), row is not None


def offsets(database: Database) -> dict[str, int]:
    """Tell how far each journal was moved of which something was, by name."""
    with database.reading() as connection:
        return offsets_in(connection)


def offsets_in(connection: sqlite3.Connection) -> dict[str, int]:
    """Tell it within a transaction, as `offsets`."""
    known = connection.execute(sql.JOURNALS).fetchall()
    return {name: _offset(moved) for name, moved in known}


def forget(database: Database, names: Iterable[str]) -> None:
    """Forget journals that are gone."""
    with database.transaction() as connection:
        connection.executemany(sql.FORGET, [(name,) for name in names])


def inbound_bytes(database: Database) -> int:
    """Tell how much waits in the journals of all processes."""
    with database.file_errors():
        return directory.bytes_beside(database.path, offsets(database))


def unmoved(
    spool: Path, salt: bytes, moved: Mapping[str, int], unreadable: dict[Path, str]
) -> Generator[tuple[Path, Chunk]]:
    """Read what the journals, any process's, have behind these offsets: one after the other.

    `salt` is that of the file into which they were moved. Those that are passed over are noted in
    `unreadable`, and why. Raises OSError.
    """
    for path in directory.paths(spool):
        offset = moved.get(path.name, 0)
        with directory.passing_over(path, unreadable):
            if os.stat(path, follow_symlinks=False).st_size <= offset:
                continue
            with directory.opened(path, spool) as file:
                file.moved = max(file.begins_at(salt), offset)
                for chunk in file.unmoved():
                    yield path, chunk


def _offset(moved: Any) -> int:
    """Read how far a journal was moved. Raises sqlite3.DatabaseError for damage."""
    if not str(moved).isdecimal():
        raise sqlite3.DatabaseError("how far a journal was moved is damaged")
    return int(moved)
