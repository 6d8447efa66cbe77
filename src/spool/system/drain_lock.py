"""The drain lock: which process sends now. Past one that is stopped, a deputy sends.

A turn is one hold of it, for one request.

Invariants:

- At most one process has the lock, and signs it anew each turn.
- Who takes it again and again leaves gaps: a part of the time that it had it. Who waits looks
  twice in such a gap, so it gets its turn next.
- A lock that has the same signature for longer than a turn can last is a stopped process's
  (SIGSTOP, a frozen container). Then at most one other sends beside it, as its deputy. That costs
  the request in flight twice, and nothing else: settling ends only what was taken.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Final

from spool.system import spool_files
from spool.system.locks import PATIENTLY, FileLock, signature

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# Whoever has something to send looks more often than that.
_SOON: Final = 5.0
# What a turn may take beside its request. Where the mutex is not to be had it takes longer: then a
# deputy sends, which costs no more than a request twice.
_BESIDE_SENDING: Final = 2 * PATIENTLY
# After it had the lock for so many seconds a process leaves a gap.
_LONG: Final = 0.25


class DrainLock:
    """The drain lock of one spool, as one process takes it; `kind` is of its files' names."""

    def __init__(self, path: Path, create: Callable[[Path], int], kind: str = "") -> None:
        self._spool = path
        self._lock = FileLock(spool_files.beside(path, f"{kind}.turn"), create)
        self._deputy = FileLock(spool_files.beside(path, f"{kind}.deputy"), create)
        self._seen: tuple[int, str] | None = None
        self._seen_at = self._looked_at = -_SOON
        self._had_seconds = 0.0

    def prepare(self) -> None:
        """Create its files now: later the disk may take nothing more. Raises SpoolFileError."""
        self._lock.prepare()
        self._deputy.prepare()

    @contextlib.contextmanager
    def take(self, sending: float, patience: float = 0.0) -> Iterator[bool]:
        """Take a turn for this block, if the lock is free, and say whether it was had.

        It is looked for as long as `patience` says. `sending` is how long a request can last at
        most. Both are in seconds. Raises SpoolFileError.
        """
        self._leave_gap()
        lock, began_at = self._free_lock(sending + _BESIDE_SENDING, patience), time.monotonic()
        try:
            yield lock is not None
        finally:
            if lock is not None:
                lock.release()
                self._had_seconds += time.monotonic() - began_at
            if lock is self._deputy:
                self._looked_at = time.monotonic()  # what is stopped was so all the time

    def is_ours(self) -> bool:
        """Say whether this thread has it."""
        return self._lock.is_ours() or self._deputy.is_ours()

    def pid(self) -> int | None:
        """Give the pid of the last process that had a turn; None for none."""
        signed = signature(self._lock.path, self._spool)
        return None if signed is None else signed[0]

    def close(self) -> None:
        """Give the descriptors back, unless they are in use."""
        self._lock.close()
        self._deputy.close()

    def _leave_gap(self) -> None:
        if self._had_seconds > _LONG:
            time.sleep(_gap_after(self._had_seconds))
            self._had_seconds = 0.0

    def _free_lock(self, longest: float, patience: float) -> FileLock | None:
        end = time.monotonic() + patience
        while not self._lock.acquire(timeout=0):
            same_seconds = self._watch()
            if same_seconds > longest and self._deputy.acquire(timeout=0):
                return self._deputy
            if (left := end - time.monotonic()) <= 0:
                return None
            time.sleep(min(left, _gap_after(max(same_seconds, _LONG)) / 2))
        self._lock.sign()
        return self._lock

    def _watch(self) -> float:
        """Tell for how many seconds the lock has had the same signature, as far as it was seen."""
        signed, now = signature(self._lock.path, self._spool), time.monotonic()
        # What was seen long ago may have been another's turn: one that has it may sign only now.
        if signed != self._seen or now - self._looked_at > _SOON:
            self._seen, self._seen_at = signed, now
        self._looked_at = now
        return now - self._seen_at


def _gap_after(seconds: float) -> float:
    """Tell how long a gap is after so many seconds: not for ever after a SIGSTOP."""
    return min(0.02 * seconds, 0.25)
