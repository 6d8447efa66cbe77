"""Ingest: journal → store. It moves what a journal holds into rows, many spans to a row.

Each process moves its own journals (maintenance does), except what its drainer has claimed. Those
of others are `takeover`'s.

Invariants:

- Reading, merging and compressing are done before the mutex is taken.
- A journal is unlinked only when what was moved of it is synced.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from spool.journal import header, journal, reader
from spool.otlp.batch import ROW_BYTES, merge
from spool.store import journal_chunks
from spool.system.locks import BRIEFLY, PATIENTLY
from spool.system.log import logger

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from spool.journal.chunk import Chunk
    from spool.journal.file import File
    from spool.journal.frames import Frame
    from spool.store.store import Store


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
                move(store, file, end, compress=compress)


def evict(store: Store, excess: float) -> int:
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
                chunk = found.at_least(excess)
                if not journal_chunks.evict(store.database, file, chunk, time.time()):
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
    else in this process moves it. Only for who has the drain lock: then no other process does,
    either. Raises SpoolError.
    """
    with store.database.file_errors(), store.journal.moving.hold(BRIEFLY):
        store.journal.turn_over()
        for file in store.journal.files():
            if file.unmoved_bytes:  # another may have moved it, with the lock
                file.moved = max(file.moved, journal_chunks.moved(store.database, file))
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


def move(store: Store, file: File, end: float, *, compress: bool) -> None:
    """Move what is in a file by now, until the monotonic time `end`."""
    size = os.fstat(file.fd).st_size
    while file.moved < size:
        chunk = _read(file)
        if chunk is None:
            return
        rows = list(_rows(chunk, compress=compress))
        patience = min(PATIENTLY, max(0.0, end - time.monotonic()))
        if journal_chunks.ingest(store.database, file, chunk, rows, patience):
            file.moved = chunk.end
            if chunk.lost:
                logger.error("langfuse-spool: %s: %d spans were damaged", file.path, chunk.lost)
        elif file.is_gone():
            return
        else:  # another process was faster
            file.moved = journal_chunks.moved(store.database, file)


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
    for mine in chunk.by_route().values():
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
