"""The journal: a process's own file, to which a span is appended by one write as it ends.

So the application's threads wait for nobody: no transaction, no mutex, no other process. While the
line is well the drainer sends what is here as it is. Otherwise maintenance moves it into the store,
many spans to a row; where the process is dead, another does.

Invariants:

- What `append` returned from is in the file: the death of the process leaves it there.
- Only the disk refuses an append. It waits for no other: one write to a file opened with O_APPEND
  is atomic between threads. It pins its file meanwhile, and a file is final, so that it may be
  closed, only when it was left and is not pinned. A lock is held for moments only, to make a file
  and to keep the list of them, and a signal handler takes it in the middle of its thread's own use.
- One process appends to a journal, and holds its lock as long as it lives: who can take the lock
  knows that the process is dead.
- A name is never used twice, and a file only grows. How much of it was moved is in the store,
  committed with the rows (`Store.take_in`), or with the delivery (`Store.deliver`): so nothing is
  moved twice, whoever moves it. Under the same hold of the mutex it is noted in the file, too, for
  the case that the store's file is moved away: the next one goes on behind it. What is claimed, to
  be sent, is not moved meanwhile.
- A file is unlinked when all of it was moved and that would survive a power cut.
- Others' journals are open one at a time, however many there are, and one that cannot be read keeps
  no other back.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import re
import threading
import time
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from spool.errors import SpoolBusyError, SpoolError, SpoolStrangerError, SpoolUnsyncedError
from spool.journal import frames
from spool.journal.group_commit import GroupCommit
from spool.settings.durability import Durability
from spool.system import filesystem
from spool.system.forks import PerProcess
from spool.system.locks import BRIEFLY, ThreadLock, can_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from spool.journal.frames import Chunk
    from spool.otlp.batch import Batch
    from spool.settings.settings import Target

_SUFFIX: Final = ".inbox-"

# Bytes from which on a file is left for a new one: by maintenance, and by an append that comes
# before it. Only a new one is held against the limits.
LARGE: Final = 1 << 20
_LARGEST: Final = 4 * LARGE
_SMALLEST: Final = 64 << 10
# Of a spool that is small a file is such a part.
_FILES: Final = 8

_TRIES: Final = 3
_POLL: Final = 0.001
_CLOSED: Final = -1


@dataclass(eq=False, slots=True)
class File:
    """An open journal: `moved` is how much of it the store has, `room` how much may still come.

    `is_left`: no append to it begins any more; `pins` are those that have begun. This process's own
    is moved even if somebody has removed it meanwhile: what was moved of it is known here. Of
    others only the store knows that, and it forgets those that are gone.
    """

    path: Path
    fd: int
    moved: int = 0
    room: int = 0
    is_own: bool = True
    is_left: bool = False
    pins: set[object] = field(default_factory=set)
    group: GroupCommit = field(default_factory=GroupCommit)

    @property
    def is_final(self) -> bool:
        """Say whether nobody appends to it any more."""
        return self.is_left and not self.pins  # in this order: a pin is put before that is read

    def takes_more(self) -> bool:
        """Say whether an append may begin."""
        return not self.is_left and self.room > 0

    def close(self) -> None:
        """Let go of it, and of its lock where no other process has inherited it."""
        fd, self.fd = self.fd, _CLOSED
        os.close(fd)

    @property
    def unmoved_bytes(self) -> int:
        """Tell how much waits to be moved. Raises OSError."""
        return max(0, os.fstat(self.fd).st_size - self.moved)

    def begins_at(self, salt: bytes) -> int:
        """Tell from where on it is for the database with this salt: others had what is before.

        Raises OSError.
        """
        return frames.begins_at(self.fd, salt)

    def note(self, salt: bytes, moved: int) -> None:
        """Note for other databases that the one with this salt has it up to an offset.

        Only for the holder of the mutex.
        """
        # Where it was removed nobody else will look for it; and what could not be noted is only
        # moved again where the database, too, is moved away.
        with contextlib.suppress(OSError):
            begun = self.begins_at(salt)
            if begun >= frames.NOTE_BYTES:  # else it has no note
                filesystem.overwrite_head(self.path, self.fd, frames.note(salt, begun, moved))

    def is_gone(self) -> bool:
        """Say whether it is elsewhere now, or another process's and was removed. Raises OSError."""
        status = os.fstat(self.fd)
        is_removed = status.st_nlink == 0
        return not self.is_own if is_removed else not _is_at(self.path, status)


