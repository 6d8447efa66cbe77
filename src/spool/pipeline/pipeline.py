"""What the exporters of one process share for one file: a store, its maintenance, a drainer.

Invariants:

- Threads start with the exporter, since some Pythons (3.12.1) start none once the main thread has
  returned, and do nothing before the process's first span. They never cross a fork: the child
  starts its own with its first span, also after a fork that ran no handlers (in C, as uWSGI's).
  Where none can be started (a limit, the interpreter's exit), or an exception out of a signal
  handler comes between, each further span tries again, and `ending` sends without them.
- Who wants a drainer gets one, whoever came first. Of all else the first one's settings count, and
  what differs is said.
- Who joins an open spool, or brings another target, waits for nobody and writes nothing: the first
  row of a route records it.
- What is refused is counted, also after the last exporter was shut down.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import time
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Final

from spool.delivery.drainer import Drainer
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
from spool.pipeline.shutdown import Shutdown
from spool.settings.known_targets import KnownTargets
from spool.settings.values import shown
from spool.store import ingest
from spool.store.maintenance import Maintenance
from spool.store.store import Store
from spool.system import forks
from spool.system.locks import BRIEFLY
from spool.system.log import LimitedWarning, logger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from spool.otlp.batch import Batch
    from spool.settings.settings import Settings
    from spool.settings.target import Target
    from spool.store.records import Ledger

_POLL: Final = 0.01
_STOP_SECONDS: Final = 0.05
# So often what is refused after the end is written down, without waiting for anybody.
_COUNT_SECONDS: Final = 1.0
# What every exporter has for itself, and what is agreed on.
_NOT_SHARED: Final = ("path", "target", "host", "drain")

_open_pipelines: dict[Path, Pipeline] = {}
# Closed ones that have refused spans since.
_late_pipelines: set[Pipeline] = set()
_open_lock = threading.RLock()
_pid = os.getpid()
_finalized_pid = 0


def open_pipeline(settings: Settings, target: Target) -> Pipeline:
    """Join the spool that this process has open at the path, or open it; end with `release`.

    Raises SpoolFileError where it is not ours, or not for us. What the disk refuses for now is no
    reason: then what ends is held in memory, and sent from there.
    """
    path = settings.path.parent.resolve() / settings.path.name
    with _opening():
        spool = _open_pipelines.get(path)
        is_first = spool is None
        if spool is None:
            spool = _open_pipelines[path] = Pipeline(path, settings)
        spool.join(settings, target)
    if is_first:
        try:
            spool.prepare(target)
            spool.run()
        except BaseException:
            spool.release()
            raise
    return spool


def _opening() -> threading.RLock:
    """Give the lock of those that open and close; a new one after a fork without handlers."""
    if _pid != os.getpid():
        _start_over_in_child()
    return _open_lock


class Pipeline:
    """One file's store, maintenance and drainer in this process."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path = path
        self.store = Store(path, settings.durability)
        self.store.journal.bound(settings.max_bytes)  # until maintenance knows better
        self._settings = settings
        self._targets = KnownTargets()
        self._users = 0
        self._is_ended = False
        self._warning = LimitedWarning("the background threads cannot be started")
        self._unsynced = LimitedWarning("spans are spooled, but a power cut could take them")
        self._holding = LimitedWarning(
            "the spool file refuses spans for now, they are held in memory"
        )
        self._refusal = LimitedWarning("spans were refused and are lost")
        self._said: set[str] = set()
        self._start_over()

    def _start_over(self) -> None:
        self._lock = threading.RLock()  # a signal handler may come in anywhere
        self._counting = threading.Lock()
        self._counted_at = -_COUNT_SECONDS
        self._maintenance: Maintenance | None = None
        self._drainer: Drainer | None = None
        self._is_running = False
        self._is_used = self._has_begun = self._is_ending = False
        self.overflow = Overflow()
        self._pid = os.getpid()

    def _start_over_in_child(self) -> None:
        """Leave to the parent what is the parent's: its threads, and what its memory has."""
        self.store.forget_refused()
        self._start_over()

    def _notice_fork(self) -> None:
        if self._pid != os.getpid():
            self._start_over_in_child()

    def join(self, settings: Settings, target: Target) -> None:
        """Add a user, its target, and its wish for a drainer; say what is not heeded."""
        self._users += 1
        self._targets.add(target)
        if settings.drain and not self._settings.drain:
            self._settings = replace(self._settings, drain=True)
            if self._is_running:
                self._is_running = False
                self.run()
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

    def _check_version(self) -> None:
        with contextlib.suppress(SpoolUnavailableError):
            self.store.salt()

    def append(self, target: Target, batch: Batch) -> bool:
        """Append a batch to the journal, and say whether it is spooled.

        What the file refuses for now is held in memory. What finds no room there either is counted
        as refused, and said.
        """
        now = time.time()
        if self._pid != os.getpid():
            self._start_over_in_child()
        if not self._has_begun:
            self._begin()
        try:
            if batch.spans == 1:
                return self._append(target, batch, now)
            spooled = [self._append(target, one, now) for one in self._divided(batch)]
            return all(spooled)
        finally:
            self._targets.use(target)
            if not self._is_running:
                self.run()
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
                self.refuse(batch.spans)
            return False
        self.overflow.has_moved = True
        return True

    def _hold(self, target: Target, batch: Batch, now: float, reason: object) -> bool:
        if self._is_ending or not self.overflow.add(target, batch, now):
            return False
        self._holding.warn(reason)
        self.store.rouse()
        return True

    def refuse(self, spans: int) -> None:
        """Count spans that are lost. Waits for nobody, and raises nothing."""
        self._notice_fork()
        self.store.refuse(spans)
        if not self._users:
            _late_pipelines.add(self)
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
                self._take_in(max(0.0, deadline - time.monotonic()))
                if self.store.journal.is_past(mark):
                    last_id = self.store.last_id(target.route)
                    continue
            if self._is_hopeless(target) or time.monotonic() >= deadline:
                return False
            if self._drainer is not None:
                self._drainer.wake()
            time.sleep(_POLL)
        return True

    def _take_in(self, timeout: float) -> None:
        ingest.ingest(self.store, compress=self._settings.is_gzip, timeout=timeout)

    def _is_hopeless(self, target: Target) -> bool:
        routes = self.store.routes()
        return any(r.name == target.route and r.attempts for r in routes) or not (
            self._drainer is not None or self.store.drainer()[0]
        )

    def release(self) -> None:
        """Take a user off; the last one ends the threads and closes the file. Raises SpoolError."""
        with _opening():
            self._users -= 1
            if self._users:
                return
            _open_pipelines.pop(self.path, None)
        self.stop()

    def _begin(self) -> None:
        """Let the threads work, those that run and those that are still to be started."""
        self._is_used, is_running = True, self._is_running  # in this order: see `_start_threads`
        for thread in (self._maintenance, self._drainer):
            if thread is not None:
                thread.begin()
        self._has_begun = is_running  # last: an exception out of a signal handler may come between

    def run(self) -> None:
        """Start the threads, if they can be had, and nobody has ended this."""
        if forks.will_fork() or self._is_ending:
            return
        with self._lock:
            if self._is_running or self._is_ending:
                return
            self._is_running, is_begun = True, False
            try:
                self._start_threads()
                is_begun = True
            except RuntimeError as error:  # none are to be had
                if "shutdown" not in str(error):  # from Python 3.12 on none start during exit
                    self._warning.warn(error)
            finally:
                self._is_running = is_begun  # else the next span tries again
        _end_with_multiprocessing()

    def _start_threads(self) -> None:
        if self._maintenance is None:
            maintenance = Maintenance(self.store, self._settings, self.overflow)
            with _stopped_unless_begun(maintenance):
                maintenance.start(at_once=False)
                self._maintenance = maintenance
        if self._drainer is None and self._settings.drain:
            drainer = Drainer(self.store, self._settings, self.overflow, targets=self._targets)
            with _stopped_unless_begun(drainer):
                drainer.start(at_once=False)
                self._drainer = drainer
        if self._is_used:
            self._begin()

    def stop(self) -> None:
        """End the threads and close the file: at the last release, or at exit without one.

        Raises SpoolError.
        """
        self._notice_fork()
        with self._lock:
            drainer, maintenance = self._drainer, self._maintenance
            is_used, overflow = self._is_used, self.overflow
            self._start_over()
            self._is_ending = True
        try:
            if is_used:
                self._end(drainer, maintenance, overflow)
            else:
                for thread in (drainer, maintenance):
                    if thread is not None:
                        thread.stop(_STOP_SECONDS)
        finally:
            self.store.close()
            self._is_ended = True
            if self in _late_pipelines:
                self.count_late()

    def stop_safely(self) -> None:
        """Stop; what cannot be done is said."""
        try:
            self.stop()
        except SpoolError as error:
            logger.warning("langfuse-spool: %s", error)

    def _end(
        self, drainer: Drainer | None, maintenance: Maintenance | None, overflow: Overflow
    ) -> None:
        ending = Shutdown(self.store, self._settings, overflow, self._targets)
        try:
            ending.send(drainer)
        finally:
            if maintenance is not None:
                maintenance.stop(_STOP_SECONDS)
            ending.save()


