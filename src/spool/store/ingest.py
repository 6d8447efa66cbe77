"""The intake: journal → store. It moves what the journals hold into rows, many spans to a row.

Each process moves its own journals (maintenance does), except what its drainer has claimed. What a
dead process left, or one that is stopped, is moved by whoever drains.

Invariants:

- Reading, merging and compressing are done before the mutex is taken.
- What a living process has is moved by another only in its turn: so not while it is being sent.
- A journal is unlinked only when what was moved of it is synced, and only by its process, or by who
  holds a dead process's lock; the store forgets its name only when the unlinking is certain.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from spool.journal import directory, header, journal, reader
from spool.otlp.batch import ROW_BYTES, merge
from spool.system import filesystem
from spool.system.locks import BRIEFLY, PATIENTLY, can_lock
from spool.system.log import logger

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from spool.journal.chunk import Chunk
    from spool.journal.file import File
    from spool.journal.frames import Frame
    from spool.store.store import Store

# A living process moves its own within seconds, except in its turn: one whose journal stands still
# for so long is stopped.
_STALE_SECONDS: Final = 5.0
_PAUSE: Final = 0.005


def ingest(store: Store, *, compress: bool, timeout: float = math.inf) -> None:
    """Move this process's journals into rows, deflated if `compress`, within `timeout` seconds.

    Not what is claimed. What is appended meanwhile may be moved too, but is not waited for. Raises
    SpoolError.
    """
    end = time.monotonic() + timeout
    with store.database.file_errors(), store.journal.moving.hold(min(timeout, PATIENTLY)):
        store.journal.turn_over()
        for file in store.journal.files():
            if not store.journal.is_claimed(file):
                _move(store, file, end, compress=compress)


def pass_over(store: Store, excess: float) -> int:
    """Evict the oldest of this process's journals, `excess` bytes or somewhat more; give the spans.

    Not what is claimed. Raises SpoolError.
    """
    evicted = 0
    gone: list[File] = []
    with store.database.file_errors(), store.journal.moving.hold(PATIENTLY):
        store.journal.turn_over()
        for file in store.journal.files():
            if store.journal.is_claimed(file):
                continue
            while excess > 0 and (found := _read(file, journal.LARGE)) is not None:
                chunk = found.first(excess)
                if not store.pass_over(file, chunk, time.time()):
                    break
                file.moved = chunk.end
                excess -= chunk.end - chunk.start
                evicted += chunk.spans
                if chunk.start == header.SIZE:
                    gone.append(file)
        gone = [file for file in gone if file.is_final and not file.unmoved_bytes]
    # Nothing of these was moved: after a power cut they may be there again, or gone uncounted.
    store.journal.unlink(gone)
    return evicted


@dataclass(frozen=True, slots=True)
class Claim:
    """The oldest spans of this process's journal, while its drainer sends them as they are."""

    file: File
    chunk: Chunk


def claim(store: Store, max_bytes: int) -> Claim | None:
    """Claim what came first to this process's journal and was not moved; None for nothing.

    It is up to `max_bytes` in the file, and one frame at the least. Until it is released nobody
    else in this process moves it. Only for who has the turn: then no other process does, either.
    Raises SpoolError.
    """
    with store.database.file_errors(), store.journal.moving.hold(BRIEFLY):
        store.journal.turn_over()
        for file in store.journal.files():
            if file.unmoved_bytes:  # another may have moved it, in its turn
                file.moved = max(file.moved, store.moved(file))
            if (chunk := _read(file, max_bytes)) is not None:
                store.journal.claim(file)
                return Claim(file, chunk)
        if store.journal.unmoved_bytes:
            store.journal.leave()  # what it is can be told when nobody appends to it
    return None


def release(store: Store, claim: Claim, moved: int | None = None) -> None:
    """End a claim: what is behind `moved` becomes rows, all of it where that is not given."""
    store.journal.release(claim.file, moved)
    store.database.written.set()  # maintenance has passed over it


def ingest_all(store: Store, *, compress: bool, sending: float, end: float = math.inf) -> None:
    """Move the journals of all other processes, when their requests under way are done.

    That is waited for until the monotonic time `end`. Raises SpoolError.
    """
    while not ingest_others(store, compress=compress, sending=sending, everything=True):
        if time.monotonic() >= end:
            return
        time.sleep(_PAUSE)


def ingest_others(  # noqa: PLR0913 - each is a caller's choice, by name
    store: Store,
    *,
    compress: bool,
    sending: float,
    everything: bool = False,
    only_unmoved: bool = False,
    timeout: float = math.inf,
) -> bool:
    """Move the journals of dead and of stopped processes, or of all, within `timeout` seconds.

    One is open at a time, with `only_unmoved` just those that hold something still; those that
    cannot be read are noted in `store.unreadable`. Says whether
    all was done: what living ones have, only who has the turn moves. `sending` is how many seconds
    a request can last at most. Raises SpoolError.
    """
    end = time.monotonic() + timeout
    with store.database.file_errors(), store.journal.moving.hold(min(timeout, PATIENTLY)):
        others = _Others(store, end, compress=compress, everything=everything)
        is_whole = others.look(only_unmoved=only_unmoved)
        turn = store.drain_lock.take(sending) if others.living else contextlib.nullcontext(True)
        with turn as is_had:
            if is_had:
                others.move_living()
        others.remove_dead()
        others.forget_gone()
        store.unreadable = others.unreadable
    return is_whole and is_had


