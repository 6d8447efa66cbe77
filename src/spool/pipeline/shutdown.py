"""The shutdown: what is still sent, saved and counted when a process ends its use of a spool.

Invariants:

- It waits only for what could still go out, and at most `shutdown_seconds` in all. Whatever is
  pending then stays in the file.
- Where no drainer runs (the program was that short, or no thread can be started any more) the
  thread that ends sends by itself.
- What only memory holds has no other chance: it gets one last request, even on a route in trouble.
  Then it is counted as refused.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Final

from spool.delivery.drainer import Drainer
from spool.delivery.http.classification import Verdict
from spool.delivery.instrumentation import hidden_from_instrumentation
from spool.errors import SpoolError
from spool.pipeline.observation import observed
from spool.store import ingest
from spool.store.maintenance import Maintenance
from spool.system.locks import BRIEFLY
from spool.system.log import logger

if TYPE_CHECKING:
    from spool.journal.file import File
    from spool.journal.overflow import Overflow
    from spool.pipeline.threads import Threads
    from spool.settings.known_targets import KnownTargets
    from spool.settings.settings import Settings
    from spool.settings.target import Target
    from spool.store.records import Route
    from spool.store.store import Store

POLL_SECONDS: Final = 0.01
# So long an exit waits for a thread that has other things to do.
STOP_SECONDS: Final = 0.05


class Shutdown:
    """The end of one store's use in this process; `overflow` is what its memory holds."""

    def __init__(
        self, store: Store, settings: Settings, overflow: Overflow, targets: KnownTargets
    ) -> None:
        self._store = store
        self._settings = settings
        self._overflow = overflow
        self._maintenance = Maintenance(store, settings, overflow)
        self._drainer = Drainer(store, settings, overflow, targets=targets)
        self._end = time.monotonic() + settings.shutdown_seconds

    def run(self, threads: Threads) -> None:
        """Send what can be, stop the threads, and save the rest. Raises SpoolError."""
        try:
            self._send_what_can_go(threads.drainer)
        finally:
            threads.stop(STOP_SECONDS)
            self._save()

    def _send_what_can_go(self, running: Drainer | None) -> None:
        """Let go out what can: by the drainer that runs, or by this thread."""
        with contextlib.suppress(SpoolError):  # what the file refuses is sent from memory
            self._maintenance.write_down(BRIEFLY)
        if running is not None:
            self._wait_for(running)
        elif self._settings.drain:
            with hidden_from_instrumentation():
                self._send_rows()

    def _save(self) -> None:
        """Write and sync what can be; send once more what cannot, and count what is lost."""
        self._overflow.give_back_all()
        try:
            self._maintenance.save(is_last=True)
        except SpoolError as error:
            if self._overflow.unsent_spans and self._settings.drain:
                with hidden_from_instrumentation():
                    self._send_last()
            if lost := self._overflow.unsent_spans:
                logger.error("langfuse-spool: %d spans are lost: %s", lost, error)
                self._store.refuse(lost, error)
                observed.refuse(self._store, lost, error)
            with contextlib.suppress(SpoolError):  # it has been said
                self._maintenance.write_down(BRIEFLY)

    # By the drainer that runs

    def _wait_for(self, drainer: Drainer) -> None:
        mark: list[tuple[File, int]] = []
        with contextlib.suppress(SpoolError):  # as in `_is_moved`
            mark = self._store.journal.mark()
        while self._left() > 0:
            if self._is_moved(mark) and not drainer.has_prospects():
                return
            drainer.wake()
            time.sleep(POLL_SECONDS)

    def _is_moved(self, mark: list[tuple[File, int]]) -> bool:
        """Move what is in the journal; say whether all up to a mark has left it, or cannot."""
        try:
            ingest.ingest(self._store, compress=self._settings.is_gzip, timeout=BRIEFLY)
        except SpoolError:  # what is not moved is safe in the journal
            return True
        return self._store.journal.is_past(mark)

    # By this thread

    def _send_rows(self) -> None:
        self._is_moved([])
        while self._left() > 0:
            sent = [self._send(route, target) for route, target in self._drainer.due()]
            if not any(sent):
                return

    def _send(self, route: Route, target: Target) -> bool:
        """Send one request of a route; say whether there may be more, of whoever sends it now."""
        lock = self._store.lock_of(route)
        with lock.take(self._settings.timeout_seconds, POLL_SECONDS) as is_had:
            if not is_had:
                return True
            verdict = self._drainer.row_delivery.send(route.id, target, self._left())
        return verdict in (Verdict.DELIVERED, Verdict.SPLIT)

    def _send_last(self) -> None:
        routes = self._overflow.routes()
        for number, target in enumerate(routes):
            end = time.monotonic() + self._left() / (len(routes) - number)
            while (left := end - time.monotonic()) > 0:
                if not self._drainer.overflow_delivery.send_to(target, left):
                    break

    def _left(self) -> float:
        return self._end - time.monotonic()
