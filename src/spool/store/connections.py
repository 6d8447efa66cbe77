"""The two connections that a process has to the file at the path: a reader and a writer.

Invariants:

- The file at the path is the file we write: device and inode of it and of its WAL are compared
  before each use. One that was moved is left complete, and never closed: that would unlink the WAL
  that now stands at the path.
- No connection is used across a fork: both are closed before it and opened again when they are
  needed. One that another thread has in use all that time, or that a fork in C takes along, is left
  alone by the child.
- Nothing of a file that is not ours is changed, and nothing is created beside it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from spool.errors import SpoolFileError, SpoolUnavailableError
from spool.settings.durability import Durability
from spool.store import recovery, version
from spool.store.schema import APPLICATION_ID
from spool.store.sqlite import (
    WORDS_OF_A_DISK,
    checkpoint,
    connect,
    connect_alone,
    empty_wal,
    end_transaction,
    leak,
)
from spool.system import spool_files
from spool.system.event import SignalSafeEvent
from spool.system.forks import PerProcess
from spool.system.importing import importing
from spool.system.locks import ownership

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LARGE_WAL: Final = 4 << 20

_SYNCHRONOUS: Final = {Durability.PROCESS_DEATH: "NORMAL", Durability.POWER_CUT: "FULL"}

# Device and inode of a file; None for one that is not there.
Inode = tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class _Connection:
    """One connection, and which main file and which WAL it has open."""

    sqlite: sqlite3.Connection
    inodes: tuple[Inode, Inode]
    is_alone: bool = False


@dataclass(slots=True)
class _Use:
    """What one process has open; the writer is for the holder of the mutex."""

    # Re-entrant: a signal handler may read while its thread reads.
    reader_lock: threading.RLock = field(default_factory=threading.RLock)
    reader: _Connection | None = None
    writer: _Connection | None = None

    def leak(self) -> None:
        """Let go of both without closing them."""
        for connection in (self.reader, self.writer):
            if connection is not None:
                leak(connection.sqlite)
        self.reader = self.writer = None


class Connections:
    """One process's reader and writer, each opened when it is first needed.

    `main` is which file was at the path when that was looked at last; `is_wal_large` is set by who
    finds much to checkpoint; `is_read_only` by who was told so by SQLite: the next writer opens
    anew. `are_names_synced` says that the directory was synced since a writer was opened.
    """

    def __init__(self, path: Path, durability: Durability) -> None:
        self.path = path
        self.wal = spool_files.beside(path, "-wal")
        self.main: Inode = None
        self.is_wal_large = SignalSafeEvent()
        self.is_read_only = False
        self.are_names_synced = False
        self._durability = durability
        self._own = PerProcess(_Use, _Use.leak)

    # Use

    def writer(self) -> sqlite3.Connection:
        """Give the writer, to the file that is at the path now. Only for the mutex's holder."""
        if self.is_read_only:
            self.close()
            self.is_read_only = False
        use = self._own.get()
        if use.writer is not None:
            inodes = self.inodes()
            if use.writer.inodes == inodes:
                return use.writer.sqlite
            self._leave(use.writer, inodes)
            use.writer = None
        use.writer = self._open_writer()
        self.are_names_synced = False
        return use.writer.sqlite

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Hold the reader; all that a block reads is of one moment."""
        use = self._own.get()
        is_nested = ownership(use.reader_lock)()  # in a signal's handler
        with use.reader_lock:
            sqlite = self._reader(use)
            if is_nested and sqlite.in_transaction:
                yield sqlite
                return
            end_transaction(sqlite)  # left open by an exception out of a signal's handler
            try:
                sqlite.execute("BEGIN")
                yield sqlite
            finally:
                end_transaction(sqlite)

    def inodes(self) -> tuple[Inode, Inode]:
        """Tell which files are at the paths now; point out a WAL that has become large."""
        main, wal = _status(self.path), _status(self.wal)
        if wal is not None and wal.st_size > LARGE_WAL and not self.is_wal_large.is_set():
            self.is_wal_large.set()
        self.main = _inode(main)
        return self.main, _inode(wal)

    def wal_bytes(self) -> int:
        """Tell the WAL's size."""
        status = _status(self.wal)
        return 0 if status is None else status.st_size

    @property
    def has_writer(self) -> bool:
        """Whether this process has the writer open."""
        return self._own.get().writer is not None

    @property
    def is_alone(self) -> bool:
        """Whether the reader was opened where the disk takes no -shm: for one use only."""
        reader = self._own.get().reader
        return reader is not None and reader.is_alone

    # Letting go

    def close(self) -> None:
        """Close both; the next use opens them again."""
        use = self._own.get()
        with use.reader_lock:
            reader, writer = use.reader, use.writer
            use.reader = use.writer = None
        # The reader first: the last one to close checkpoints, which is for the mutex's holder.
        if reader is not None:
            reader.sqlite.close()
        if writer is not None:
            self._close_writer(writer)

    def leak(self) -> None:
        """Let go of both without closing them: that would write to a file that is damaged."""
        use = self._own.get()
        with use.reader_lock:
            use.leak()

    def freeze(self, deadline: float) -> bool:
        """Close both, and keep every thread from opening the reader until `thaw`.

        False where a thread uses it until the monotonic time `deadline`.
        """
        timeout = max(0.0, deadline - time.monotonic())
        if not self._own.get().reader_lock.acquire(timeout=timeout):
            return False
        self.close()
        return True

    def thaw(self) -> None:
        """End a `freeze`."""
        self._own.get().reader_lock.release()

    def _close_writer(self, writer: _Connection) -> None:
        # Whatever is wrong with the disk: a later writer meets it again, and says so.
        with contextlib.suppress(OSError, SpoolFileError, sqlite3.Error):
            inodes = self.inodes()
            if writer.inodes == inodes:
                writer.sqlite.close()
            else:
                self._leave(writer, inodes)

    def _leave(self, old: _Connection, inodes: tuple[Inode, Inode]) -> None:
        """Leave the files that an old connection uses complete, now that others are at the path."""
        if old.inodes[0] != inodes[0]:
            with contextlib.suppress(sqlite3.Error):  # the file may be gone with its disk
                empty_wal(old.sqlite)
            leak(old.sqlite)
            return
        # Only the WAL was removed. Where there is another with something in it, somebody did this.
        if self.wal_bytes() > 0:
            leak(old.sqlite)  # its close would unlink that one
            return
        if not empty_wal(old.sqlite):
            raise SpoolUnavailableError(
                f"{self.wal}: it was removed while a reader needs it; wait for it"
            )
        old.sqlite.close()

    # Opening

    def set_up(self, sqlite: sqlite3.Connection) -> None:
        """Make a file ready to be written, by the newest schema. Raises SpoolFileError."""
        sqlite.execute("PRAGMA secure_delete = OFF")  # Debian's default writes deleted bytes again
        sqlite.execute("PRAGMA wal_autocheckpoint = 0")
        sqlite.execute(f"PRAGMA synchronous = {_SYNCHRONOUS[self._durability]}")
        found = version.check(self.path, sqlite)
        if found == 0:
            # Before journal_mode: after it the first has no effect, and the second would stand in
            # the WAL alone until a checkpoint meets no reader.
            sqlite.execute("BEGIN")  # deferred: auto_vacuum needs a file without a page
            sqlite.execute("PRAGMA auto_vacuum = INCREMENTAL")
            sqlite.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            sqlite.execute("COMMIT")
        if sqlite.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise SpoolFileError(f"{self.path}: SQLite cannot use its WAL there; use a local disk")
        if not version.is_current(found):
            with importing():
                from spool.store import migrations  # noqa: PLC0415 - sqlite-utils, rarely needed

            migrations.migrate(sqlite)
            checkpoint(sqlite)

    def _open_writer(self) -> _Connection:
        recovery.prepare(self.path)
        main = self.inodes()[0]
        sqlite = connect(self.path, "rw")
        try:
            self.set_up(sqlite)
        except BaseException:
            sqlite.close()
            raise
        try:
            return self._connection(sqlite, main)
        except SpoolFileError:
            with contextlib.suppress(sqlite3.Error):  # as in `_leave`
                empty_wal(sqlite)
            leak(sqlite)
            raise

    def _reader(self, use: _Use) -> sqlite3.Connection:
        if use.reader is not None:
            if self._can_go_on(use.reader):
                return use.reader.sqlite
            use.reader.sqlite.close()  # reads only: its close never checkpoints
            use.reader = None
        version.check_ours(self.path)
        main = self.inodes()[0]
        try:
            use.reader = self._checked(connect(self.path, "ro"), main)
        except sqlite3.OperationalError as error:
            if str(error) not in WORDS_OF_A_DISK or main is None or main != self.inodes()[0]:
                raise  # a salvage may be putting another file there
            # The disk takes no -shm, so nobody else can have opened the file. Only for one use.
            sqlite = connect_alone(self.path, has_wal=self.wal_bytes() > 0)
            use.reader = replace(self._checked(sqlite, main), is_alone=True)
        return use.reader.sqlite

    def _can_go_on(self, reader: _Connection) -> bool:
        if reader.is_alone:
            return reader.sqlite.in_transaction  # in a signal's handler
        return reader.inodes == self.inodes()

    def _checked(self, sqlite: sqlite3.Connection, main: Inode) -> _Connection:
        try:
            version.check_made(self.path, sqlite)
            return self._connection(sqlite, main)
        except BaseException:
            sqlite.close()
            raise

    def _connection(self, sqlite: sqlite3.Connection, main: Inode) -> _Connection:
        """Say which files were opened; refuse them if another came to the path meanwhile."""
        inodes = self.inodes()
        if inodes[0] != main:
            raise SpoolUnavailableError(
                f"{self.path}: it was replaced while it was opened; try again"
            )
        return _Connection(sqlite, inodes)


def _status(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _inode(status: os.stat_result | None) -> Inode:
    return None if status is None else (status.st_dev, status.st_ino)
