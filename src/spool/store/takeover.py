"""Takeover: what other processes have left in their journals is moved here; when, and how.

Invariants:

- However many processes drain, one looks at a time: whoever is first when a pause is over. When
  that was last, the change time of the file tells that all of them hold while they drain.
- Nothing tells of a death but the dead one's lock: so somebody looks again and again, at those with
  something to be moved, and rarely at all. It takes a small part of the time at most.
- What they left can wait: no trouble with it keeps anything else back. One journal is open at a
  time, and one that cannot be read keeps back no other.
- What a living process has is moved by another only with the drain lock: so not while it is sent.
- A dead process's journal is unlinked only by who holds its lock, when what was moved of it is
  synced; the store forgets its name only when the unlinking is certain.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from typing import TYPE_CHECKING, Final

from spool.errors import SpoolError, SpoolNotMadeError
from spool.journal import directory, header
from spool.store import drainers, ingest, journal_chunks
from spool.system import spool_files
from spool.system.locks import BRIEFLY, PATIENTLY, can_lock
from spool.system.log import LimitedWarnings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from spool.journal.file import File
    from spool.settings.settings import Settings
    from spool.store.store import Store

# So long nobody looks after somebody has; and, to look takes at most one part of the time in so
# many.
_REST: Final = 1.0
_SHARE: Final = 50
# So often, in seconds, those with nothing in them are looked at, too: a dead one's goes.
_SWEEP: Final = 60.0
# A living process moves its own within seconds, except while it sends them: one whose journal
# stands still for so long is stopped.
_STALE_SECONDS: Final = 5.0
_POLL: Final = 0.005


class Takeover:
    """Looks after the other processes of one store, for one thread."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._pause = 0.0  # who begins looks at once: perhaps it does not live for long
        self._swept_at = -_SWEEP
        self._warnings = LimitedWarnings()

    def look(self) -> None:
        """Move what dead and stopped ones left, unless somebody has just looked."""
        if not self._is_time():
            return
        started = time.monotonic()
        is_sweep = started - self._swept_at >= _SWEEP
        try:
            is_done = take_over(
                self._store,
                compress=self._settings.is_gzip,
                sending=self._settings.timeout_seconds,
                only_unmoved=not is_sweep,
                timeout=BRIEFLY,
            )
        except SpoolNotMadeError:  # in a moment it is
            return
        except SpoolError as error:  # what is in the file can be sent all the same
            self._warnings.warn("journals of other processes", error)
            return
        if is_sweep:
            with contextlib.suppress(OSError):  # a disk that is read-only: later
                drainers.remove_dead(self._store.database.path)
        for path, why in self._store.unreadable.items():
            self._warnings.warn(f"{path} is passed over", why)
        if is_sweep and is_done:
            self._swept_at = started
        # What there was no time for comes next; others may be faster.
        self._pause = max(_REST, _SHARE * (time.monotonic() - started)) if is_done else 0.0

    def _is_time(self) -> bool:
        looked_at = self._store.presence.path
        with contextlib.suppress(OSError):  # nobody drains, or the disk is read-only
            if abs(time.time() - os.stat(looked_at).st_mtime) < self._pause:
                return False
            os.utime(looked_at)
        return True


def take_over_all(store: Store, *, compress: bool, sending: float, end: float = math.inf) -> None:
    """Move the journals of all other processes, when their requests under way are done.

    That is waited for until the monotonic time `end`. Raises SpoolError.
    """
    while not take_over(store, compress=compress, sending=sending, everything=True):
        if time.monotonic() >= end:
            return
        time.sleep(_POLL)


