"""The drainer: when and whose spans are sent; how is `delivery`'s and `straight`'s.

Invariants:

- Only the holder of the turn of a route's lane sends it, so a take is a plain read of the oldest
  rows. Routes in trouble are sent by a thread of their own, which ends when none is due.
- Nothing makes it give up: spans leave by delivery, or one by one as dead letters.
- Between two requests of rows goes one straight from the journal: fresh spans wait for no backlog.
- While nothing is to be done only the states of files are looked at, and that rarely.
- While a route cannot be sent there is time to pack its rows; never those that are suspects, or
  delivered and not settled.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from typing import TYPE_CHECKING, Final, TypeVar

from opentelemetry import context

from spool.delivery.client import Client
from spool.delivery.file_watch import FileWatch
from spool.delivery.http.classification import Verdict
from spool.delivery.journal_delivery import JournalDelivery
from spool.delivery.lane import Lane
from spool.delivery.routes import Routes
from spool.delivery.row_delivery import RowDelivery
from spool.errors import SpoolError
from spool.otlp.batch import ROW_BYTES
from spool.store.takeover import Takeover
from spool.system.background_thread import BackgroundThread
from spool.system.event import SignalSafeEvent
from spool.system.log import LimitedWarnings, logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from spool.journal.file import File
    from spool.journal.overflow import Overflow
    from spool.settings.known_targets import KnownTargets
    from spool.settings.settings import Settings
    from spool.settings.target import Target
    from spool.store.records import Route
    from spool.store.store import Store

_Result = TypeVar("_Result")

# How often a drainer looks: so long a span waits at most before it is sent, in company.
TICK: Final = 0.5
# So often it does when nothing has come for a while: then somebody else's may wait longer.
_LONGEST_PAUSE: Final = 2.0
_ROWS_BETWEEN_PACKS: Final = 64
# Packing takes at most one part of the time in so many.
_PACK_SHARE: Final = 4


class Drainer(BackgroundThread):
    """Sends what waits in one store; `routes` knows to whom."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        overflow: Overflow | None = None,
        *,
        targets: KnownTargets | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__("spool-drainer")
        self.store = store
        self.settings = settings
        self.client = Client(settings, clock)
        self.routes = Routes(store, settings, self.client, clock, targets)
        self.delivery = RowDelivery(store, settings, self.routes, self.client)
        self._journal_delivery = JournalDelivery(store, settings, self.routes, self.client)
        self._overflow = overflow
        self._unpacked: dict[str, int] = {}
        sends = self.routes, self.client, self._send
        self._well = Lane(store.drain_lock, *sends, is_troubled=False)
        self._troubled = Lane(store.probe_lock, *sends, is_troubled=True)
        self._takeover = Takeover(store, settings)
        self._watch = FileWatch(store, self.routes)
        self._warnings = LimitedWarnings()
        self._idle: tuple[dict[str, float], list[tuple[File, int]]] | None = None
        self._awake = SignalSafeEvent()
        self._prober: threading.Thread | None = None

    # The thread

    def wake(self) -> None:
        """Look at once whether there is something to send."""
        self._awake.set()
        self.store.come.set()

    def has_prospects(self) -> bool:
        """Say whether spans wait that could go out now: not for a route in trouble.

        One that was in trouble before this drainer has tried it may be well by now.
        """
        held = self._overflow.routes() if self._overflow is not None else ()
        return (
            self.store.journal.is_claimed()
            or any(not self.routes.is_in_trouble(target.route) for target in held)
            or any(
                not self.delivery.has_unsettled(route.name)
                and (not route.attempts or not self.routes.has_failed(route.name))
                for route, _ in self.due()
            )
        )

    def due(self) -> list[tuple[Route, Target]]:
        """Give the routes that have something to send now, and their targets. Raises SpoolError."""
        return [
            (route, target)
            for route in self.store.waiting()
            if (target := self._sendable(route)) is not None
        ]

    def run(self) -> None:
        """Send what comes, until it is stopping."""
        with hidden_from_instrumentation(), self.store.present():
            while not self.stopping.is_set():
                self._awake.clear()
                self.store.come.clear()
                self._watch.begin()
                if not self._safely(self._send_somehow, otherwise=False):
                    self._rest()
        self._journal_delivery.stop()
        self.client.connections.close()

    def _rest(self) -> None:
        """Pack, or sleep until there may be something to do."""
        if pause := self._safely(self._pack, otherwise=0.0):
            self._awake.wait(pause)
            return
        self._watch.rest(self._safely(self._next_due, otherwise=0.0))
        pause = TICK
        while not self.store.come.wait(pause):
            self.client.connections.close_unusable()
            self._safely(self._look_around, otherwise=None)
            if self._watch.is_over():
                return
            pause = min(2 * pause, _LONGEST_PAUSE)
        self._awake.wait(TICK)  # what comes now goes in company

    def _next_due(self) -> float:
        """Tell in how many seconds there is something to do, if nothing changes."""
        is_something_left = (
            bool(self._overflow)
            or self._journal_delivery.is_unsettled
            or self._well.has_missed
            or self._troubled.has_missed
            or self._is_probing()
        )
        waiting = self.store.waiting()
        if is_something_left or any(self._sendable(route) is not None for route in waiting):
            return 0.0
        return min(self.routes.next_due(waiting), self.delivery.next_due())

    # Beside it: the routes in trouble

    def _start_probe(self, due: list[tuple[Route, Target]]) -> None:
        """Let routes in trouble that are due be sent, beside those that are well."""
        if self._is_probing() or not self._troubled.mine(due):
            return
        self._prober = threading.Thread(
            target=self._probe, args=(due,), name="spool-prober", daemon=True
        )
        try:
            self._prober.start()
        except RuntimeError:  # no more threads are to be had: they are sent here
            self._prober = None
            self._troubled.send(due)

    def _probe(self, due: list[tuple[Route, Target]]) -> None:
        is_more = True
        with hidden_from_instrumentation():
            while is_more and not self.stopping.is_set():
                is_more = self._safely(functools.partial(self._troubled.send, due), otherwise=False)
                due = self._safely(self.due, otherwise=[])
        self.store.probe_lock.close()
        self.wake()
        if self.stopping.is_set():
            self.client.connections.close()

    def _is_probing(self) -> bool:
        return self._prober is not None and self._prober.is_alive()

    def _safely(self, work: Callable[[], _Result], *, otherwise: _Result) -> _Result:
        try:
            return work()
        except SpoolError as error:
            self._warnings.warn("the spool file", error)
        except Exception:  # noqa: BLE001 - a drainer that died would be a silent stall
            logger.exception("langfuse-spool: a defect in the drainer; it goes on")
        return otherwise

    def _pack(self) -> float:
        """Pack once, if there is something to pack; give the seconds to rest after it, or 0."""
        started = time.monotonic()
        is_packed = self.pack_idle()
        return (time.monotonic() - started) * (_PACK_SHARE - 1) if is_packed else 0.0

    def _send_somehow(self) -> bool:
        try:
            self._look_around()
            due = self.due()
            self._start_probe(due)
            is_more = self._send_well(due)
        except SpoolError as error:
            self._warnings.warn("the spool file", error)
            return self._send_overflow()
        # It can be read, but takes nothing.
        is_refusing = self._overflow is not None and not self._overflow.has_moved
        return (is_refusing and self._send_overflow()) or is_more

    # One pass

    def send_due(self) -> bool:
        """Send one request of every route that is due; say whether there may be more at once.

        Raises SpoolError when the file does not do its part.
        """
        self._look_around()
        due = self.due()
        is_more = self._send_well(due)
        return self._troubled.send(due) or is_more

    def _send(self, route_id: int, target: Target, timeout: float) -> Verdict | None:
        self._unpacked.pop(target.route, None)
        return self.delivery.send(route_id, target, timeout)

    def _send_well(self, due: list[tuple[Route, Target]]) -> bool:
        is_more = self._well.send(due)
        return self._journal_delivery.send() or is_more

    def _look_around(self) -> None:
        self._takeover.look()
        self._forget_targets()

    def _forget_targets(self) -> None:
        """Forget targets that calls brought, when nothing of them can wait any more."""
        if self._idle is None:
            idle = self.routes.targets.idle()
            self._idle = (idle, self.store.journal.mark()) if idle else None
            return
        idle, mark = self._idle
        if self.store.journal.is_past(mark):
            pending = {route.name for route in self.store.waiting()}
            held = self._overflow.routes() if self._overflow is not None else ()
            self.routes.targets.forget(idle, pending.union(target.route for target in held))
            self._idle = None

    def pack_idle(self) -> bool:
        """Pack some rows of a route that cannot be sent now; say whether there may be more at once.

        Raises SpoolError.
        """
        return any(
            self._pack_in_turn(route)
            for route in self.store.waiting()
            if route.pending_batches > self._unpacked.get(route.name, 1)
            and self._sendable(route) is None
            and not self.delivery.is_searching(route)
            and not self.delivery.has_unsettled(route.name)
        )

    def _pack_in_turn(self, route: Route) -> bool:
        max_bytes = min(ROW_BYTES, self.settings.max_request_bytes)
        lock = self.store.lock_of(route)
        with lock.take(self.client.timeout) as is_had:
            fresh = self.store.route(route.id) if is_had else None
            if fresh is None or self.store.lock_of(fresh) is not lock:
                return False
            is_packed = self.store.pack(route.id, max_bytes)
        if not is_packed:
            # All that is not packed is read for this: not again before there is somewhat more.
            self._unpacked[route.name] = route.pending_batches + _ROWS_BETWEEN_PACKS
        return is_packed

    def _sendable(self, route: Route) -> Target | None:
        """Give the target of a route that has something to send, now; None otherwise."""
        if not route.pending_spans or self.routes.is_in_trouble(route.name):
            return None
        target = self.routes.target_of(route)
        return target if target is not None and self.routes.is_due(route, target) else None

    # From memory

    def _send_overflow(self) -> bool:
        """Send one request of every route from the overflow: the file does not do its part."""
        if self._overflow is None:
            return False
        sent = [
            self.send_held(self._overflow, target, self.client.timeout)
            for target in self._overflow.routes()
            if not self.routes.is_in_trouble(target.route)
        ]
        return any(sent)

    def send_held(self, overflow: Overflow, target: Target, timeout: float) -> bool:
        """Send one request of what memory holds for a target, within `timeout` seconds.

        Say whether it was delivered. A route in trouble is tried, too.
        """
        held = overflow.take(target.route, self.client.request_size(target.route).bytes)
        if not held:
            return False
        batches = [one.batch for one in held]
        is_delivered = False
        try:
            outcome = self.client.post(target, batches, timeout)
            is_delivered = outcome.verdict is Verdict.DELIVERED and not outcome.rejected
        finally:
            if not is_delivered:
                overflow.give_back(held)
                self.store.database.written.set()  # for maintenance
        if not is_delivered:
            # Splitting and dead letters need the file: these wait for it.
            self.routes.wait_without_file(target.route, outcome)
            return False
        overflow.deliver(held)
        self.routes.count(target.route, sum(batch.spans for batch in batches), 0, "")
        return True


@contextlib.contextmanager
def hidden_from_instrumentation() -> Iterator[None]:
    """Keep this thread's HTTP calls out of the traces that they carry."""
    suppressed = context.set_value("suppress_instrumentation", True)
    suppressed = context.set_value("suppress_http_instrumentation", True, suppressed)
    token = context.attach(suppressed)
    try:
        yield
    finally:
        context.detach(token)
