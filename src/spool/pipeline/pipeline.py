"""A pipeline: what the exporters of one process share for one file. A span's way to the disk.

Invariants:

- What the disk refuses for now is held in memory; what finds no room is counted as refused, also
  after the last exporter was shut down.
- Its threads work from the process's first span on. The child of a fork starts its own with its
  first span, also after a fork that ran no handlers (in C, as uWSGI's).
- Who wants a drainer gets one, whoever came first. Of all else the first one's settings count, and
  what differs is said.
- Who joins it, or brings another target, waits for nobody and writes nothing: the first row of a
  route records it.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Final

from spool.errors import (
    SpoolBusyError,
    SpoolError,
    SpoolFullError,
    SpoolUnavailableError,
    SpoolUnsyncedError,
)
from spool.journal.overflow import Overflow
from spool.otlp.batch import ROW_BYTES, merge
from spool.otlp.cutting import pieces
from spool.pipeline.observation import observed
from spool.pipeline.shutdown import POLL_SECONDS, STOP_SECONDS, Shutdown
from spool.pipeline.threads import Threads
from spool.settings.known_targets import KnownTargets
from spool.settings.values import shown
from spool.store import drainers, ingest
from spool.store.store import Store
from spool.system import exits, forks
from spool.system.locks import BRIEFLY
from spool.system.log import LimitedWarning, logger

if TYPE_CHECKING:
    from pathlib import Path

    from spool.otlp.batch import Batch
    from spool.settings.settings import Settings
    from spool.settings.target import Target
    from spool.store.records import Ledger

# So often what is refused after the end is written down, without waiting for anybody.
_COUNT_SECONDS: Final = 1.0
# What every exporter has for itself, and what is agreed on.
_NOT_SHARED: Final = ("path", "target", "host", "extra_headers", "drain")

# Those that have refused spans since they were closed: they count them at the exit.
late: Final[set[Pipeline]] = set()


class Pipeline:
    """One file's store and threads in this process; `overflow` is what its memory holds."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path = path
        self.store = Store(path, settings.durability)
        self.store.journal.bound(settings.max_bytes)  # until maintenance knows better
        self._settings = settings
        self._targets = KnownTargets()
        self._users = 0
        self._is_ended = False
        self._unsynced = LimitedWarning("spans are spooled, but a power cut could take them")
        self._holding = LimitedWarning(
            "the spool file refuses spans for now, they are held in memory"
        )
        self._refusal = LimitedWarning("spans were refused and are lost")
        self._said: set[str] = set()
        self._start_over()

    def _start_over(self) -> None:
        self._counting = threading.Lock()
        self._counted_at = -math.inf
        self.overflow = Overflow()
        self._threads = Threads(self.store, self.overflow, self._targets)
        self._is_used = self._is_working = False
        self._process = forks.own_id()

    def _start_over_in_child(self) -> None:
        """Leave to the parent what is the parent's: its threads, and what its memory has."""
        self.store.forget_refused()
        self._start_over()

    def _notice_fork(self) -> None:
        if self._process != forks.own_id():
            self._start_over_in_child()

    def join(self, settings: Settings, target: Target) -> Target:
        """Add a user, its target, and its wish for a drainer; say what is not heeded.

        Gives the target as it is to be named from now on.
        """
        self._notice_fork()
        self._users += 1
        target = self._targets.add(target)
        if settings.drain and not self._settings.drain:
            self._settings = replace(self._settings, drain=True)
            self.start_threads()
        for field in fields(settings):
            ours, others = getattr(self._settings, field.name), getattr(settings, field.name)
            if field.name not in _NOT_SHARED and ours != others and field.name not in self._said:
                self._said.add(field.name)
                logger.warning(
                    "langfuse-spool: %s: its exporters differ in %s: %s of the first one "
                    "counts, %s of a further one does not",
                    self.path,
                    field.name,
                    shown(ours),
                    shown(others),
                )
        return target

    def leave(self) -> bool:
        """Take a user off; say whether it was the last."""
        self._users -= 1
        return not self._users

    def prepare(self, target: Target) -> None:
        """Make the file if need be, and check that it is ours. Raises SpoolFileError.

        While the disk refuses, what ends is held in memory. Nobody is waited for: where another
        process has the mutex, or the file is to be salvaged, the background threads see to it.
        """
        try:
            self.store.register(target, BRIEFLY)
        except SpoolBusyError:  # the first row records the route
            self._check_version()
        except SpoolUnavailableError as error:
            self._holding.warn(error)
        with contextlib.suppress(SpoolUnavailableError):  # who takes it says so
            self.store.drain_lock.prepare()
            self.store.probe_lock.prepare()
            self.store.probe_lock.close()  # it is opened when there is trouble
        observed.begin(self.store, self._settings.max_bytes)

    def record(self, target: Target) -> None:
        """Record the endpoint of a further target, if that can be done at once."""
        with contextlib.suppress(SpoolError):  # the file's trouble is said by who writes spans
            self.store.register(target, BRIEFLY)

    def _check_version(self) -> None:
        with contextlib.suppress(SpoolUnavailableError):
            self.store.salt()

    def append(self, target: Target, batch: Batch) -> bool:
        """Append a batch to the journal, and say whether it is spooled.

        What the file refuses for now is held in memory. What finds no room there either is counted
        as refused, and said.
        """
        now = time.time()
        if self._process != forks.own_id():
            self._start_over_in_child()
        if not self._is_working:
            self._is_used = True
        try:
            if batch.spans == 1:
                return self._append(target, batch, now)
            spooled = [self._append(target, one, now) for one in self._divided(batch)]
            return all(spooled)
        finally:
            self._targets.use(target)
            if not self._is_working:
                self.start_threads()
            if self._is_ended:  # it came beside the shutdown: what it wrote is left to others
                self.store.journal.close()

    def _divided(self, batch: Batch) -> list[Batch]:
        # Several spans come from a processor's thread: there it costs the application nothing.
        is_gzip = self._settings.is_gzip
        return [merge([one], compress=is_gzip) for one in pieces(batch, ROW_BYTES)]

    def _append(self, target: Target, batch: Batch, now: float) -> bool:
        try:
            self.store.accept(target, batch, now)
        except SpoolUnsyncedError as error:
            self._unsynced.warn(error)
            return False
        except SpoolError as error:
            is_full = isinstance(error, SpoolFullError)
            self.overflow.has_moved = self.overflow.has_moved and is_full
            if is_full or not self._hold(target, batch, now, error):
                self._refusal.warn(error)
                self.refuse(batch.spans, error)
            return False
        self.overflow.has_moved = True
        return True

    def _hold(self, target: Target, batch: Batch, now: float, reason: object) -> bool:
        if self._threads.is_closed or not self.overflow.add(target, batch, now):
            return False
        self._holding.warn(reason)
        self.store.rouse()
        return True

    def refuse(self, spans: int, reason: object) -> None:
        """Count spans that are lost: to an error, or else to the end of their exporter.

        Waits for nobody, and raises nothing.
        """
        self._notice_fork()
        observed.refuse(self.store, spans, reason)
        self.store.refuse(spans, reason)
        if not self._users:
            late.add(self)
        if self._is_ended and time.monotonic() - self._counted_at > _COUNT_SECONDS:
            self.count_late(patience=0)

    def count_late(self, patience: float = BRIEFLY) -> None:
        """Write down what was refused after the end, within `patience` seconds."""
        self._notice_fork()
        if not self._counting.acquire(blocking=False):  # another thread, or the one interrupted
            return
        try:
            self._counted_at = time.monotonic()
            with contextlib.suppress(SpoolError):  # the next one, or the exit, tries again
                self.store.count_refused(time.time(), patience)
            self.store.close()
        finally:
            self._counting.release()

    def ledger(self) -> Ledger:
        """Give the totals, with what this process holds in memory. Raises SpoolFileError."""
        self._notice_fork()
        return replace(self.store.ledger(), in_memory=self.overflow.spans)

    def flush(self, target: Target, timeout: float) -> bool:
        """Wait until all that was appended for a target before now is settled; say whether it is.

        Gives up at once where nobody could settle it soon: a route in trouble, or no drainer
        anywhere. Raises SpoolError.
        """
        self._notice_fork()
        deadline = time.monotonic() + timeout
        mark, last_id = self.store.journal.mark(), None
        while last_id is None or not self.store.is_settled(last_id):
            if last_id is None:
                left = max(0.0, deadline - time.monotonic())
                ingest.ingest(self.store, compress=self._settings.is_gzip, timeout=left)
                if self.store.journal.is_past(mark):
                    last_id = self.store.last_id(target.route)
                    continue
            if self._is_hopeless(target) or time.monotonic() >= deadline:
                return False
            if (drainer := self._threads.drainer) is not None:
                drainer.wake()
            time.sleep(POLL_SECONDS)
        return True

    def _is_hopeless(self, target: Target) -> bool:
        routes = self.store.routes()
        return any(r.name == target.route and r.attempts for r in routes) or not (
            self._threads.drainer is not None or drainers.is_any(self.store)
        )

    def start_threads(self) -> None:
        """Start the threads, and let them work once a span has come; else the next one tries it."""
        if forks.will_fork() or self._threads.is_closed:
            return
        if self._threads.start(self._settings) and self._is_used:
            self._threads.begin()
            self._is_working = True
        else:
            self._is_working = False
        exits.notice_multiprocessing()

    def stop(self) -> None:
        """End the threads and close the file: at the last release, or at exit without one.

        Raises SpoolError.
        """
        self._notice_fork()
        self._threads.close()
        is_used, self._is_used, self._is_working = self._is_used, False, False
        overflow, self.overflow = self.overflow, Overflow()
        try:
            if is_used:
                Shutdown(self.store, self._settings, overflow, self._targets).run(self._threads)
            else:
                self._threads.stop(STOP_SECONDS)
        finally:
            observed.end(self.store)
            self.store.close()
            self._is_ended = True
            if self in late:
                self.count_late()

    def stop_safely(self) -> None:
        """Stop; what cannot be done is said."""
        try:
            self.stop()
        except SpoolError as error:
            logger.warning("langfuse-spool: %s", error)