def take_over(  # noqa: PLR0913 - each is a caller's choice, by name
    store: Store,
    *,
    compress: bool,
    sending: float,
    everything: bool = False,
    only_unmoved: bool = False,
    timeout: float = math.inf,
) -> bool:
    """Move the journals of dead and of stopped processes, or of all, within `timeout` seconds.

    With `only_unmoved` just those are opened that hold something still; those that cannot be read
    are noted in `store.unreadable`. Says whether all was done: what living ones have, only who has
    the drain lock moves. `sending` is how many seconds a request can last at most. Raises
    SpoolError.
    """
    end = time.monotonic() + timeout
    with store.database.file_errors(), store.journal.moving.hold(min(timeout, PATIENTLY)):
        others = _Others(store, end, compress=compress, everything=everything)
        is_whole = others.move_dead(only_unmoved=only_unmoved)
        is_had = others.move_living(sending)
        others.remove_dead()
        others.forget_gone()
        store.unreadable = others.unreadable
    return is_whole and is_had


class _Others:
    """The journals of other processes, looked at until the monotonic time `end`."""

    def __init__(self, store: Store, end: float, *, compress: bool, everything: bool) -> None:
        self.unreadable: dict[Path, str] = {}
        self._store = store
        self._spool = store.database.path
        self._end = end
        self._compress = compress
        self._everything = everything
        # First: what is not there then was removed.
        self._known = journal_chunks.offsets(store.database)
        self._living: list[Path] = []
        self._dead: dict[Path, int] = {}
        own = {file.path for file in store.journal.files()}
        there = directory.paths(self._spool)
        self._others = [path for path in there if path not in own]
        self._gone = self._known.keys() - {path.name for path in there}

    def move_dead(self, *, only_unmoved: bool) -> bool:
        """Move what dead ones left, and find what living ones have; say whether time sufficed."""
        for path in self._others:
            if only_unmoved and not self._is_unmoved(path):
                continue
            if time.monotonic() >= self._end:
                return False
            self._open(path, self._move_if_dead)
        return True

    def _move_if_dead(self, file: File) -> None:
        file.is_left = can_lock(file.fd)
        if file.is_final:
            self._move(file)
            self._dead[file.path] = file.moved
            return
        file.moved = journal_chunks.moved(self._store.database, file)
        if file.unmoved_bytes and (self._everything or _is_stale(file)):
            self._living.append(file.path)

    def move_living(self, sending: float) -> bool:
        """Move what was found of living ones, none of whom sends meanwhile; say whether it was."""
        if not self._living:
            return True
        with self._store.drain_lock.take(sending) as is_had:
            for path in self._living if is_had else ():
                self._open(path, self._move)
        return is_had

    def _move(self, file: File) -> None:
        file.moved = journal_chunks.moved(self._store.database, file)
        ingest.move(self._store, file, self._end, compress=self._compress)

    def remove_dead(self) -> None:
        """Remove what was moved of dead processes, while nobody else can have their locks."""
        if self._dead:
            self._store.database.sync()
        for path in self._dead:
            self._open(path, self._remove)

    def _remove(self, file: File) -> None:
        if can_lock(file.fd) and os.fstat(file.fd).st_size <= self._dead[file.path]:
            file.path.unlink(missing_ok=True)
            self._gone |= {file.path.name} & self._known.keys()

    def forget_gone(self) -> None:
        """Forget the names of journals that were removed, when that is certain."""
        if self._gone:
            spool_files.sync_directory(self._spool.parent)
            journal_chunks.forget(self._store.database, self._gone)

    def _open(self, path: Path, use: Callable[[File], None]) -> None:
        """Open one journal and use it, unless it cannot be read."""
        with (
            directory.passing_over(path, self.unreadable),
            directory.opened(path, self._spool) as file,
        ):
            use(file)

    def _is_unmoved(self, path: Path) -> bool:
        with contextlib.suppress(FileNotFoundError):
            size = os.stat(path, follow_symlinks=False).st_size
            return size > self._known.get(path.name, header.SIZE)
        return False


def _is_stale(file: File) -> bool:
    return abs(time.time() - os.fstat(file.fd).st_mtime) > _STALE_SECONDS
