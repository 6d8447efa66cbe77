"""The SQLite file itself: its connections, its mutex, its durability.

Invariants:

- Every write and every checkpoint of ours holds the mutex, in any process; automatic checkpoints
  are off. (SQLite 3.7.0 to 3.51.2 can corrupt the file where two of them overlap.)
- A checkpoint is followed by one small commit under the same hold, so that no other write restarts
  the WAL: that would fsync its header, too.
- Nobody opens the main file but SQLite: closing it again would drop the locks that SQLite holds in
  this process (POSIX locks belong to the process).
- While the mutex is held nothing else runs: no encoding, no logging, no network.
- The file at the path is the file we write: device and inode of it and of its WAL are compared
  under the mutex before each write. One that was moved is left complete, and never closed: that
  would unlink the WAL that now stands at the path.
- No connection is used across a fork: both are closed before it and opened again when they are
  needed. A fork waits for nobody longer than `BRIEFLY`: a connection that another thread has in use
  longer than that, or that a fork in C takes along, is left alone by the child.
- Nothing of a file that is not ours is changed, and nothing is created beside it.
- A damaged file is kept aside with its WAL before anything else is done about it. At every moment
  a crash leaves the damaged file at the path with its WAL, or the salvaged one, or no file there
  and the salvaged one beside it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sqlite3
import threading
import time
import weakref
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from spool.errors import SpoolDamagedError, SpoolFileError, SpoolUnavailableError
from spool.settings.durability import Durability
from spool.store import version
from spool.store.version import pragma
from spool.system import filesystem
from spool.system.event import SignalSafeEvent
from spool.system.forks import PerProcess
from spool.system.locks import BRIEFLY, PATIENTLY, FileLock, ownership
from spool.system.log import logger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# An id of a batch is its route's, shifted by so many bits, and a number.
ID_BITS: Final = 40

LARGE_WAL: Final = 4 << 20

_SYNCHRONOUS: Final = {Durability.PROCESS_DEATH: "NORMAL", Durability.POWER_CUT: "FULL"}
_SPARE_PAGES: Final = 512
_VACUUM_PAGES: Final = 256


# What SQLite says of a disk that is full, read-only, over its quota or without inodes.
_WORDS_OF_A_DISK: Final = frozenset(
    {
        "attempt to write a readonly database",
        "database or disk is full",
        "disk I/O error",
        "unable to open database file",
    }
)

# Device and inode of the main file and of the WAL; None for what is not there.
_Identity = tuple[tuple[int, int] | None, tuple[int, int] | None]


@dataclass(frozen=True, slots=True)
class _Connection:
    sqlite: sqlite3.Connection
    identity: _Identity
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
                _leak(connection.sqlite)
        self.reader = self.writer = None


class Database:
    """One process's use of the file: safe between threads and across forks.

    A connection is opened when it is first needed. Reading creates and changes nothing. `written`
    is set by every write, `is_wal_large` by one that finds much to checkpoint. All methods raise
    SpoolFileError, those that write SpoolBusyError too.
    """

    def __init__(self, path: Path, durability: Durability = Durability.PROCESS_DEATH) -> None:
        self.path = path
        self.written = SignalSafeEvent()
        self.is_wal_large = SignalSafeEvent()
        self._wal = filesystem.beside(path, "-wal")
        self._salvaged = filesystem.beside(path, ".salvaged")  # only ever complete
        # A fresh one, and a copy of the damaged one: while a salvage lasts.
        self._salvaging = filesystem.beside(path, ".salvaging"), filesystem.beside(path, ".grafted")
        self._mutex = FileLock(filesystem.beside(path, ".lock"), self.create_beside)
        self._durability = durability
        self._own = PerProcess(_Use, _Use.leak)
        self._are_names_synced = False
        # Which main file is at the path, and which one was found to be damaged.
        self._main: tuple[int, int] | None = None
        self._damaged: tuple[int, int] | None = None
        self._is_read_only = False
        _all_databases.add(self)

    def create_beside(self, path: Path) -> int:
        """Open a lock file of this spool, created where it is absent and the place is ours.

        Raises SpoolFileError, OSError.
        """
        self._check_place()
        return filesystem.create(path, self.path)

    # Use

    @contextlib.contextmanager
    def writing(self, patience: float = PATIENTLY) -> Iterator[sqlite3.Connection]:
        """Hold the mutex, with an autocommit connection to the file that is at the path now."""
        with self.file_errors(), self._mutex.hold(patience):
            if patience > BRIEFLY:
                self._repair()
            connection = self._current_writer()
            _end_transaction(connection)  # left open by an exception out of a signal's handler
            yield connection
        if not self.written.is_set():
            self.written.set()

    @contextlib.contextmanager
    def transaction(self, patience: float = PATIENTLY) -> Iterator[sqlite3.Connection]:
        """Hold the mutex for one transaction; it is rolled back when the block raises."""
        with self.writing(patience) as connection, in_transaction(connection):
            yield connection

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Give the reading connection; all that a block reads is of one moment."""
        use = self._own.get()
        is_nested = ownership(use.reader_lock)()  # in a signal's handler
        with self.file_errors(), use.reader_lock:
            connection = self._current_reader(use)
            if is_nested and connection.in_transaction:
                yield connection
                return
            _end_transaction(connection)  # as in `writing`
            try:
                connection.execute("BEGIN")
                yield connection
            finally:
                _end_transaction(connection)

    def state(self) -> object:
        """Give what is different after each commit of any process, and for another file. Cheap."""
        with self.reading() as connection:
            return id(connection), self._main, pragma(connection, "data_version")

    def close(self) -> None:
        """Close what is open; the next use opens it again."""
        end = time.monotonic() + PATIENTLY  # for our own threads; others are asked only briefly
        while time.monotonic() < end:
            if self._freeze(time.monotonic() + BRIEFLY):
                self._thaw()
                break
        self._mutex.close()

    def repair(self) -> None:
        """Salvage the file, if a use of it found that it is damaged."""
        if self._damaged is not None:
            with self.writing():
                pass

    # Durability and size

    def sync(self) -> None:
        """Make what is committed survive a power cut, without holding the mutex."""
        with self.file_errors():
            with contextlib.suppress(FileNotFoundError):  # no WAL: a checkpoint has synced all
                filesystem.sync_file(self._wal)
            if not self._are_names_synced:
                filesystem.sync_directory(self.path.parent)
                self._are_names_synced = True

    def wal_bytes(self) -> int:
        """Tell the WAL's size: next to nothing after a checkpoint that met no reader."""
        with self.file_errors():
            status = _status(self._wal)
        return 0 if status is None else status.st_size

    def file_bytes(self) -> int:
        """Add up the sizes of the main file and the WAL."""
        with self.file_errors():
            return os.stat(self.path).st_size + self.wal_bytes()

    def live_bytes(self) -> int:
        """Tell the size of what is in the file, without the pages that are free."""
        with self.reading() as connection:
            return live_bytes(connection)

    def is_cramped(self) -> bool:
        """Say whether the disk has no more room than settling and a checkpoint may need.

        Free pages of the file are room: they are used again.
        """
        with self.file_errors():
            room = filesystem.room(self.path.parent)
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
                _checkpoint(connection)

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

    # Opening

    def _check_place(self) -> None:
        filesystem.prepare(self.path)
        self._check_owner()

    def _check_owner(self) -> None:
        """Refuse what is at the path unless it is ours: by its mark, or our lock file beside it."""
        status = filesystem.check(self.path)
        if status is None or status.st_size == 0 or self._mutex.path.exists():
            return
        version.check_ours(self.path)

    def _current_writer(self) -> sqlite3.Connection:
        if self._is_read_only:
            self._close_connections()
            self._is_read_only = False
        use = self._own.get()
        if use.writer is not None:
            identity = self._identity()
            if use.writer.identity == identity:
                return use.writer.sqlite
            self._leave(use.writer, identity)
            use.writer = None
        use.writer = self._open_writer()
        self._are_names_synced = False
        return use.writer.sqlite

    def _leave(self, old: _Connection, identity: _Identity) -> None:
        """Leave the files that an old connection uses complete, now that others are at the path."""
        if old.identity[0] != identity[0]:
            with contextlib.suppress(sqlite3.Error):  # the file may be gone with its disk
                _empty_wal(old.sqlite)
            _leak(old.sqlite)
            return
        # Only the WAL was removed. Where there is another with something in it, somebody did this.
        if self.wal_bytes() > 0:
            _leak(old.sqlite)  # its close would unlink that one
            return
        if not _empty_wal(old.sqlite):
            raise SpoolUnavailableError(
                f"{self._wal}: it was removed while a reader needs it; wait for it"
            )
        old.sqlite.close()

    def _current_reader(self, use: _Use) -> sqlite3.Connection:
        if use.reader is not None:
            if self._can_go_on(use.reader):
                return use.reader.sqlite
            use.reader.sqlite.close()  # reads only: its close never checkpoints
            use.reader = None
        self._check_owner()
        main = self._identity()[0]
        try:
            use.reader = self._checked(connect(self.path, "ro"), main)
        except sqlite3.OperationalError as error:
            if str(error) not in _WORDS_OF_A_DISK:
                raise
            # The disk takes no -shm, so nobody else can have opened the file. Only for one use.
            sqlite = connect_alone(self.path, has_wal=self.wal_bytes() > 0)
            use.reader = replace(self._checked(sqlite, main), is_alone=True)
        return use.reader.sqlite

    def _can_go_on(self, reader: _Connection) -> bool:
        if reader.is_alone:
            return reader.sqlite.in_transaction  # in a signal's handler
        return reader.identity == self._identity()

    def _checked(self, sqlite: sqlite3.Connection, main: tuple[int, int] | None) -> _Connection:
        try:
            version.check_made(self.path, sqlite)
            return self._connection(sqlite, main)
        except BaseException:
            sqlite.close()
            raise

    def _connection(self, sqlite: sqlite3.Connection, main: tuple[int, int] | None) -> _Connection:
        """Say which files were opened; refuse them if another came to the path meanwhile."""
        identity = self._identity()
        if identity[0] != main:
            raise SpoolUnavailableError(
                f"{self.path}: it was replaced while it was opened; try again"
            )
        return _Connection(sqlite, identity)

    def _identity(self) -> _Identity:
        """Tell which files are at the paths now; point out a WAL that has become large."""
        main, wal = _status(self.path), _status(self._wal)
        if wal is not None and wal.st_size > LARGE_WAL and not self.is_wal_large.is_set():
            self.is_wal_large.set()
        self._main = None if main is None else (main.st_dev, main.st_ino)
        return (
            self._main,
            None if wal is None else (wal.st_dev, wal.st_ino),
        )

    def _open_writer(self) -> _Connection:
        is_absent = filesystem.check(self.path) is None
        self._remove_leftovers()
        if is_absent and self._salvaged.exists():
            self._put_salvaged_in_place()
        elif is_absent:
            self._set_aside_orphans()
            os.close(filesystem.create(self.path, self.path))
        main = self._identity()[0]
        sqlite = connect(self.path, "rw")
        try:
            self._set_up(sqlite)
        except BaseException:
            sqlite.close()
            raise
        try:
            return self._connection(sqlite, main)
        except SpoolFileError:
            with contextlib.suppress(sqlite3.Error):  # as in `_leave`
                _empty_wal(sqlite)
            _leak(sqlite)
            raise

    def _set_up(self, sqlite: sqlite3.Connection) -> None:
        sqlite.execute("PRAGMA secure_delete = OFF")  # Debian's default writes deleted bytes again
        sqlite.execute("PRAGMA wal_autocheckpoint = 0")
        sqlite.execute(f"PRAGMA synchronous = {_SYNCHRONOUS[self._durability]}")
        found = version.check(self.path, sqlite)
        if found == 0:
            sqlite.execute("PRAGMA auto_vacuum = INCREMENTAL")  # has no effect after journal_mode
        if sqlite.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise SpoolFileError(f"{self.path}: SQLite cannot use its WAL there; use a local disk")
        if not version.is_current(found):
            version.migrate(sqlite)
            _checkpoint(sqlite)

    def _set_aside_orphans(self) -> None:
        """Keep the WAL of a main file that is gone: SQLite would replay it into the new one."""
        for suffix in ("-wal", "-shm"):
            orphan = filesystem.beside(self.path, suffix)
            if orphan.exists():
                orphan.rename(filesystem.beside(self.path, f".orphaned-{time.time_ns()}{suffix}"))

    @contextlib.contextmanager
    def file_errors(self) -> Iterator[None]:
        """Turn the errors of files and of SQLite into SpoolFileError."""
        try:
            yield
        except OSError as error:
            raise filesystem.unusable(self.path, error) from error
        except UnicodeDecodeError as error:  # SQLite quotes damaged bytes in its own message
            self._damaged = self._main
            raise SpoolDamagedError(f"{self.path}: SQLite's message cannot be read") from error
        except sqlite3.Error as error:
            # SQLite's corruption codes have no class of their own; all else has.
            reader = self._own.get().reader
            is_alone = reader is not None and reader.is_alone
            if type(error) is sqlite3.DatabaseError and not is_alone:
                self._damaged = self._main
                self.written.set()
                raise SpoolDamagedError(f"{self.path}: SQLite says: {error}") from error
            # What SQLite opened while the disk was read-only stays so, in the whole process.
            self._is_read_only = self._is_read_only or "readonly" in str(error)
            raise self._unavailable(str(error)) from error

    def _unavailable(self, words: str) -> SpoolFileError:
        """Say what the disk has against us, where SQLite's words may mean that."""
        refusal = filesystem.refusal(self.path) if words in _WORDS_OF_A_DISK else None
        if refusal is not None:
            return filesystem.unusable(self.path, refusal)
        if words == "database or disk is full":
            return filesystem.cramped(self.path)
        return SpoolUnavailableError(f"{self.path}: SQLite says: {words}")

    # Damage

    def _repair(self) -> None:
        """Salvage the file if it is known to be damaged, or cannot be opened for that.

        Not one that another process has put in its place meanwhile.
        """
        if self._damaged not in (None, self._identity()[0]):
            self._leak_connections()
            self._damaged = None
        try:
            if self._damaged is None:
                self._current_writer()
                return
        except UnicodeDecodeError:  # as in file_errors
            pass
        except sqlite3.DatabaseError as error:
            if type(error) is not sqlite3.DatabaseError:
                raise
        self._leak_connections()
        self._salvage()
        self._damaged = None

    def _leak_connections(self) -> None:
        """Let go of a damaged file: to close it would write to it."""
        use = self._own.get()
        with use.reader_lock:
            use.leak()

    def _salvage(self) -> None:
        from spool.store.salvage import salvage  # noqa: PLC0415 - rarely needed

        aside = filesystem.beside(self.path, f".corrupt-{time.time_ns()}")
        growing, grafted = self._salvaging
        os.link(self.path, aside)
        if self._wal.exists():
            os.link(self._wal, filesystem.beside(aside, "-wal"))
        self._remove_leftovers()
        os.close(filesystem.create(growing, self.path))
        with contextlib.closing(connect(growing, "rw")) as sqlite:
            self._set_up(sqlite)
            salvaged = salvage(aside, growing, sqlite, grafted)
        growing.rename(self._salvaged)
        filesystem.sync_directory(self.path.parent)
        logger.error(
            "langfuse-spool: %s was damaged and was moved to %s; %d spans were rescued, "
            "%d are known to be lost",
            self.path,
            aside,
            salvaged.rescued,
            salvaged.lost,
        )
        self.path.unlink()
        self._put_salvaged_in_place()

    def _remove_leftovers(self) -> None:
        """Remove the copies of a salvage that was cut short."""
        for left in self._salvaging:
            filesystem.remove(left)

    def _put_salvaged_in_place(self) -> None:
        """Finish a salvage, after a crash too: no file is at the path, and a complete one beside.

        Each step is certain before the next: no WAL may stand beside another file than its own.
        """
        filesystem.sync_directory(self.path.parent)
        for suffix in ("-shm", "-wal"):
            filesystem.beside(self.path, suffix).unlink(missing_ok=True)
        filesystem.sync_directory(self.path.parent)
        self._salvaged.replace(self.path)
        filesystem.sync_directory(self.path.parent)

    # Forks

    def _freeze(self, deadline: float, *, ask_others: bool = True) -> bool:
        """Close both connections, and keep every thread from opening another until `_thaw`.

        Others are kept out of the file too, if the time until the monotonic `deadline` suffices;
        unless `ask_others` this process holds the mutex already, by another use of the same file.
        False where one of its threads uses a connection all that time.
        """
        use = self._own.get()
        # In this order: a writer that repairs takes the reader's lock while it holds the mutex.
        ask_others = ask_others and use.writer is not None
        if not self._mutex.freeze(deadline, ask_others=ask_others):
            return False
        if not use.reader_lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            self._mutex.thaw()
            return False
        self._close_connections()
        return True

    def _close_connections(self) -> None:
        use = self._own.get()
        with use.reader_lock:
            reader, writer = use.reader, use.writer
            use.reader = use.writer = None
        # The reader first: the last one to close checkpoints, which is for the mutex's holder.
        if reader is not None:
            reader.sqlite.close()
        if writer is not None:
            self._close_writer(writer)

    def _close_writer(self, writer: _Connection) -> None:
        # Whatever is wrong with the disk: a later writer meets it again, and says so.
        with contextlib.suppress(OSError, SpoolFileError, sqlite3.Error):
            identity = self._identity()
            if writer.identity == identity:
                writer.sqlite.close()
            else:
                self._leave(writer, identity)

    def _thaw(self) -> None:
        self._own.get().reader_lock.release()
        self._mutex.thaw()