@dataclass(slots=True)
class _Files:
    """What a process has open: `current` takes what comes, the others are to be moved.

    Of those that are `claimed` the oldest spans are being sent. They stay open until that is over,
    also when the others are closed. `lock` is held where a file comes or goes.
    """

    moving: ThreadLock = field(default_factory=ThreadLock)
    lock: threading.RLock = field(default_factory=threading.RLock)
    # In the order they came. A signal handler may add one: who goes through it takes a copy.
    open: dict[File, None] = field(default_factory=dict)
    current: File | None = None
    claimed: list[File] = field(default_factory=list)

    def abandon(self) -> None:
        """Let go of all without unlocking it, in the child of a fork."""
        for file in {*self.open, *self.claimed}:
            # A signal handler may have forked in the middle of an append.
            file.is_left = True
            file.close()

    def unmoved_bytes(self) -> int:
        return sum(file.unmoved_bytes for file in list(self.open))

    def remove(self, file: File) -> None:
        del self.open[file]
        file.close()


class Journal:
    """The journal of one process: safe between threads, signal handlers and forks.

    `create` opens a file of the spool, and creates it where it is absent. `durability` says
    what survives what `append` returned from. A new file is begun only while no more than
    `limit` bytes wait to be moved; none gets much larger than `largest`. It `is_crowded` when one
    was left for being that large. All methods raise SpoolFileError, `append` SpoolFullError too.

    Until the monotonic time `served_until` the drainer takes care of what comes.
    """

    def __init__(
        self,
        spool: Path,
        create: Callable[[Path], int],
        durability: Durability = Durability.PROCESS_DEATH,
    ) -> None:
        self._spool = spool
        self._create = create
        self._durability = durability
        self.limit = math.inf
        self.largest = _LARGEST
        self.is_crowded = False
        self.served_until = -math.inf
        self._identities: dict[tuple[str, str], bytes] = {}
        self._are_names_synced = True
        self._own = PerProcess(_Files, self._abandon)
        _all_journals.add(self)

    def _abandon(self, inherited: _Files) -> None:
        self.served_until = -math.inf
        inherited.abandon()

    def bound(self, limit: int) -> None:
        """Let the oldest be evicted in time where a spool may have `limit` bytes.

        A file gives its space back as a whole, so none may be a large part of that. What is
        refused beyond it is for the time that nothing can be evicted.
        """
        self.limit = limit + _LARGEST
        self.largest = min(_LARGEST, max(limit // _FILES, _SMALLEST))

    @property
    def moving(self) -> ThreadLock:
        """Is held by the thread that uses the files in any other way than to append."""
        return self._own.get().moving

    def append(self, target: Target, batch: Batch, now: float) -> None:
        """Append a batch: one write. Also in the middle of this thread's own append."""
        said = self._identities.get((target.route, target.endpoint)) or self._said(target)
        frame = frames.make(said, batch, now)
        pin = object()
        while True:
            file = self._current_file()
            try:
                file.pins.add(pin)
                if not file.is_left and self._write(file, frame):
                    return
            finally:
                file.pins.discard(pin)

    def _write(self, file: File, frame: tuple[bytes, bytes]) -> bool:
        """Write a frame; False in the child of a signal handler that forked in between."""
        try:
            size = len(frame[0]) + len(frame[1])
            file.room -= size
            if os.writev(file.fd, frame) != size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._spool)  # noqa: TRY301 - as write itself would
            if self._durability is Durability.POWER_CUT:
                self._sync_append(file)
        except OSError as error:
            file.is_left = True  # its end may be half a frame
            if file.fd == _CLOSED:
                return False
            raise filesystem.unusable(self._spool, error) from error
        return True

    def _sync_append(self, file: File) -> None:
        try:
            file.group.sync(file.fd)
        except OSError as error:
            if file.fd == _CLOSED:
                raise
            raise SpoolUnsyncedError(f"{file.path}: cannot be synced: {error.strerror}") from error

    def _said(self, target: Target) -> bytes:
        said = frames.identify(target)
        self._identities[target.route, target.endpoint] = said
        return said

    def _current_file(self) -> File:
        files = self._own.get()
        file = files.current
        return file if file is not None and file.takes_more() else self._next_file(files)

    def _next_file(self, files: _Files) -> File:
        try:
            with files.lock:
                file = files.current
                if file is None or not file.takes_more():  # else another thread was faster
                    file = self._make(files)
                    for older in list(files.open):
                        older.is_left = True
                    self.is_crowded = self.is_crowded or files.current is not None
                    files.open[file] = None
                    files.current = file
        except OSError as error:
            raise filesystem.unusable(self._spool, error) from error
        if files is not self._own.get():  # a signal handler has forked meanwhile: this is its child
            file.is_left = True
            file.close()
        return file

    def _make(self, files: _Files) -> File:
        if files.unmoved_bytes() > self.limit:
            raise filesystem.full(self._spool)
        for _ in range(_TRIES):
            name = f"{_SUFFIX}{os.getpid()}-{os.urandom(6).hex()}"
            path = filesystem.beside(self._spool, name)
            fd = self._create(path)
            try:
                # Another process may have found it before it was locked, and taken it for a dead
                # one's.
                if can_lock(fd) and os.fstat(fd).st_nlink:
                    return self._begin(path, fd)
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)

    def _begin(self, path: Path, fd: int) -> File:
        room = filesystem.room(fd)
        if room <= 0:
            path.unlink()
            raise filesystem.cramped(self._spool)
        try:
            filesystem.write_head(fd, frames.NO_NOTE)
        except OSError:
            path.unlink()
            raise
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
        if self._durability is Durability.POWER_CUT:
            filesystem.sync_directory(self._spool.parent)
        else:
            self._are_names_synced = False
        return File(path, fd, moved=frames.NOTE_BYTES, room=min(room, self.largest))

    # For who moves it

    def leave(self) -> None:
        """Append no more to what is there: the next append makes a new file."""
        for file in self.files():
            file.is_left = True

    @property
    def unmoved_bytes(self) -> int:
        """Tell how much waits to be moved."""
        with self._listing() as files:
            return files.unmoved_bytes()

    def files(self) -> list[File]:
        """Give this process's files, those that came first, first."""
        return list(self._own.get().open)

    def claim(self, file: File) -> None:
        """Keep a file from being moved until `release`. Only while `moving`."""
        self._own.get().claimed.append(file)

    def release(self, file: File, moved: int | None) -> None:
        """End a claim; `moved` is how much of the file the store has now, if that has changed."""
        with self._listing() as files:
            if moved is not None:
                file.moved = max(file.moved, moved)
            files.claimed.remove(file)
            if file not in files.open:  # the journal was closed meanwhile
                file.close()

    def is_claimed(self, file: File | None = None) -> bool:
        """Say whether spans of a file, or of any of them, are being sent."""
        claimed = self._own.get().claimed
        return bool(claimed) if file is None else file in claimed

    def mark(self) -> list[tuple[File, int]]:
        """Note how far this process has appended; see `is_past`."""
        with self._listing() as files:
            return [(file, os.fstat(file.fd).st_size) for file in list(files.open)]

    def is_past(self, mark: Iterable[tuple[File, int]]) -> bool:
        """Say whether nothing of what was there at a mark is here still."""
        files = self.files()
        return all(file.moved >= size or file not in files for file, size in mark)

    def turn_over(self) -> None:
        """Go on with a new file where the current one is large, or no longer at its path.

        What was moved to another place belongs to the spool that is there now. Only while `moving`.
        """
        with self._listing() as files:
            current = files.current
            took_more = current is not None and not current.is_left
            for file in list(files.open):
                status = os.fstat(file.fd)
                is_large = status.st_size >= min(LARGE, self.largest)
                if file is not current or is_large or not _is_at(file.path, status):
                    file.is_left = True
                if file.is_gone() and file.is_final and not self.is_claimed(file):
                    files.remove(file)
            if took_more and current is not None and current.is_left:
                with contextlib.suppress(SpoolError):  # the next append tries again
                    self._next_file(files)

    def sync(self) -> None:
        """Make what was appended survive a power cut."""
        with self._listing() as files:
            unmoved = [file for file in list(files.open) if file.unmoved_bytes]
        with self._file_errors():
            for file in unmoved:
                with contextlib.suppress(FileNotFoundError):  # somebody has removed it
                    filesystem.sync_file(file.path)
            if unmoved and not self._are_names_synced:
                self._are_names_synced = True  # first: a new file may come meanwhile
                try:
                    filesystem.sync_directory(self._spool.parent)
                except OSError:
                    self._are_names_synced = False
                    raise

    def emptied(self) -> list[File]:
        """Give the files that get no more, and were moved."""
        with self._listing() as files:
            return [one for one in list(files.open) if one.is_final and not one.unmoved_bytes]

    def unlink(self, gone: Iterable[File]) -> None:
        """Remove files of this process that are in the store for good; later, where one is in use.

        Raises SpoolFileError.
        """
        busy = contextlib.suppress(SpoolBusyError)
        with busy, self.moving.hold(BRIEFLY), self._listing() as files:
            for file in gone:
                # Else another thread was faster.
                if file in files.open and file.is_final and not self.is_claimed(file):
                    file.path.unlink(missing_ok=True)
                    files.remove(file)

    def close(self) -> None:
        """Let go of all files, unless one is in use: what was not moved is left to others.

        What is claimed stays open, and locked, until it is released.
        """
        self.leave()
        busy = contextlib.suppress(SpoolBusyError)
        with busy, self.moving.hold(BRIEFLY):
            self._await_appends(BRIEFLY)
            with self._listing() as files:
                for file in list(files.open):
                    if file in files.claimed and file.is_final:
                        del files.open[file]
                    elif file.is_final:
                        files.remove(file)

    def _await_appends(self, timeout: float) -> None:
        end = time.monotonic() + timeout
        while any(file.pins for file in self.files()) and time.monotonic() < end:
            time.sleep(_POLL)

    @contextlib.contextmanager
    def _listing(self) -> Iterator[_Files]:
        """Give the files that are open; none comes or goes meanwhile."""
        files = self._own.get()
        with self._file_errors(), files.lock:
            yield files

    @contextlib.contextmanager
    def _file_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise filesystem.unusable(self._spool, error) from error

    # Forks

    @property
    def _lock(self) -> threading.RLock:
        return self._own.get().lock