class _Others:
    """The journals of other processes, looked at until the monotonic time `end`."""

    def __init__(self, store: Store, end: float, *, compress: bool, everything: bool) -> None:
        self.living: list[Path] = []
        self.unreadable: dict[Path, str] = {}
        self._store = store
        self._spool = store.database.path
        self._end = end
        self._compress = compress
        self._everything = everything
        self._known = store.journals()  # first: what is not there then was removed
        self._dead: dict[Path, int] = {}
        own = {file.path for file in store.journal.files()}
        there = directory.paths(self._spool)
        self._others = [path for path in there if path not in own]
        self._gone = self._known.keys() - {path.name for path in there}

    def look(self, *, only_unmoved: bool) -> bool:
        """Move what dead ones left, and find what living ones have; say whether time sufficed."""
        for path in self._others:
            if only_unmoved and not self._is_unmoved(path):
                continue
            if time.monotonic() >= self._end:
                return False
            with (
                directory.passing_over(path, self.unreadable),
                directory.opened(path, self._spool) as file,
            ):
                file.moved = self._store.moved(file)
                file.is_left = can_lock(file.fd)
                if file.is_final:
                    _move(self._store, file, self._end, compress=self._compress)
                    self._dead[path] = file.moved
                elif file.unmoved_bytes and (self._everything or _is_stale(file)):
                    self.living.append(path)
        return True

    def _is_unmoved(self, path: Path) -> bool:
        with contextlib.suppress(FileNotFoundError):
            size = os.stat(path, follow_symlinks=False).st_size
            return size > self._known.get(path.name, header.SIZE)
        return False

    def move_living(self) -> None:
        """Move what living ones have. Only for who has the turn."""
        for path in self.living:
            with (
                directory.passing_over(path, self.unreadable),
                directory.opened(path, self._spool) as file,
            ):
                file.moved = self._store.moved(file)
                _move(self._store, file, self._end, compress=self._compress)

    def remove_dead(self) -> None:
        """Remove what was moved of dead processes, while nobody else can have their locks."""
        if self._dead:
            self._store.database.sync()
        for path, moved in self._dead.items():
            with (
                directory.passing_over(path, self.unreadable),
                directory.opened(path, self._spool) as file,
            ):
                if can_lock(file.fd) and os.fstat(file.fd).st_size <= moved:
                    path.unlink(missing_ok=True)
                    self._gone |= {path.name} & self._known.keys()

    def forget_gone(self) -> None:
        """Forget the names of journals that were removed, when that is certain."""
        if self._gone:
            filesystem.sync_directory(self._spool.parent)
            self._store.forget(self._gone)


def _is_stale(file: File) -> bool:
    return abs(time.time() - os.fstat(file.fd).st_mtime) > _STALE_SECONDS


def _move(store: Store, file: File, end: float, *, compress: bool) -> None:
    """Move what is in a file by now, until the monotonic time `end`."""
    size = os.fstat(file.fd).st_size
    while file.moved < size:
        chunk = _read(file)
        if chunk is None:
            return
        rows = list(_rows(chunk, compress=compress))
        patience = min(PATIENTLY, max(0.0, end - time.monotonic()))
        if store.ingest(file, chunk, rows, patience):
            file.moved = chunk.end
            if chunk.lost:
                logger.error("langfuse-spool: %s: %d spans were damaged", file.path, chunk.lost)
        elif file.is_gone():
            return
        else:  # another process was faster
            file.moved = store.moved(file)


def _read(file: File, size: int = reader.CHUNK) -> Chunk | None:
    """Read what comes next of what was not moved. Raises OSError."""
    is_final = file.is_final  # first: an append to it may end meanwhile
    if not (unmoved := file.unmoved_bytes):
        return None
    chunk = reader.read(file.fd, file.moved, size, is_final=is_final)
    if chunk is None and is_final:
        file.moved += unmoved  # half a frame, which was never acknowledged
    return chunk


def _rows(chunk: Chunk, *, compress: bool) -> Iterator[Frame]:
    """Make rows of a chunk: one of each route, or several where they would be large."""
    for mine in chunk.routes().values():
        for run in _runs(mine):
            batch = merge([frame.batch for frame in run], compress=compress and len(run) > 1)
            yield replace(run[0], batch=batch)


def _runs(mine: Sequence[Frame]) -> Iterator[Sequence[Frame]]:
    """Divide frames into runs that are no larger than a row may be."""
    first = size = 0
    for number, frame in enumerate(mine):
        size += frame.batch.raw_bytes
        if size > ROW_BYTES and number > first:
            yield mine[first:number]
            first, size = number, frame.batch.raw_bytes
    yield mine[first:]


def sync(store: Store) -> None:
    """Make all that was appended survive a power cut, and let go of what was moved.

    Raises SpoolError.
    """
    emptied = store.journal.emptied()
    store.journal.sync()
    store.database.sync()
    store.journal.unlink(emptied)
