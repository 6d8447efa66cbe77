"""What the exporters of one process share for one file: a store, a keeper, a drainer.

Invariants:

- Threads start with the first span that a process appends, never during interpreter exit, and never
  cross a fork: the child starts its own.
- Exit waits only for an endpoint that is not known to be down, and then at most
  `shutdown_seconds`; whatever is still pending stays in the file.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from spool import intake
from spool.complaint import Complaint, logger
from spool.drainer import Drainer
from spool.errors import (
    SpoolBusyError,
    SpoolDamagedError,
    SpoolError,
    SpoolFileError,
    SpoolFullError,
    SpoolNoRoomError,
    SpoolUnsyncedError,
)
from spool.keeper import Keeper
from spool.lock import BRIEFLY
from spool.otlp import ROW_BYTES, merge, pieces
from spool.overflow import Overflow
from spool.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from spool.inbox import File
    from spool.otlp import Batch
    from spool.records import Ledger
    from spool.settings import Settings, Target

_POLL: Final = 0.01
_STOP_SECONDS: Final = 0.05

_open_spools: dict[Path, SharedSpool] = {}
_open_lock = threading.RLock()


def open_spool(settings: Settings, target: Target) -> SharedSpool:
    """Join the spool that this process has open at the path, or open it; end with `release`.

    The first one's settings count for all that is shared. Raises SpoolError.
    """
    path = settings.path.parent.resolve() / settings.path.name
    with _open_lock:
        spool = _open_spools.get(path) or SharedSpool(path, settings)
        spool.join(target)
        _open_spools[path] = spool
    return spool


class SharedSpool:
    """One file's store, keeper and drainer in this process."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path = path
        self.store = Store(path, sync_each_commit=settings.sync_seconds == 0)
        self._settings = settings
        self._targets: dict[str, Target] = {}
        self._users = 0
        self._complaint = Complaint("the background threads cannot be started")
        self._unsynced = Complaint("spans are spooled, but a power cut could take them")
        self._holding = Complaint("the spool file refuses spans for now, they are held in memory")
        self._refusal = Complaint("spans were refused and are lost")
        self._start_over()

    def _start_over(self) -> None:
        self._lock = threading.RLock()  # a signal handler may come in anywhere
        self._keeper: Keeper | None = None
        self._drainer: Drainer | None = None
        self._is_running = False
        self.overflow = Overflow()

    def join(self, target: Target) -> None:
        """Add a user and its target; record the route. Raises SpoolError.

        Where that must wait (the disk has no room, another process has the mutex) the first row
        records the route. While there is no room, what ends is held in memory.
        """
        try:
            self._register(target)
        except (SpoolNoRoomError, SpoolBusyError) as error:
            self._holding.say(error)
        with contextlib.suppress(SpoolFileError, SpoolBusyError):  # who takes it will say so
            self.store.turn.prepare()
        self._users += 1
        with self._lock:
            self._targets[target.route] = target
            if self._drainer is not None:
                self._drainer.line.add(target)

    def _register(self, target: Target) -> None:
        try:
            self.store.register(target)
        except SpoolDamagedError:
            self.store.register(target)  # it was salvaged, or is now

    def append(self, target: Target, batch: Batch) -> bool:
        """Append a batch to the inbox, and say whether it is spooled.

        What the file refuses for now is held in memory. What finds no room there either is counted
        as refused, and said.
        """
        now = time.time()
        try:
            if batch.spans == 1:
                return self._append(target, batch, now)
            spooled = [self._append(target, one, now) for one in self._divided(batch)]
            return all(spooled)
        finally:
            if not self._is_running:
                self._run()

    def _divided(self, batch: Batch) -> list[Batch]:
        # Several spans come from a processor's thread: there it costs the application nothing.
        is_gzip = self._settings.is_gzip
        return [merge([one], compress=is_gzip) for one in pieces(batch, ROW_BYTES)]

    def _append(self, target: Target, batch: Batch, now: float) -> bool:
        try:
            self.store.accept(target, batch, now)
        except SpoolUnsyncedError as error:
            self._unsynced.say(error)
            return False
        except SpoolError as error:
            is_full = isinstance(error, SpoolFullError)
            self.overflow.has_moved = self.overflow.has_moved and is_full
            if is_full or not self._hold(target, batch, now, error):
                self._refusal.say(error)
                self.store.refuse(batch.spans)
            return False
        self.overflow.has_moved = True
        return True

    def _hold(self, target: Target, batch: Batch, now: float, reason: object) -> bool:
        if not self.overflow.add(target, batch, now):
            return False
        self._holding.say(reason)
        self.store.database.written.set()
        return True

    def ledger(self) -> Ledger:
        """Give the totals, with what this process holds in memory. Raises SpoolFileError."""
        return replace(self.store.ledger(), in_memory=self.overflow.spans)

    def flush(self, target: Target, timeout: float) -> bool:
        """Wait until all that was appended for a target before now is settled; say whether it is.

        Gives up at once where nobody could settle it soon: a route in trouble, or no drainer
        anywhere. Raises SpoolError.
        """
        deadline = time.monotonic() + timeout
        mark, last_id = self.store.inbox.mark(), None
        while last_id is None or not self.store.is_settled(last_id):
            if last_id is None:
                self._take_in(max(0.0, deadline - time.monotonic()))
                if self.store.inbox.is_past(mark):
                    last_id = self.store.last_id(target.route)
                    continue
            if self._is_hopeless(target) or time.monotonic() >= deadline:
                return False
            if self._drainer is not None:
                self._drainer.wake()
            time.sleep(_POLL)
        return True

    def _take_in(self, timeout: float) -> None:
        intake.take_in(self.store, compress=self._settings.is_gzip, timeout=timeout)

    def _is_hopeless(self, target: Target) -> bool:
        routes = self.store.routes()
        return any(r.name == target.route and r.attempts for r in routes) or not (
            self._drainer is not None or self.store.drainer()[0]
        )

    def release(self) -> None:
        """Take a user off; the last one ends the threads and closes the file. Raises SpoolError."""
        with _open_lock:
            self._users -= 1
            if self._users:
                return
            _open_spools.pop(self.path, None)
        self._stop()

    def _run(self) -> None:
        with self._lock:
            if self._is_running or _is_exiting():
                return
            self._is_running = True
            keeper = Keeper(self.store, self._settings, self.overflow)
            drainer = Drainer(self.store, self._settings, self.overflow)
            for target in self._targets.values():
                drainer.line.add(target)
            try:
                if self._keeper is None:
                    keeper.start()
                    self._keeper = keeper
                if self._settings.drain:
                    drainer.start()
                    self._drainer = drainer
            except (
                RuntimeError
            ) as error:  # no more threads are to be had: the next span tries again
                self._is_running = False
                self._complaint.say(error)

    def _stop(self) -> None:
        with self._lock:
            drainer, keeper, overflow = self._drainer, self._keeper, self.overflow
            self._start_over()
        try:
            if drainer is not None:
                self._finish(drainer)
        finally:
            if keeper is not None:
                keeper.stop(_STOP_SECONDS)
            try:
                Keeper(self.store, self._settings, overflow).save(is_last=True)
            except SpoolError as error:
                if lost := overflow.unsent_spans:
                    logger.error("langfuse-spool: %d spans are lost: %s", lost, error)
                    self.store.refuse(lost)
                    with contextlib.suppress(SpoolError):  # it has been said
                        self.store.count_refused(time.time())
            self.store.close()

    def _finish(self, drainer: Drainer) -> None:
        """Let the drainer send what there is, while its endpoint is well."""
        deadline = time.monotonic() + self._settings.shutdown_seconds
        mark: list[tuple[File, int]] = []
        try:
            with contextlib.suppress(SpoolError):  # as in `_is_taken_in`
                mark = self.store.inbox.mark()
            while True:
                is_done = self._is_taken_in(mark) and not drainer.has_prospects()
                if is_done or time.monotonic() >= deadline:
                    return
                drainer.wake()
                time.sleep(_POLL)
        finally:
            drainer.stop(_STOP_SECONDS)

    def _is_taken_in(self, mark: list[tuple[File, int]]) -> bool:
        """Move what is in the inbox; say whether all up to a mark has left it, or cannot."""
        try:
            self._take_in(BRIEFLY)
        except SpoolError:  # what is not moved is safe in the inbox
            return True
        return self.store.inbox.is_past(mark)


def _is_exiting() -> bool:
    """Say whether the interpreter is past its threads' end: then none can be started."""
    return not threading.main_thread().is_alive()


def _start_over_in_child() -> None:
    global _open_lock  # noqa: PLW0603 - the parent may have held it
    _open_lock = threading.RLock()
    for spool in _open_spools.values():
        spool._start_over()  # noqa: SLF001 - this module's own class


os.register_at_fork(after_in_child=_start_over_in_child)
