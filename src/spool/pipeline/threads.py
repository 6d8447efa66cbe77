"""The life of a pipeline's threads: maintenance, and a drainer where one is wanted.

Invariants:

- They start with the exporter, since some Pythons (3.12.1) start none once the main thread has
  returned, and do nothing before the process's first span.
- They never cross a fork: a child makes a `Threads` of its own.
- Where none can be started (a limit, the interpreter's exit), or an exception out of a signal
  handler comes between, they are tried again; no thread runs that nobody knows of.
- None is started once they are closed.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from spool.delivery.drainer import Drainer
from spool.store.maintenance_thread import MaintenanceThread
from spool.system.log import LimitedWarning

if TYPE_CHECKING:
    from spool.journal.overflow import Overflow
    from spool.settings.known_targets import KnownTargets
    from spool.settings.settings import Settings
    from spool.store.store import Store
    from spool.system.background_thread import BackgroundThread

_warning: Final = LimitedWarning("the background threads cannot be started")


class Threads:
    """The threads of one pipeline in one process."""

    def __init__(self, store: Store, overflow: Overflow, targets: KnownTargets) -> None:
        self.is_closed = False
        self._store = store
        self._overflow = overflow
        self._targets = targets
        self._running: list[BackgroundThread] = []
        self._is_starting = False
        self._lock = threading.RLock()  # a signal handler may come in anywhere

    @property
    def drainer(self) -> Drainer | None:
        """Give the drainer that runs, if there is one."""
        return next((one for one in self._running if isinstance(one, Drainer)), None)

    def start(self, settings: Settings) -> bool:
        """Start those that are wanted and do not run; say whether all of them do."""
        with self._lock:
            if self.is_closed or self._is_starting:  # by the thread that a handler has interrupted
                return False
            self._is_starting = True
            try:
                self._start_missing(settings)
            except RuntimeError as error:  # none are to be had
                if "shutdown" not in str(error):  # from Python 3.12 on none start during exit
                    _warning.warn(error)
                return False
            finally:
                self._is_starting = False
        return True

    def _start_missing(self, settings: Settings) -> None:
        if not any(isinstance(one, MaintenanceThread) for one in self._running):
            self._start(MaintenanceThread(self._store, settings, self._overflow))
        if settings.drain and self.drainer is None:
            self._start(Drainer(self._store, settings, self._overflow, targets=self._targets))

    def _start(self, one: BackgroundThread) -> None:
        try:
            self._running.append(one)
            one.start(at_once=False)
        except BaseException:  # it may have been started when it came
            self._running = [other for other in self._running if other is not one]
            one.stop(0)
            raise

    def begin(self) -> None:
        """Let them work from now on."""
        for one in list(self._running):
            one.begin()

    def close(self) -> None:
        """Start none any more. Those that run go on until `stop`."""
        with self._lock:
            self.is_closed = True

    def stop(self, timeout: float) -> None:
        """End them, the last one first; wait `timeout` seconds for each."""
        running, self._running = self._running, []
        for one in reversed(running):
            one.stop(timeout)
