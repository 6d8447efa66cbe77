"""The journal: what one process appends to, by one write as a span ends, and what becomes of that.

So the application's threads wait for nobody: no transaction, no mutex, no other process. While a
route is well the drainer sends what is here as it is. Otherwise maintenance moves it into the
store, many spans to a row; where the process is dead, another does.

Invariants:

- What `append` returned from is in a file: the death of the process leaves it there.
- Only the disk refuses an append. A lock is held for moments only, to make a file and to keep the
  list of them, and a signal handler takes it in the middle of its thread's own use.
- How much of a file was moved is in the store, committed with the rows (`Store.ingest`), or with
  the delivery (`Store.deliver`): so nothing is moved twice, whoever moves it. Under the same hold
  of the mutex it is written to the file's header, too, for the case that the store's file is moved
  away: the next one goes on behind it. What is claimed, to be sent, is not moved meanwhile.
- A file is unlinked when all of it was moved and that would survive a power cut.
"""

from __future__ import annotations

import contextlib
import math
import time
from typing import TYPE_CHECKING, Final

from spool.errors import SpoolBusyError, SpoolError
from spool.journal import at_fork, frames
from spool.journal.file import make
from spool.journal.identity import Identity
from spool.journal.own_files import OwnFiles
from spool.settings.durability import Durability
from spool.system import disk, spool_files
from spool.system.forks import PerProcess
from spool.system.locks import BRIEFLY, ThreadLock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from spool.journal.file import File
    from spool.otlp.batch import Batch
    from spool.settings.target import Target

# Bytes from which on a file is left for a new one: by maintenance, and by an append that comes
# before it. Only a new one is held against the limits.
LARGE: Final = 1 << 20
_LARGEST: Final = 4 * LARGE
_SMALLEST: Final = 64 << 10
# Of a spool that is small a file is such a part.
_FILES: Final = 8

_POLL: Final = 0.001


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
        self._own = PerProcess(OwnFiles, self._abandon)
        at_fork.journals.add(self._own)

    def _abandon(self, inherited: OwnFiles) -> None:
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
        identity = self._identities.get((target.route, target.endpoint)) or self._identify(target)
        frame = frames.make(identity, batch, now)
        pin = object()
        while True:
            file = self._current_file()
            try:
                file.pins.add(pin)
                if not file.is_left:
                    file.append(frame)
                    return
            except OSError as error:
                if not file.is_closed:  # else a signal handler has forked: this is its child
                    raise disk.unusable(self._spool, error) from error
            finally:
                file.pins.discard(pin)

    def _identify(self, target: Target) -> bytes:
        identity = Identity.of(target).encode()
        self._identities[target.route, target.endpoint] = identity
        return identity

    def _current_file(self) -> File:
        current = self._own.get().current
        return current if current is not None and current.takes_more() else self._next_file()

    def _next_file(self) -> File:
        with self._listing() as files:
            file = files.current
            if file is None or not file.takes_more():  # else another thread was faster
                file = self._make(files)
                for older in list(files.open):
                    older.is_left = True
                self.is_crowded = self.is_crowded or files.current is not None
                files.open[file] = None
                files.current = file
        if files is not self._own.get():  # a signal handler has forked meanwhile: this is its child
            file.is_left = True
            file.close()
        return file

    def _make(self, files: OwnFiles) -> File:
        if files.unmoved_bytes() > self.limit:
            raise disk.over_limit(self._spool)
        file = make(self._spool, self._create, self._durability, self.largest)
        self._are_names_synced = self._durability is Durability.POWER_CUT
        return file

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
            return [(file, file.size) for file in list(files.open)]

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
                is_large = file.size >= min(LARGE, self.largest)
                if file is not current or is_large or not file.is_at_path():
                    file.is_left = True
                if file.is_gone() and file.is_final and not self.is_claimed(file):
                    files.remove(file)
            if took_more and current is not None and current.is_left:
                with contextlib.suppress(SpoolError):  # the next append tries again
                    self._next_file()

    def sync(self) -> None:
        """Make what was appended survive a power cut."""
        with self._listing() as files:
            unmoved = [file for file in list(files.open) if file.unmoved_bytes]
        with self._file_errors():
            for file in unmoved:
                with contextlib.suppress(FileNotFoundError):  # somebody has removed it
                    spool_files.sync_file(file.path)
            if unmoved and not self._are_names_synced:
                self._are_names_synced = True  # first: a new file may come meanwhile
                try:
                    spool_files.sync_directory(self._spool.parent)
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
    def _listing(self) -> Iterator[OwnFiles]:
        """Give the files that are open; none comes or goes meanwhile."""
        files = self._own.get()
        with self._file_errors(), files.lock:
            yield files

    @contextlib.contextmanager
    def _file_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise disk.unusable(self._spool, error) from error
