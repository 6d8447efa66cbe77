"""The turn: which process sends now. Past one that is stopped in its turn, a deputy sends.

Invariants:

- At most one process has the turn, and signs for it anew each time.
- Who takes it again and again leaves a gap now and then, which others who look for it can see.
- A turn that has the same signature for longer than a turn can last is a stopped process's
  (SIGSTOP, a frozen container). Then at most one other sends beside it, as its deputy. That costs
  the request in flight twice, and nothing else: settling ends only what was taken.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Final

from spool import place
from spool.lock import PATIENTLY, FileLock, signature

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# Whoever has something to send looks more often than that.
_SOON: Final = 5.0
# What a turn may take beside its request. Where the mutex is not to be had it takes longer: then a
# deputy sends, which costs no more than a request twice.
_BESIDE_SENDING: Final = 2 * PATIENTLY
_SECONDS_BETWEEN_GAPS: Final = 0.25
_GAP: Final = 0.005


class Turn:
    """The turn of one spool, as one process takes it."""

    def __init__(self, path: Path, create: Callable[[Path], int]) -> None:
        self._turn = FileLock(place.beside(path, ".turn"), create)
        self._deputy = FileLock(place.beside(path, ".deputy"), create)
        self._seen: tuple[int, str] | None = None
        self._seen_at = self._looked_at = -_SOON
        self._left_gap_at = -_SECONDS_BETWEEN_GAPS

    def prepare(self) -> None:
        """Create its files now: later the disk may take nothing more.

        Raises SpoolFileError, SpoolBusyError.
        """
        self._turn.prepare()
        self._deputy.prepare()

    @contextlib.contextmanager
    def take(self, sending: float, patience: float = 0.0) -> Iterator[bool]:
        """Take the turn for this block, if it is free, and say whether it was had.

        It is looked for as long as `patience` says. `sending` is how long a request can last at
        most. Both are in seconds. Raises SpoolFileError.
        """
        self._leave_gap()
        lock = self._free_lock(sending + _BESIDE_SENDING, patience)
        try:
            yield lock is not None
        finally:
            if lock is not None:
                lock.release()
            if lock is self._deputy:
                self._looked_at = time.monotonic()  # what is stopped was so all the time

    def pid(self) -> int | None:
        """Give the pid of the last process that had the turn; None for none."""
        signed = signature(self._turn.path)
        return None if signed is None else signed[0]

    def close(self) -> None:
        """Give the descriptors back, unless they are in use."""
        self._turn.close()
        self._deputy.close()

    def _leave_gap(self) -> None:
        if time.monotonic() - self._left_gap_at > _SECONDS_BETWEEN_GAPS:
            time.sleep(_GAP)
            self._left_gap_at = time.monotonic()

    def _free_lock(self, longest: float, patience: float) -> FileLock | None:
        if self._turn.acquire(timeout=patience):
            self._turn.sign()
            return self._turn
        if self._is_stuck(longest) and self._deputy.acquire(timeout=0):
            return self._deputy
        return None

    def _is_stuck(self, longest: float) -> bool:
        signed, now = signature(self._turn.path), time.monotonic()
        # What was seen long ago may have been another's turn: one that has it may sign only now.
        if signed != self._seen or now - self._looked_at > _SOON:
            self._seen, self._seen_at = signed, now
        self._looked_at = now
        return now - self._seen_at > longest