# Any process's files


def paths(spool: Path) -> list[Path]:
    """Give the journals beside a spool, any process's. Raises OSError."""
    name = re.compile(re.escape(spool.name + _SUFFIX) + r"\d+-[0-9a-f]{12}")
    try:
        with os.scandir(spool.parent) as entries:
            found = [one.name for one in entries if name.fullmatch(one.name) and _is_file(one)]
    except FileNotFoundError:
        return []
    return [spool.parent / one for one in found]


def _is_file(entry: os.DirEntry[str]) -> bool:
    return entry.is_file(follow_symlinks=False)


@contextlib.contextmanager
def opened(path: Path, spool: Path) -> Iterator[File]:
    """Open one journal of a spool, any process's, to read it.

    Raises SpoolStrangerError, OSError.
    """
    fd = filesystem.open_file(path, spool)
    _borrowed.add(fd)
    try:
        yield File(path, fd, is_own=False)
    finally:
        _borrowed.discard(fd)
        os.close(fd)


@contextlib.contextmanager
def passing_over(path: Path, unreadable: dict[Path, str]) -> Iterator[None]:
    """Let a journal that cannot be read stop nothing else: note why, unless it is gone.

    Raises OSError where it is this process that has too many files open: none can be read now.
    """
    try:
        yield
    except (FileNotFoundError, SpoolStrangerError):  # it was moved meanwhile, or is none of ours
        pass
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        unreadable[path] = str(error.strerror)


