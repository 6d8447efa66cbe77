"""Group commit: one fsync for all who wait for it.

Invariant: who returned from `sync` wrote before an fsync began that succeeded.
"""

from __future__ import annotations

import itertools
import threading

from spool.system import spool_files


class GroupCommit:
    """The fsyncs of one file: while one runs, those who come later wait for the next, together."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler syncs in the middle of its thread's own
        self._numbers = itertools.count()
        self._synced = self._failed = 0
        self._error: tuple[int | None, str | None] = (None, None)

    def sync(self, fd: int) -> None:
        """Make what this thread has written survive a power cut. Raises OSError."""
        number = next(self._numbers)
        with self._lock:
            if number < self._failed:  # the next one would succeed: it is told but once
                raise OSError(*self._error)
            if number >= self._synced:
                self._sync(fd)

    def _sync(self, fd: int) -> None:
        number = next(self._numbers)  # all who have a lower one have written
        try:
            spool_files.sync(fd)
        except OSError as error:
            self._error = error.errno, error.strerror
            self._failed = max(self._failed, number)
            raise
        self._synced = max(self._synced, number)
