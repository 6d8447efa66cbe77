"""SQLite itself: a file opened, a transaction held, the WAL emptied.

Invariants, beside the package's:

- Nobody opens the main file but SQLite: closing it again would drop the locks that SQLite holds in
  this process (POSIX locks belong to the process).
- A checkpoint is followed by one small commit under the same hold of the mutex, so that no other
  write restarts the WAL: that would fsync its header, too.
"""

from __future__ import annotations

import contextlib
import ctypes
import sqlite3
from typing import TYPE_CHECKING, Final

from spool.system.locks import BRIEFLY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# What SQLite says of a disk that is full, read-only, over its quota or without inodes.
WORDS_OF_A_DISK: Final = frozenset(
    {
        "attempt to write a readonly database",
        "database or disk is full",
        "disk I/O error",
        "unable to open database file",
    }
)


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Open a file that is there, `ro` or `rw`."""
    # Not sqlite3.connect: where that is instrumented, our statements would be spans to be spooled.
    sqlite = sqlite3.Connection(
        f"{path.as_uri()}?mode={mode}",
        uri=True,
        timeout=BRIEFLY,
        isolation_level=None,
        check_same_thread=False,
    )
    # A damaged file may call anything text.
    sqlite.text_factory = lambda text: text.decode(errors="replace")
    return sqlite


def connect_alone(path: Path, *, has_wal: bool) -> sqlite3.Connection:
    """Open a file for reading without creating anything, where nobody else can have it open.

    Its WAL's index is in memory (SQLite, "Write-Ahead Logging", without shared memory): that needs
    an exclusive lock, which a file opened for reading is not given, so locks are passed over.
    """
    if not has_wal:
        return connect(path, "ro&immutable=1")
    sqlite = connect(path, "ro&vfs=unix-none")
    sqlite.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
    return sqlite


def leak(sqlite: sqlite3.Connection) -> None:
    """Keep a connection from ever being closed or finalized, at interpreter exit too."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(sqlite))


def pragma(sqlite: sqlite3.Connection, name: str) -> int:
    """Read a number from a file's header, or of its pages."""
    return int(sqlite.execute(f"PRAGMA {name}").fetchone()[0])


@contextlib.contextmanager
def in_transaction(sqlite: sqlite3.Connection) -> Iterator[None]:
    """Write in one transaction; it is rolled back when the block raises."""
    try:
        sqlite.execute("BEGIN IMMEDIATE")
        yield
        sqlite.execute("COMMIT")
    finally:
        end_transaction(sqlite)


def end_transaction(sqlite: sqlite3.Connection) -> None:
    """Roll a transaction back, if one is open."""
    if sqlite.in_transaction:
        sqlite.execute("ROLLBACK")


def checkpoint(sqlite: sqlite3.Connection) -> None:
    """Write the WAL's pages to the main file and start it anew, with one small commit."""
    empty_wal(sqlite)
    sqlite.execute("UPDATE meta SET checkpoints = checkpoints + 1")


def empty_wal(sqlite: sqlite3.Connection) -> bool:
    """Write the WAL's pages to the main file and truncate it; False where a reader needs it."""
    sqlite.execute("PRAGMA busy_timeout = 0")  # never wait for a reader while the mutex is held
    try:
        (is_busy, _, _) = sqlite.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        sqlite.execute(f"PRAGMA busy_timeout = {int(BRIEFLY * 1000)}")
    return not is_busy


def live_bytes(sqlite: sqlite3.Connection) -> int:
    """Tell the size of what is in a file, without the pages that are free."""
    pages = pragma(sqlite, "page_count") - pragma(sqlite, "freelist_count")
    return pages * pragma(sqlite, "page_size")