def unmoved(file: File) -> Iterator[Chunk]:
    """Give what a file holds that was not moved. Raises OSError."""
    offset = file.moved
    while (chunk := frames.read(file.fd, offset)) is not None:
        yield chunk
        offset = chunk.end


def bytes_beside(spool: Path, moved: Mapping[str, int]) -> int:
    """Add up what waits in all journals of a spool; `moved` is how far each was moved, by name.

    Raises OSError.
    """
    found = 0
    for path in paths(spool):
        with contextlib.suppress(FileNotFoundError):
            found += max(0, os.stat(path).st_size - moved.get(path.name, frames.NOTE_BYTES))
    return found


def _is_at(path: Path, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), status)
    except (FileNotFoundError, NotADirectoryError):
        return False


_all_journals: weakref.WeakSet[Journal] = weakref.WeakSet()

# Others' files, open in this process: in a child they would keep the locks that were taken.
_borrowed: set[int] = set()

# What this fork has locked: another thread may make a journal meanwhile.
_frozen: list[threading.RLock] = []


def _before_fork() -> None:
    # Else the child would inherit a file that only the thread that makes it knows of.
    for journal in sorted(_all_journals, key=id):
        lock = journal._lock  # noqa: SLF001 - this module's own class
        if lock.acquire(timeout=BRIEFLY):
            _frozen.append(lock)


def _after_in_parent() -> None:
    while _frozen:
        _frozen.pop().release()


def _after_in_child() -> None:
    _frozen.clear()
    while _borrowed:
        os.close(_borrowed.pop())


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child
)