@contextlib.contextmanager
def _stopped_unless_begun(one: Maintenance | Drainer) -> Iterator[None]:
    """Let no thread run that nobody knows of: it may have been started when the exception came."""
    try:
        yield
    except BaseException:
        one.stop(0)
        raise


def _end_all() -> None:
    """End what nobody has shut down, as the last thing at exit; count what was refused late."""
    for spool in list(_open_pipelines.values()):
        spool.stop_safely()
    for spool in list(_late_pipelines):
        spool.count_late()


def _end_with_multiprocessing() -> None:
    """Have `_end_all` run at the end of a process of multiprocessing, which knows no atexit."""
    global _finalized_pid  # noqa: PLW0603 - once in a process
    module = sys.modules.get("multiprocessing.process")
    if _finalized_pid == os.getpid() or module is None or module.parent_process() is None:
        return
    _finalized_pid = os.getpid()
    from multiprocessing.util import Finalize  # noqa: PLC0415 - only where it is used anyway

    Finalize(None, _end_all, exitpriority=0)


def _start_over_in_child() -> None:
    global _open_lock, _pid  # noqa: PLW0603 - the parent may have held it
    _open_lock = threading.RLock()
    _pid = os.getpid()
    for spool in _open_pipelines.values():
        spool._start_over_in_child()  # noqa: SLF001 - this module's own class


# Before any provider is made, hence after all of them have ended.
atexit.register(_end_all)
os.register_at_fork(after_in_child=_start_over_in_child)
