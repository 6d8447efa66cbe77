"""An event that wakes a background thread, and that a signal handler may set, too.

Invariants:

- `set` waits for nothing and takes no lock that a signal handler can meet half-way: the handler may
  have interrupted its thread in the middle of `set`. (`threading.Event.set` is not so: there the
  thread would wait for itself for ever.)
- No `set` is missed: what was done before it is seen by who wakes. It may wake for nothing.
- It crosses a fork as a flag only, also one that runs no handlers: the child waits anew.
"""

from __future__ import annotations

import contextlib
import queue

from spool.system.forks import own_id


class SignalSafeEvent:
    """A flag as `threading.Event` is one; a single thread waits for it, any may set it."""

    def __init__(self) -> None:
        self._is_set = False
        self._start_over()

    def _start_over(self) -> None:
        self._queue: queue.SimpleQueue[None] = queue.SimpleQueue()  # its `put` is re-entrant
        self._process = own_id()

    def is_set(self) -> bool:
        """Say whether it was set, and not cleared since."""
        return self._is_set

    def set(self) -> None:
        """Wake who waits, or who will."""
        if not self._is_set:
            try:
                self._is_set = True
                self._own_queue().put(None)
            except BaseException:  # out of a signal handler: the next one must come through
                self._is_set = False
                raise

    def clear(self) -> None:
        """Begin anew, before the work that was asked for: what is asked from now on comes again."""
        self._is_set = False
        own = self._own_queue()
        with contextlib.suppress(queue.Empty):
            while True:
                own.get_nowait()

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until it is set, for `timeout` seconds at most; say whether it is."""
        if not self._is_set:
            with contextlib.suppress(queue.Empty):
                self._own_queue().get(timeout=timeout)
        return self._is_set

    def _own_queue(self) -> queue.SimpleQueue[None]:
        if self._process != own_id():  # another one's thread may have been waiting at the fork
            self._start_over()
        return self._queue
