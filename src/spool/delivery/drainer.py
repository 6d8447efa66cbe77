"""The drainer: whose spans are sent, and when. How is the business of the three deliveries.

Invariants:

- Only the holder of the drain lock of a route's lane sends it, so a take is a plain read of the
  oldest rows. Routes in trouble are sent by a thread of their own, which ends when none is due.
- Nothing makes it give up: spans leave by delivery, or one by one as dead letters.
- Once it is stopping it begins no request of rows: whose answer nobody sees is sent again.
- Between two requests of rows goes one from the journal: fresh spans wait for no backlog.
- While nothing is to be done only the states of files are looked at, and that rarely.
- While a route cannot be sent there is time to pack its rows; never those that are suspects, or
  delivered and not settled.
"""

from __future__ import annotations

import functools
import threading
import time
from typing import TYPE_CHECKING, Final

from spool.delivery.client import Client
from spool.delivery.file_watch import FileWatch
from spool.delivery.instrumentation import hidden_from_instrumentation
from spool.delivery.journal_delivery import JournalDelivery
from spool.delivery.lane import Lane
from spool.delivery.overflow_delivery import OverflowDelivery
from spool.delivery.packing import Packer
from spool.delivery.routes import Routes
from spool.delivery.row_delivery import RowDelivery
from spool.errors import SpoolError
from spool.journal.overflow import Overflow
from spool.store.drainers import Presence
from spool.store.takeover import Takeover
from spool.system.background_thread import BackgroundThread
from spool.system.event import SignalSafeEvent

if TYPE_CHECKING:
    from collections.abc import Callable

    from spool.delivery.http.classification import Verdict
    from spool.journal.file import File
    from spool.settings.known_targets import KnownTargets
    from spool.settings.settings import Settings
    from spool.settings.target import Target
    from spool.store.records import Route
    from spool.store.store import Store

# How often a drainer looks: so long a span waits at most before it is sent, in company.
TICK: Final = 0.5
# So often it does when nothing has come for a while: then somebody else's may wait longer.
_LONGEST_PAUSE: Final = 2.0
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
        super().__init__("spool-drainer", "the spool file")
        self.store = store
        self.settings = settings
        self.presence = Presence(store, settings.timeout_seconds)
        self.client = Client(settings, clock)
        self.routes = Routes(store, settings, self.client, clock, targets)
        self.row_delivery = RowDelivery(store, settings, self.routes, self.client)
        self._journal_delivery = JournalDelivery(store, settings, self.routes, self.client)
        self._overflow = Overflow() if overflow is None else overflow
        self.overflow_delivery = OverflowDelivery(store, self._overflow, self.routes, self.client)
        self._packer = Packer(store, settings)
        sends = self.routes, self.client, self._send
        self._well = Lane(store.drain_lock, *sends, is_troubled=False)
        self._troubled = Lane(store.probe_lock, *sends, is_troubled=True)
        self._takeover = Takeover(store, settings)
        self._watch = FileWatch(store, self.routes)
        self._idle: tuple[dict[str, float], list[tuple[File, int]]] | None = None
        self._awake = SignalSafeEvent()
        self._prober: threading.Thread | None = None

    # The thread

    def wake(self) -> None:
        """Look at once whether there is something to send."""
        self._awake.set()
        self.store.come.set()

    def stop(self, timeout: float) -> None:
        """End after the requests in hand; wait `timeout` seconds for that."""
        end = time.monotonic() + timeout
        super().stop(timeout)
        if self._prober is not None and self._prober.is_alive():
            self._prober.join(max(0.0, end - time.monotonic()))
        self.presence.end()  # whether that sufficed or not

    def has_prospects(self) -> bool:
        """Say whether spans wait that could go out now: not for a route in trouble.

        One that was in trouble before this drainer has tried it may be well by now.
        """
        held = self._overflow.routes()
        return (
            self.store.journal.is_claimed()
            or any(not self.routes.has_unwritten_wait(target.route) for target in held)
            or any(
                not self.row_delivery.has_unsettled(route.name)
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
        with hidden_from_instrumentation(), self.presence.shown():
            while not self.stopping.is_set():
                self.safely(self.show, otherwise=None)
                self._awake.clear()
                self.store.come.clear()
                self._watch.begin()
                if not self.safely(self._send_somehow, otherwise=False):
                    self._rest()
        self._journal_delivery.stop()
        self.client.connections.close()

    def show(self) -> None:
        """Let others see which routes can be sent from here. Raises SpoolError."""
        self.presence.tell(self.routes.sendable(self.store.waiting()))

    def _rest(self) -> None:
        """Pack, or sleep until there may be something to do."""
        if pause := self.safely(self._pack, otherwise=0.0):
            self._awake.wait(pause)
            return
        self._watch.rest(self.safely(self._next_due, otherwise=0.0))
        pause = TICK
        while not self.store.come.wait(pause):
            self.client.connections.close_unusable()
            self.presence.move()
            self.safely(self._look_around, otherwise=None)
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
        return min(self.routes.next_due(waiting), self.row_delivery.next_due())

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
                is_more = self.safely(functools.partial(self._troubled.send, due), otherwise=False)
                due = self.safely(self.due, otherwise=[])
        self.store.probe_lock.close()
        self.wake()
        if self.stopping.is_set():
            self.client.connections.close()

    def _is_probing(self) -> bool:
        return self._prober is not None and self._prober.is_alive()

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
            self.warning.warn(error)
            return self.overflow_delivery.send()
        # It can be read, but takes nothing.
        is_refusing = not self._overflow.has_moved
        return (is_refusing and self.overflow_delivery.send()) or is_more

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
        if self.stopping.is_set():  # nobody might see its answer
            return None
        self._packer.look_again(target.route)
        self.presence.move()
        return self.row_delivery.send(route_id, target, timeout)

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
            held = self._overflow.routes()
            self.routes.targets.forget(idle, pending.union(target.route for target in held))
            self._idle = None

    def pack_idle(self) -> bool:
        """Pack some rows of a route that cannot be sent now; say whether there may be more at once.

        Raises SpoolError.
        """
        return any(
            self._packer.pack(route)
            for route in self.store.waiting()
            if self._packer.is_worthwhile(route)
            and self._sendable(route) is None
            and not self.row_delivery.is_searching(route)
            and not self.row_delivery.has_unsettled(route.name)
        )

    def _sendable(self, route: Route) -> Target | None:
        """Give the target of a route that has something to send, now; None otherwise."""
        if not route.pending_spans or self.routes.has_unwritten_wait(route.name):
            return None
        target = self.routes.target_of(route)
        return target if target is not None and self.routes.is_due(route, target) else None