def live_bytes(sqlite: sqlite3.Connection) -> int:
    """Tell the size of what is in a file, without the pages that are free."""
    pages = pragma(sqlite, "page_count") - pragma(sqlite, "freelist_count")
    return pages * pragma(sqlite, "page_size")


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Open a file that is there, `ro` or `rw`."""
    sqlite = sqlite3.connect(
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


@contextlib.contextmanager
def in_transaction(sqlite: sqlite3.Connection) -> Iterator[None]:
    """Write in one transaction; it is rolled back when the block raises."""
    try:
        sqlite.execute("BEGIN IMMEDIATE")
        yield
        sqlite.execute("COMMIT")
    finally:
        _end_transaction(sqlite)


def _end_transaction(sqlite: sqlite3.Connection) -> None:
    if sqlite.in_transaction:
        sqlite.execute("ROLLBACK")


def _is_empty_enough(sqlite: sqlite3.Connection) -> bool:
    pages, free = pragma(sqlite, "page_count"), pragma(sqlite, "freelist_count")
    return free > max(_SPARE_PAGES, pages * 7 // 8)


def _checkpoint(sqlite: sqlite3.Connection) -> None:
    _empty_wal(sqlite)
    sqlite.execute("UPDATE meta SET checkpoints = checkpoints + 1")


def _empty_wal(sqlite: sqlite3.Connection) -> bool:
    """Write the WAL's pages to the main file and truncate it; False where a reader needs it."""
    sqlite.execute("PRAGMA busy_timeout = 0")  # never wait for a reader while the mutex is held
    try:
        (is_busy, _, _) = sqlite.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        sqlite.execute(f"PRAGMA busy_timeout = {int(BRIEFLY * 1000)}")
    return not is_busy


def _status(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _leak(sqlite: Any) -> None:
    """Keep an object from ever being finalized, at interpreter exit too."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(sqlite))


_all_databases: weakref.WeakSet[Database] = weakref.WeakSet()


# Those that this fork has frozen: another thread may make one meanwhile.
_frozen: list[Database] = []


def _before_fork() -> None:
    deadline = time.monotonic() + BRIEFLY
    for database in sorted(_all_databases, key=id):
        is_ours = any(database.path == frozen.path for frozen in _frozen)
        if database._freeze(deadline, ask_others=not is_ours):  # noqa: SLF001 - this module's own class
            _frozen.append(database)


def _after_in_parent() -> None:
    while _frozen:
        _frozen.pop()._thaw()  # noqa: SLF001 - as above


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_frozen.clear
)
