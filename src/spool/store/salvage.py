"""Salvage: what can be read of a damaged spool file goes into a new one, and the rest is counted.

A row counts as readable when SQLite gives it and its checksum matches. The totals survive where
they can be read: what is then missing of a route's pending and dead spans is its `damaged`.

Without its schema SQLite reads nothing of a file. But that is the same in every spool, and so are
the pages of the tables that the first version made: where it is damaged, a copy of the file gets it
from the new one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import struct
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from spool.store import history
from spool.store.history import EVENT_TYPES, HOUR_TYPES, Kind
from spool.store.records import checksum
from spool.store.schema import ID_BITS
from spool.store.sqlite import connect
from spool.store.version import has_sound_schema
from spool.system import spool_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# SQLite quotes damaged bytes in its own messages, which Python then cannot read.
_UNREADABLE: Final = (sqlite3.Error, UnicodeDecodeError)
_INTERIOR: Final = 5
# The pages of `_sqlite_migrations` and its index.
_UNREAD: Final = (3, 4)

_PAGE_ROWS: Final = 64
_MOST_PROBES: Final = 20_000
# Where so many fail from the first, the whole table hangs on a page that is gone.
_HOPELESS_PROBES: Final = 1000
_GUESSED_ROUTES: Final = 16
_GUESSED_ROWS: Final = 1 << 24

_IDENTITY: Final = ("id", "name", "endpoint", "public_key")
_TOTALS: Final = ("imported", "delivered", "evicted", "purged", "exported", "damaged")
_BATCH: Final = (
    "id", "route", "created_at", "spans", "raw_bytes", "codec", "crc32", "payload",
)  # fmt: skip
_COLUMNS: Final = {"batch": _BATCH, "dead": (*_BATCH, "died_at", "reason")}
_COUNTS: Final = (*_TOTALS, "accepted", "next", "packed", "pending_spans", "dead")

# A letter whose route was damaged, or totals that were: what is there was accepted once.
_BALANCE: Final = """
    UPDATE route SET accepted = max(0, delivered + dead + evicted + purged + exported + damaged
                                       + pending_spans - imported)"""

_Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Salvaged:
    """How many spans were rescued, and how many are known to be lost."""

    rescued: int
    lost: int


def salvage(damaged: Path, fresh_path: Path, fresh: sqlite3.Connection, grafted: Path) -> Salvaged:
    """Copy what can be read of the damaged file into a fresh spool, in one transaction.

    At `grafted` a copy of the damaged one may be made meanwhile. Raises sqlite3.Error for what is
    wrong with the fresh one, OSError where a copy is needed and cannot be made.
    """
    with (
        _readable_file(damaged, fresh_path, grafted) as path,
        contextlib.closing(connect(path, "rw")) as old,
    ):
        fresh.execute("BEGIN IMMEDIATE")
        for meta in _read(old, "meta", ("salt", "refused")):
            if isinstance(meta["salt"], bytes) and isinstance(meta["refused"], int):
                fresh.execute("UPDATE meta SET salt = :salt, refused = :refused", meta)
        fresh.execute("UPDATE meta SET damaged_at = ?", (time.time(),))
        for journal in _read(old, "inbox", ("name", "moved")):
            if isinstance(journal["moved"], int) and journal["moved"] >= 0:
                with contextlib.suppress(sqlite3.IntegrityError):
                    fresh.execute("INSERT INTO inbox (name, moved) VALUES (:name, :moved)", journal)
        found = _routes(old)
        routes = [route for route in found if _is_copied(fresh, "route", _IDENTITY, route)]
        for route in routes or _guessed_routes():
            first = (route["id"] << ID_BITS) + 1
            bounds = (first, first + route["next"])
            _copy_rows(old, fresh, "batch", bounds)
            if routes and _pending(fresh, route) < route["pending_spans"]:
                # A row whose id is damaged hides those behind it.
                _copy_rows(old, fresh, "batch", bounds, "DESC")
        _copy_rows(old, fresh, "dead", (1, _GUESSED_ROWS))
        lost = sum(_restore_totals(fresh, route) for route in routes)
        fresh.execute(_BALANCE)
        history.restore(
            fresh, _read(old, "event", (*EVENT_TYPES,)), _read(old, "hour", (*HOUR_TYPES,))
        )
        words = "the file was damaged, and salvaged"
        history.note(fresh, Kind.DAMAGED, "", lost, time.time(), words)
        (rescued,) = fresh.execute("SELECT total(pending_spans + dead) FROM route").fetchone()
        fresh.execute("COMMIT")
    return Salvaged(int(rescued), lost)


# Opening


@contextlib.contextmanager
def _readable_file(damaged: Path, fresh: Path, grafted: Path) -> Iterator[Path]:
    """Give the damaged file, or a copy that has the schema of the fresh one where it has none."""
    if _has_schema(damaged):
        yield damaged
        return
    try:
        _copy(damaged, grafted)
        if (wal := spool_files.beside(damaged, "-wal")).exists():
            _copy(wal, spool_files.beside(grafted, "-wal"))
        _graft(grafted, fresh)
        yield grafted
    finally:
        spool_files.remove(grafted)


def _copy(source: Path, copy: Path) -> None:
    with source.open("rb") as reading, os.fdopen(spool_files.create(copy, copy), "wb") as writing:
        shutil.copyfileobj(reading, writing)


def _has_schema(path: Path) -> bool:
    with contextlib.closing(connect(path, "rw")) as sqlite, contextlib.suppress(*_UNREADABLE):
        return has_sound_schema(sqlite)
    return False


def _graft(path: Path, fresh: Path) -> None:
    """Overwrite a file's header and schema (https://www.sqlite.org/fileformat.html).

    Where that has leaves, they come to pages that a salvage does not read.
    """
    with fresh.open("rb") as source, path.open("r+b") as file:
        (page_bytes,) = struct.unpack_from(">H", source.read(100), 16)
        root = bytearray(_page(source, 1, page_bytes))
        for at, number in zip(_leaf_pointers(root), _UNREAD, strict=True):
            (leaf,) = struct.unpack_from(">I", root, at)
            file.seek((number - 1) * page_bytes)
            file.write(_page(source, leaf, page_bytes))
            struct.pack_into(">I", root, at, number)
        pages = file.seek(0, os.SEEK_END) // page_bytes
        file.seek(0)
        file.write(root)
        # The size counts only where two counters agree. What is free is not for reading.
        file.seek(24)
        file.write(struct.pack(">IIII", 1, pages, 0, 0))
        file.seek(92)
        file.write(struct.pack(">I", 1))


def _page(file: BinaryIO, number: int, page_bytes: int) -> bytes:
    file.seek((number - 1) * page_bytes)
    return file.read(page_bytes)


def _leaf_pointers(page: bytes | bytearray) -> list[int]:
    """Give the offsets of the numbers of the leaves below the schema's root, the first page."""
    kind, cells = struct.unpack_from(">BxxH", page, 100)
    return [108, *struct.unpack_from(f">{cells}H", page, 112)] if kind == _INTERIOR else []


