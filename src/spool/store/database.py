"""The database: one process's use of the file, under the mutex that all processes share.

Invariants:

- Every write and every checkpoint of ours holds the mutex, in any process; automatic checkpoints
  are off. (SQLite 3.7.0 to 3.51.2 can corrupt the file where two of them overlap.)
- While the mutex is held nothing else runs: no encoding, no logging, no network.
- A fork waits for nobody longer than `BRIEFLY`.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from typing import TYPE_CHECKING, Final

from spool.errors import SpoolDamagedError, SpoolFileError, SpoolUnavailableError
from spool.settings.durability import Durability
from spool.store import at_fork, sqlite, version
from spool.store.connections import Connections
from spool.store.history import Pace
from spool.store.repair import Repair
from spool.store.sqlite import WORDS_OF_A_DISK, end_transaction, in_transaction, pragma
from spool.system import disk, location, spool_files
from spool.system.event import SignalSafeEvent
from spool.system.locks import BRIEFLY, PATIENTLY, FileLock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SPARE_PAGES: Final = 512
_VACUUM_PAGES: Final = 256
_SALVAGE: Final = (
    "salvage it by `python -m spool drain`; `run` does that by itself, as programs that drain do"
)


class Database:
    """One process's use of the file: safe between threads and across forks.

    A connection is opened when it is first needed. Reading creates and changes nothing. `written`
    is set by every write, `is_wal_large` by one that finds much to checkpoint. `pace` notes in the
    history what this process does all the time. All methods raise SpoolFileError, those that write
    SpoolBusyError too.
    """

    def __init__(self, path: Path, durability: Durability = Durability.PROCESS_DEATH) -> None:
        self.path = path
        self.written = SignalSafeEvent()
        self.pace = Pace()
        self._connections = Connections(path, durability)
        self.is_wal_large = self._connections.is_wal_large
        self._repair = Repair(self._connections)
        self._mutex = FileLock(spool_files.beside(path, ".lock"), self.create_beside)
        at_fork.freeze_at_forks(self)

    def create_beside(self, path: Path) -> int:
        """Open a lock file of this spool, created where it is absent and the place is ours.

        Raises SpoolFileError, OSError.
        """
        location.prepare(self.path)
        version.check_ours(self.path)
        return spool_files.create(path, self.path)

    # Use

    @contextlib.contextmanager
    def writing(self, patience: float = PATIENTLY) -> Iterator[sqlite3.Connection]:
        """Hold the mutex, with an autocommit connection to the file that is at the path now."""
        with self.file_errors(), self._mutex.hold(patience):
            if patience > BRIEFLY:
                self._repair.run()
            connection = self._connections.writer()
            end_transaction(connection)  # left open by an exception out of a signal's handler
            yield connection
        if not self.written.is_set():
            self.written.set()

    @contextlib.contextmanager
    def transaction(self, patience: float = PATIENTLY) -> Iterator[sqlite3.Connection]:
        """Hold the mutex for one transaction; it is rolled back when the block raises."""
        with self.writing(patience) as connection, self.in_transaction(connection):
            yield connection

    @contextlib.contextmanager
    def in_transaction(self, connection: sqlite3.Connection) -> Iterator[None]:
        """Hold one transaction, under the mutex; it is rolled back when the block raises."""
        with in_transaction(connection):
            self.pace.begin(connection)
            yield

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Give the reading connection; all that a block reads is of one moment."""
        with self.file_errors(), self._connections.reading() as connection:
            yield connection

    def state(self) -> object:
        """Give what is different after each commit of any process, and for another file. Cheap."""
        with self.reading() as connection:
            return id(connection), self._connections.main, pragma(connection, "data_version")

    def repair(self) -> None:
        """Salvage the file, if a use of it found that it is damaged."""
        if self._repair.is_due:
            with self.writing():
                pass

    def close(self) -> None:
        """Close what is open; the next use opens it again."""
        end = time.monotonic() + PATIENTLY  # for our own threads; others are asked only briefly
        while time.monotonic() < end:
            if self.freeze(time.monotonic() + BRIEFLY):
                self.thaw()
                break
        self._mutex.close()

    def freeze(self, deadline: float, *, ask_others: bool = True) -> bool:
        """Close both connections, and keep every thread from opening another until `thaw`.

        Others are kept out of the file too, if the time until the monotonic `deadline` suffices;
        unless `ask_others` this process holds the mutex already, by another use of the same file.
        False where one of its threads uses a connection all that time.
        """
        # In this order: a writer that repairs takes the reader's lock while it holds the mutex.
        ask_others = ask_others and self._connections.has_writer
        if not self._mutex.freeze(deadline, ask_others=ask_others):
            return False
        if not self._connections.freeze(deadline):
            self._mutex.thaw()
            return False
        return True

    def thaw(self) -> None:
        """End a `freeze`."""
        self._connections.thaw()
        self._mutex.thaw()

    # Errors

    @contextlib.contextmanager
    def file_errors(self) -> Iterator[None]:
        """Turn the errors of files and of SQLite into SpoolFileError."""
        try:
            yield
        except OSError as error:
            raise disk.unusable(self.path, error) from None  # it says all that the other did
        except UnicodeDecodeError as error:  # SQLite quotes damaged bytes in its own message
            self._repair.note_damage()
            raise SpoolDamagedError(
                f"{self.path}: SQLite's message cannot be read; {_SALVAGE}"
            ) from error
        except sqlite3.Error as error:
            # SQLite's corruption codes have no class of their own; all else has.
            is_alone = self._connections.is_alone
            if type(error) is sqlite3.DatabaseError and not is_alone:
                self._repair.note_damage()
                self.written.set()
                raise SpoolDamagedError(f"{self.path}: SQLite says: {error}; {_SALVAGE}") from error
            # What SQLite opened while the disk was read-only stays so, in the whole process.
            if "readonly" in str(error):
                self._connections.is_read_only = True
            raise self._unavailable(str(error)) from error

    def _unavailable(self, words: str) -> SpoolFileError:
        """Say what the disk has against us, where SQLite's words may mean that."""
        refusal = disk.refusal(self.path) if words in WORDS_OF_A_DISK else None
        if refusal is not None:
            return disk.unusable(self.path, refusal)
        if words == "database or disk is full":
            return disk.almost_full(self.path)
        return SpoolUnavailableError(
            f"{self.path}: SQLite says: {words}; try again, and see to the disk if it stays so"
        )

    # Durability and size

    def sync(self) -> None:
        """Make what is committed survive a power cut, without holding the mutex."""
        with self.file_errors():
            with contextlib.suppress(FileNotFoundError):  # no WAL: a checkpoint has synced all
                spool_files.sync_file(self._connections.wal)
            if not self._connections.are_names_synced:
                spool_files.sync_directory(self.path.parent)
                self._connections.are_names_synced = True

    def wal_bytes(self) -> int:
        """Tell the WAL's size: next to nothing after a checkpoint that met no reader."""
        with self.file_errors():
            return self._connections.wal_bytes()

    def file_bytes(self) -> int:
        """Add up the sizes of the main file and the WAL."""
        with self.file_errors():
            return os.stat(self.path).st_size + self.wal_bytes()

    def live_bytes(self) -> int:
        """Tell the size of what is in the file, without the pages that are free."""
        with self.reading() as connection:
            return sqlite.live_bytes(connection)

    def is_cramped(self) -> bool:
        """Say whether the disk has no more room than settling and a checkpoint may need.

        Free pages of the file are room: they are used again.
        """
        with self.file_errors():
            room = disk.room(self.path.parent)
        with self.reading() as connection:
            free = pragma(connection, "freelist_count") * pragma(connection, "page_size")
        return room + free < 0

    def checkpoint(self, larger_than: int = 0) -> None:
        """Write the WAL's pages to the main file and start it anew, if it is larger than that."""
        if self.wal_bytes() <= larger_than:
            return
        self.sync()
        with self.writing() as connection:
            if self.wal_bytes() > larger_than:  # else another process was faster
                sqlite.checkpoint(connection)

    def vacuum(self) -> bool:
        """Give one chunk of free pages back to the filesystem; say whether there may be more.

        Free pages are used again: a file keeps them until it is nearly empty.
        """
        with self.reading() as connection:
            if not _is_empty_enough(connection):
                return False
        with self.writing() as connection:
            if not _is_empty_enough(connection):  # another process was faster
                return False
            # Not execute: on Python 3.11 it steps this statement once, which frees one page.
            connection.executescript(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})")
        return True


def _is_empty_enough(connection: sqlite3.Connection) -> bool:
    pages, free = pragma(connection, "page_count"), pragma(connection, "freelist_count")
    return free > max(_SPARE_PAGES, pages * 7 // 8)
