"""The drainer: store (oldest) → line (one POST) → settle, wait, hold, split or bury.

Invariants:

- Only the holder of the turn sends, for one request; then others get theirs. So a take is a plain
  read of the oldest rows, and a process that alone has a route's secret gets its turn.
- Nothing makes it give up: spans leave by delivery, or one by one as dead letters.
- What was delivered and cannot be settled, because the file refuses, is remembered and not sent
  again.
- Rows go before what is sent straight from the inbox.
- While a route cannot be sent there is time to pack its rows; never those that are suspects, or
  delivered and not settled.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from opentelemetry import context

from spool import intake
from spool.complaint import Complaints, logger
from spool.errors import SpoolError
from spool.line import Line, backoff
from spool.lock import BRIEFLY
from spool.otlp import ROW_BYTES
from spool.pace import Suspect
from spool.sender import Outcome, Verdict
from spool.straight import Straight
from spool.wake import Wake

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from spool.inbox import File
    from spool.overflow import Overflow
    from spool.records import Route, Take
    from spool.settings import Settings, Target
    from spool.store import Store
    from spool.targets import Targets

_Result = TypeVar("_Result")

# How often a drainer looks: so long a span waits at most before it is sent, in company.
TICK: Final = 0.5
_ROWS_BETWEEN_PACKS: Final = 64
# Packing takes at most one part of the time in so many.
_PACK_SHARE: Final = 4


@dataclass(frozen=True, slots=True)
class _Miss:
    """A route's turn that was not to be had, while the last request of anybody's was the same.

    `since` is monotonic time.
    """

    sent: tuple[float | None, int]
    since: float

    def is_old(self) -> bool:
        """Say whether nobody seems to send the route."""
        return time.monotonic() - self.since > TICK


class Drainer:
    """Sends what waits in one store; `line` knows to whom."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        overflow: Overflow | None = None,
        *,
        targets: Targets | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.settings = settings
        self.line = Line(store, settings, clock, targets)
        self._straight = Straight(store, settings, self.line, clock)
        self._overflow = overflow
        self._clock = clock
        self._unsettled: dict[str, list[tuple[Take, Outcome]]] = {}
        self._suspects: dict[str, Suspect] = {}
        self._unpacked: dict[str, int] = {}
        self._missed: dict[str, _Miss] = {}
        self._complaints = Complaints()
        self._took_over_at = -TICK
        self._idle: tuple[dict[str, float], list[tuple[File, int]]] | None = None
        self._awake = Wake()
        self._stopping = Wake()
        self._thread = threading.Thread(target=self._run, name="spool-drainer", daemon=True)

    # The thread

    def start(self) -> None:
        """Begin to drain in the background. Raises RuntimeError during interpreter exit."""
        self._thread.start()

    def wake(self) -> None:
        """Look at once whether there is something to send."""
        self._awake.set()

    def stop(self, timeout: float) -> None:
        """End after the request in flight; wait `timeout` seconds for that."""
        self._stopping.set()
        self._awake.set()
        self._thread.join(timeout)

    def has_prospects(self) -> bool:
        """Say whether spans wait that could go out now: not for a route in trouble.

        One that was in trouble before this drainer has tried it may be well by now.
        """
        held = self._overflow.routes() if self._overflow is not None else ()
        return (
            self.store.inbox.is_claimed()
            or any(not self.line.is_in_trouble(target.route) for target in held)
            or any(
                not self.has_unsettled(route.name)
                and (not route.attempts or not self.line.has_failed(route.name))
                for route, _ in self.due()
            )
        )

    def due(self) -> list[tuple[Route, Target]]:
        """Give the routes that have something to send now, and their targets. Raises SpoolError."""
        return [
            (route, target)
            for route in self.store.routes()
            if (target := self._sendable(route)) is not None
        ]

    def _run(self) -> None:
        with hidden_from_instrumentation(), self.store.present():
            while not self._stopping.is_set():
                if not self._safely(self._send_somehow, otherwise=False):
                    self._awake.wait(self._safely(self._pack, otherwise=TICK))
                    self._awake.clear()
                    self.line.connections.close_unusable()
        self._straight.stop()
        self.line.connections.close()

    def _safely(self, work: Callable[[], _Result], *, otherwise: _Result) -> _Result:
        try:
            return work()
        except SpoolError as error:
            self._complaints.say("the spool file", error)
        except Exception:  # noqa: BLE001 - a drainer that died would be a silent stall
            logger.exception("langfuse-spool: a defect in the drainer; it goes on")
        return otherwise

    def _pack(self) -> float:
        """Pack once, if there is something to pack; give the seconds to rest after it."""
        started = time.monotonic()
        is_packed = self.pack_idle()
        return (time.monotonic() - started) * (_PACK_SHARE - 1) if is_packed else TICK

    def _send_somehow(self) -> bool:
        try:
            is_more = self.send_due()
        except SpoolError as error:
            self._complaints.say("the spool file", error)
            return self._send_overflow()
        # It can be read, but takes nothing.
        is_refusing = self._overflow is not None and not self._overflow.has_moved
        return (is_refusing and self._send_overflow()) or is_more

    # One pass

    def send_due(self) -> bool:
        """Send one request of every route that is due; say whether there may be more at once.

        Raises SpoolError when the file does not do its part.
        """
        self._take_over()
        missed, self._missed = self._missed, {}
        verdicts = [
            self._send_in_turn(route, target, missed.get(route.name))
            for route, target in self.due()
        ]
        is_more = self._straight.send() or any(miss.is_old() for miss in self._missed.values())
        return is_more or Verdict.DELIVERED in verdicts or Verdict.SPLIT in verdicts

    def _send_in_turn(self, route: Route, target: Target, missed: _Miss | None) -> Verdict | None:
        """Send one request of a route, in its turn; remember the turn that was missed.

        Where nobody else sends the route, it looks for the turn all the time.
        """
        sent = route.last_success_at, route.attempts
        if missed is None or missed.sent != sent:
            missed = _Miss(sent, time.monotonic())
        patience = TICK if missed.is_old() else 0.0
        with self.store.turn.take(self.settings.timeout_seconds, patience) as is_had:
            if is_had:
                return self.send(route.id, target)
        self._missed[route.name] = missed
        return None

    def _take_over(self) -> None:
        """Move what dead processes left, and stopped ones hold."""
        if time.monotonic() - self._took_over_at < TICK:
            return
        self._took_over_at = time.monotonic()
        try:
            self._forget_targets()
            intake.take_in_others(
                self.store,
                compress=self.settings.is_gzip,
                sending=self.settings.timeout_seconds,
                timeout=BRIEFLY,
            )
        except SpoolError as error:  # what is in the file can be sent all the same
            self._complaints.say("inboxes of other processes", error)

    def _forget_targets(self) -> None:
        """Forget targets that calls brought, when nothing of them can wait any more."""
        if self._idle is None:
            idle = self.line.targets.idle()
            self._idle = (idle, self.store.inbox.mark()) if idle else None
            return
        idle, mark = self._idle
        if self.store.inbox.is_past(mark):
            pending = {route.name for route in self.store.routes() if route.pending_spans}
            held = self._overflow.routes() if self._overflow is not None else ()
            self.line.targets.forget(idle, pending.union(target.route for target in held))
            self._idle = None

    def pack_idle(self) -> bool:
        """Pack some rows of a route that cannot be sent now; say whether there may be more at once.

        Raises SpoolError.
        """
        return any(
            self._pack_in_turn(route)
            for route in self.store.routes()
            if route.pending_batches > self._unpacked.get(route.name, 1)
            and self._sendable(route) is None
            and route.name not in self._suspects
            and not self.has_unsettled(route.name)
        )

    def _pack_in_turn(self, route: Route) -> bool:
        max_bytes = min(ROW_BYTES, self.settings.max_request_bytes)
        with self.store.turn.take(self.settings.timeout_seconds) as is_had:
            if not is_had:
                return False
            is_packed = self.store.pack(route.id, max_bytes)
        if not is_packed:
            # All that is not packed is read for this: not again before there is somewhat more.
            self._unpacked[route.name] = route.pending_batches + _ROWS_BETWEEN_PACKS
        return is_packed

    def _sendable(self, route: Route) -> Target | None:
        """Give the target of a route that has something to send, now; None otherwise."""
        if not route.pending_spans or self.line.is_in_trouble(route.name):
            return None
        target = self.line.target_of(route)
        return target if target is not None and self.line.is_due(route, target) else None

    def send(
        self, route_id: int, target: Target, timeout: float = math.inf, *, is_forced: bool = False
    ) -> Verdict | None:
        """Send one request of a route within `timeout` seconds, if it is due, or forced.

        Only for the holder of the turn. None where it is not due, or where nothing waits.
        """
        # Read again: another process may have had the turn, or the file may be another.
        route = self.store.route(route_id)
        if route is None or route.name != target.route:
            return None
        if not is_forced and not self.line.is_due(route, target):
            return None
        return self._send(route, target, timeout)

    def _send(self, route: Route, target: Target, timeout: float) -> Verdict | None:
        unsettled = self._settle_again(route)
        if unsettled and unsettled[-1][0].rest is not None:
            return None
        take = self._next(route, unsettled[-1][0].rows[-1].id if unsettled else 0)
        if take is None:
            return None
        if take.damage:
            self._bury(route, take, take.damage)
            return Verdict.SPLIT
        started = time.monotonic()
        timeout = min(timeout, self.settings.timeout_seconds)
        outcome = self.line.post(target, take.batches, timeout)
        return self._act(route, target, take, outcome, time.monotonic() - started)

    def _next(self, route: Route, after: int) -> Take | None:
        """Take the head of the route, or what stands behind a head that is under suspicion."""
        pace, suspect = self.line.pace(route.name), self._suspects.get(route.name)
        if suspect is None:
            return self._oldest(route, pace.bytes, pace.spans, after)
        is_time = time.monotonic() >= suspect.until
        if suspect.is_gone_around and not (suspect.proofs and is_time):
            behind = max(after, suspect.last_id)
            if (take := self._oldest(route, pace.bytes, pace.spans, behind)) is not None:
                return take
        suspect.is_gone_around = False
        return self._oldest(route, pace.bytes, suspect.spans, after) if is_time else None

    def _oldest(self, route: Route, max_bytes: int, max_spans: int, after: int) -> Take | None:
        return self.store.oldest(route.id, max_bytes=max_bytes, max_spans=max_spans, after=after)

    # What an outcome does

    def _act(
        self, route: Route, target: Target, take: Take, outcome: Outcome, seconds: float
    ) -> Verdict:
        pace = self.line.pace(route.name)
        if outcome.verdict is Verdict.DELIVERED:
            pace.rise(seconds, self.settings.timeout_seconds)
            self._clear(route, take)
            self._settle(route, take, outcome)
        elif outcome.verdict is Verdict.SPLIT:
            pace.split(take.spans)
            if take.spans == 1:
                self._bury(route, take, outcome.reason)
        elif outcome.verdict is Verdict.HOLD:
            self.line.hold(route, target, outcome)
        else:
            if outcome.is_timeout:
                pace.fall(take.raw_bytes)
            return self._suspect(route, take, outcome)
        return outcome.verdict

    def _suspect(self, route: Route, take: Take, outcome: Outcome) -> Verdict:
        """Wait, unless only the head of the route fails: then go around it, and isolate it."""
        suspect = self._suspects.get(route.name)
        if suspect is not None and not suspect.is_gone_around and not suspect.is_of(take):
            suspect = None
            del self._suspects[route.name]
        if suspect is not None and suspect.is_gone_around:  # others fail as well: it is the server
            suspect.proofs, suspect.is_gone_around = 0, False
        elif suspect is not None:
            suspect.narrow(take)
            if suspect.proofs:  # otherwise the whole route waits
                pause = backoff(suspect.failures, *self.settings.backoff_seconds)
                suspect.until = time.monotonic() + pause
        elif route.attempts:
            suspect = self._suspects[route.name] = Suspect(0, 0)
            suspect.narrow(take)
        if suspect is None or not suspect.proofs:
            self.line.wait(route, outcome)
            return Verdict.WAIT
        self._complaints.say(
            f"route {route.name} goes around spans that fail alone", outcome.reason
        )
        if suspect.is_proven:
            self._bury(route, take, outcome.reason)
            del self._suspects[route.name]
        return Verdict.SPLIT

    def _clear(self, route: Route, take: Take) -> None:
        """Note a delivery: it proves that the server is well, or clears the suspect."""
        suspect = self._suspects.get(route.name)
        if suspect is None:
            return
        if suspect.is_gone_around:
            suspect.proofs += 1
        elif take.rows[-1].id >= suspect.last_id and take.rest is None:
            del self._suspects[route.name]
        else:
            suspect.failures = 0

    def _settle(self, route: Route, take: Take, outcome: Outcome) -> None:
        self._unpacked.pop(route.name, None)
        self.line.count(route.name, take.spans, min(outcome.rejected, take.spans), outcome.reason)
        self._unsettled.setdefault(route.name, []).append((take, outcome))
        self._settle_again(route)

    def _settle_again(self, route: Route) -> list[tuple[Take, Outcome]]:
        """Settle what was delivered; give what the file refuses to settle still."""
        unsettled = self._unsettled.get(route.name, [])
        try:
            while unsettled:
                take, outcome = unsettled[0]
                self.store.settle(take, self._clock(), dead=outcome.rejected, reason=outcome.reason)
                del unsettled[0]
        except SpoolError as error:
            self._complaints.say(f"route {route.name}: delivered, but not settled", error)
            take, outcome = unsettled[-1]
            if not outcome.rejected:
                unsettled[-1] = (take.without_payloads(), outcome)
        return unsettled

    def has_unsettled(self, route: str) -> bool:
        """Say whether spans of a route were delivered, and the file refuses to settle that."""
        return bool(self._unsettled.get(route))

    def _bury(self, route: Route, take: Take, reason: str) -> None:
        self._settle(route, take, Outcome(Verdict.SPLIT, reason, rejected=take.spans))

    # From memory

    def _send_overflow(self) -> bool:
        """Send one request of every route from the overflow: the file does not do its part."""
        if self._overflow is None:
            return False
        sent = [
            self.send_held(self._overflow, target, self.settings.timeout_seconds)
            for target in self._overflow.routes()
            if not self.line.is_in_trouble(target.route)
        ]
        return any(sent)

    def send_held(self, overflow: Overflow, target: Target, timeout: float) -> bool:
        """Send one request of what memory holds for a target, within `timeout` seconds.

        Say whether it was delivered. A route in trouble is tried, too.
        """
        held = overflow.take(target.route, self.line.pace(target.route).bytes)
        if not held:
            return False
        batches = [one.batch for one in held]
        is_delivered = False
        try:
            outcome = self.line.post(target, batches, timeout)
            is_delivered = outcome.verdict is Verdict.DELIVERED and not outcome.rejected
        finally:
            if not is_delivered:
                overflow.give_back(held)
                self.store.database.written.set()  # for the keeper
        if not is_delivered:
            # Splitting and dead letters need the file: these wait for it.
            self.line.wait_without_file(target.route, outcome)
            return False
        overflow.deliver(held)
        self.line.count(target.route, sum(batch.spans for batch in batches), 0, "")
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