# Reading


def _routes(old: sqlite3.Connection) -> list[_Row]:
    return [
        route
        for route in _read(old, "route", (*_IDENTITY, *_COUNTS))
        if isinstance(route["name"], str)
        and 0 < route["id"] < 1 << (63 - ID_BITS)
        and all(isinstance(route[name], int) and route[name] >= 0 for name in _COUNTS)
    ]


def _guessed_routes() -> list[_Row]:
    return [{"id": number, "next": _GUESSED_ROWS} for number in range(1, _GUESSED_ROUTES)]


def _read(old: sqlite3.Connection, table: str, columns: tuple[str, ...]) -> Iterator[_Row]:
    """Give a small table's rows, up to the first that cannot be read."""
    with contextlib.suppress(*_UNREADABLE):
        for values in old.execute(f"SELECT {', '.join(columns)} FROM {table}"):
            yield dict(zip(columns, values, strict=True))


def _copy_rows(
    old: sqlite3.Connection,
    fresh: sqlite3.Connection,
    table: str,
    bounds: tuple[int, int],
    order: str = "ASC",
) -> None:
    columns = _COLUMNS[table]
    for row in _readable(old, table, columns, bounds, order):
        with contextlib.suppress(TypeError, OverflowError):
            if (
                checksum(row["spans"], row["raw_bytes"], row["codec"], row["payload"])
                == row["crc32"]
            ):
                if table == "batch":
                    row["route"] = row["id"] >> ID_BITS  # where its readers look for it
                _is_copied(fresh, table, columns, row)


def _readable(
    old: sqlite3.Connection,
    table: str,
    columns: tuple[str, ...],
    bounds: tuple[int, int],
    order: str,
) -> Iterator[_Row]:
    """Give every row between two ids that can be read: halve the ranges that fail."""
    query = f"""
        SELECT {", ".join(columns)} FROM {table} WHERE id BETWEEN ? AND ? ORDER BY id {order}
        LIMIT {_PAGE_ROWS}"""
    ranges = deque([bounds])
    is_any_readable = False
    for probe in range(_MOST_PROBES):
        if not ranges or (probe == _HOPELESS_PROBES and not is_any_readable):
            return
        first, last = ranges.popleft()
        try:
            while page := old.execute(query, (first, last)).fetchall():
                for values in page:
                    if not first <= values[0] <= last:  # else rows could be read for ever
                        raise sqlite3.DatabaseError("the rows are out of order")
                    yield dict(zip(columns, values, strict=True))
                end = page[-1][0]
                first, last = (end + 1, last) if order == "ASC" else (first, end - 1)
            is_any_readable = True
        except _UNREADABLE:
            if first < last:
                middle = (first + last) // 2
                ranges += [(first, middle), (middle + 1, last)]


def _is_copied(fresh: sqlite3.Connection, table: str, columns: tuple[str, ...], row: _Row) -> bool:
    """Insert a row, and say whether the tables took it: not one that is garbled, or read twice.

    One whose route could not be read gets a route without a receiver.
    """
    marks = ", ".join(f":{column}" for column in columns)
    try:
        if "route" in columns:
            route = row["route"]
            fresh.execute(
                "INSERT OR IGNORE INTO route (id, name, endpoint) VALUES (?, ?, '')",
                (route, f"salvaged-{route}"),
            )
        fresh.execute(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", row)
    except sqlite3.IntegrityError:
        return False
    return True


def _pending(fresh: sqlite3.Connection, route: _Row) -> int:
    query = "SELECT pending_spans FROM route WHERE id = ?"
    return int(fresh.execute(query, (route["id"],)).fetchone()[0])


def _restore_totals(fresh: sqlite3.Connection, route: _Row) -> int:
    """Set a route's totals to what they were, and count what is missing; give that count."""
    pending, dead = fresh.execute(
        "SELECT pending_spans, dead FROM route WHERE id = ?", (route["id"],)
    ).fetchone()
    missing = route["pending_spans"] + route["dead"] - pending - dead
    totals = {
        **{name: route[name] for name in ("id", "next", "packed", "accepted", *_TOTALS)},
        "damaged": route["damaged"] + max(0, missing),
        # More rows than were counted: the counts are of a page that was older.
        "accepted": route["accepted"] + max(0, -missing),
    }
    assignments = ", ".join(f"{name} = :{name}" for name in totals if name != "id")
    fresh.execute(f"UPDATE route SET {assignments} WHERE id = :id", totals)
    return max(0, int(missing))
