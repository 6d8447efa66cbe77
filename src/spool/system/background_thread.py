"""A background thread: it may be started long before it has work, and begins when it is told to.

Invariants:

- Before it has begun it does nothing, and where it never does, it ends at once.
- `begin`, and what wakes it, wait for nothing: a signal handler may call them.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod

from spool.system.event import SignalSafeEvent


class BackgroundThread(ABC):
    """A daemon thread that does its `run`, once, from its beginning until it is `stopping`."""

    def __init__(self, name: str) -> None:
        self.stopping = SignalSafeEvent()
        self._begun = SignalSafeEvent()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @abstractmethod
    def run(self) -> None:
        """Work until it is `stopping`."""

    @abstractmethod
    def wake(self) -> None:
        """Let it look at once whether there is something to do, or to stop."""

    def start(self, *, at_once: bool = True) -> None:
        """Start, to begin `at_once` or when it is told to.

        Raises RuntimeError where no thread is to be had, as during interpreter exit.
        """
        if at_once:
            self.begin()
        self._thread.start()

    def begin(self) -> None:
        """Do from now on what is to be done."""
        self._begun.set()

    def stop(self, timeout: float) -> None:
        """End after the work in hand; wait `timeout` seconds for that."""
        self.stopping.set()
        self.begin()
        self.wake()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        self._begun.wait()
        self.run()
