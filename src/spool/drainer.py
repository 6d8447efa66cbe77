"""The drainer: store (oldest) → sender (one POST) → settle, wait, hold, split or bury.

While a route is well and nothing older waits, what comes is sent straight from the inbox, and never
becomes a row.

Invariants:

- Only the holder of the turn sends, for one request; then others get theirs. So a claim is a plain
  read of the oldest rows, and a process that alone has a route's secret gets its turn.
- A process sends only routes whose secret it has.
- Nothing makes it give up: spans leave by delivery, or one by one as dead letters.
- All that must outlive the process (attempts, waits, holds) is in the store. The pace, here, is
  found again within a few requests.
- What was delivered and cannot be settled, because the file refuses, is remembered and not sent
  again. What was sent from the inbox is claimed until then: this process makes no rows of it.
- While a route cannot be sent there is time to pack its rows; never those that are suspects, or
  delivered and not settled.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeVar

from opentelemetry import context

from spool import intake
from spool.complaint import Complaint, logger
from spool.errors import PayloadError, SettingsError, SpoolBusyError, SpoolError
from spool.frames import CHUNK, identity_of
from spool.lock import BRIEFLY
from spool.otlp import ROW_BYTES, join
from spool.pace import Pace, Suspect
from spool.sender import Outcome, Sender, Verdict
from spool.settings import Target, read_credentials, without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from spool.intake import Claim
    from spool.otlp import Batch
    from spool.overflow import Overflow
    from spool.records import Route, Take
    from spool.settings import Settings
    from spool.store import Store

_Result = TypeVar("_Result")

# How often a drainer looks: so long a span waits at most before it is sent, in company.
TICK: Final = 0.5
# So long after it has sent from the inbox the keeper leaves what comes to it, unless it is much.
_SERVED_SECONDS: Final = 4 * TICK
_ROOM_FOR_CLAIMS: Final = 32 << 20
# Langfuse caches an unknown key for 300 s, and every request with it renews that.
HOLD_SECONDS: Final = 330.0

_SECONDS_BETWEEN_PAUSES: Final = 0.25
_PAUSE: Final = 0.005
_FEW_TRIES: Final = 3
_ROWS_BETWEEN_PACKS: Final = 64
# Packing takes at most one part of the time in so many.
_PACK_SHARE: Final = 4


@dataclass(frozen=True, slots=True)
class _Trouble:
    """A route's wait that the file could not take: `until` is monotonic time."""

    attempts: int
    until: float


@dataclass(slots=True)
class _Errand:
    """One route of a drain by hand: up to which batch, and what is left of its patience."""

    target: Target
    last_id: int
    tries: float
    not_before: float = 0.0


@dataclass(slots=True)
class Tally:
    """What one drainer did: spans delivered, requests sent, spans that became dead letters."""

    delivered: int = 0
    requests: int = 0
    dead: int = 0


class Drainer:
    """Sends what waits in one store, for the targets it was given and the credentials file's."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        overflow: Overflow | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.tally = Tally()
        self._overflow = overflow
        self._store = store
        self._settings = settings
        self._clock = clock
        self._targets: dict[str, Target] = {}
        self._senders: dict[str, Sender] = {}
        self._paces: dict[str, Pace] = {}
        self._unsettled: dict[str, list[tuple[Take, Outcome]]] = {}
        self._unsettled_claim: tuple[Claim, Outcome] | None = None
        self._troubles: dict[str, _Trouble] = {}
        self._suspects: dict[str, Suspect] = {}
        self._unpacked: dict[str, int] = {}
        self._complaints: dict[str, Complaint] = {}
        self._paused_at = 0.0
        self._took_over_at = -TICK
        # What is being sent cannot be moved, nor be evicted: a small spool has no room for that.
        self._is_straight = settings.max_bytes >= _ROOM_FOR_CLAIMS
        self._awake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spool-drainer", daemon=True)

    def add(self, target: Target) -> None:
        """Send this target's route from now on."""
        self._targets = {**self._targets, target.route: target}

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
        """Say whether spans wait that could go out now: not for a route in trouble."""
        return self._store.inbox.is_claimed() or any(
            self.target_of(route) is not None and not route.attempts
            for route in self._store.routes()
            if route.pending_spans
        )

    def _run(self) -> None:
        hide_from_instrumentation()
        with self._store.present():
            while not self._stopping.is_set():
                if not self._safely(self._send_somehow, otherwise=False):
                    self._awake.wait(self._safely(self._pack, otherwise=TICK))
                    self._awake.clear()
        if self._unsettled_claim is not None:
            intake.release(self._store, self._unsettled_claim[0])

    def _safely(self, work: Callable[[], _Result], *, otherwise: _Result) -> _Result:
        try:
            return work()
        except SpoolError as error:
            self._complain("the spool file", error)
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
            if self.send_due():
                return True
        except SpoolError as error:
            self._complain("the spool file", error)
            return self._send_overflow()
        # It can be read, but takes nothing.
        is_refusing = self._overflow is not None and not self._overflow.has_moved
        return is_refusing and self._send_overflow()

    # By hand

    def drain(self, timeout: float | None, progress: Callable[[], None]) -> None:
        """Send what is pending now, ignoring every backoff; a held route is tried once.

        Without a `timeout` (seconds) a route is left alone after a few failures in a row.
        `progress` is called after each request. Raises SpoolError.
        """
        end = math.inf if timeout is None else time.monotonic() + timeout
        is_gzip = self._settings.is_gzip
        sending = self._settings.timeout_seconds
        intake.take_in_all(self._store, compress=is_gzip, sending=sending, end=end)
        tries = _FEW_TRIES if timeout is None else math.inf
        errands = {
            route.id: _Errand(target, self._store.last_id(route.name), tries)
            for route in self._store.routes()
            if (target := self.target_of(route)) is not None
        }
        while errands and (now := time.monotonic()) < end:
            for route_id, errand in list(errands.items()):
                if now >= errand.not_before:
                    self._run_errand(route_id, errand, end)
                    progress()
                if errand.tries <= 0 or self._store.is_settled(errand.last_id):
                    del errands[route_id]
            rest = min((errand.not_before for errand in errands.values()), default=0.0)
            if (seconds := min(rest, end) - time.monotonic()) > 0:
                time.sleep(seconds)

    def _run_errand(self, route_id: int, errand: _Errand, end: float) -> None:
        left = end - time.monotonic()
        verdict = self._send_in_turn(route_id, errand.target, left, is_forced=True)
        if verdict is None:  # another process sends, or the file is another by now
            errand.not_before = time.monotonic() + _PAUSE
            route = self._store.route(route_id)
            if route is None or route.name != errand.target.route:
                errand.tries = 0
        elif verdict is Verdict.HOLD:
            errand.tries = 0
        elif verdict is Verdict.WAIT:
            route = self._store.route(route_id)
            wait = route.wait_seconds if route else 0.0
            # Nobody watches a command that sleeps for long, unless it was told how long.
            errand.tries -= 1 if wait <= self._settings.backoff_seconds[1] else _FEW_TRIES
            errand.not_before = time.monotonic() + wait

    # One pass

    def send_due(self) -> bool:
        """Send one request of every route that is due; say whether there may be more at once.

        Raises SpoolError when the file does not do its part.
        """
        self._take_over()
        verdicts = [
            self._send_in_turn(route.id, target)
            for route in self._store.routes()
            if (target := self._sendable(route)) is not None
        ]
        is_more = self._is_straight and self._send_fresh()
        return is_more or Verdict.DELIVERED in verdicts or Verdict.SPLIT in verdicts

    def _take_over(self) -> None:
        """Move what dead processes left, and stopped ones hold."""
        if time.monotonic() - self._took_over_at < TICK:
            return
        self._took_over_at = time.monotonic()
        try:
            intake.take_in_others(
                self._store,
                compress=self._settings.is_gzip,
                sending=self._settings.timeout_seconds,
                timeout=BRIEFLY,
            )
        except SpoolError as error:  # what is in the file can be sent all the same
            self._complain("inboxes of other processes", error)

    def pack_idle(self) -> bool:
        """Pack some rows of a route that cannot be sent now; say whether there may be more at once.

        Raises SpoolError.
        """
        return any(
            self._pack_in_turn(route)
            for route in self._store.routes()
            if route.pending_batches > self._unpacked.get(route.name, 1)
            and self._sendable(route) is None
            and route.name not in self._suspects
            and not self._unsettled.get(route.name)
        )

    def _pack_in_turn(self, route: Route) -> bool:
        max_bytes = min(ROW_BYTES, self._settings.max_request_bytes)
        with self._store.turn.take(self._settings.timeout_seconds) as is_had:
            if not is_had:
                return False
            is_packed = self._store.pack(route.id, max_bytes)
        if not is_packed:
            # All that is not packed is read for this: not again before there is somewhat more.
            self._unpacked[route.name] = route.pending_batches + _ROWS_BETWEEN_PACKS
        return is_packed

    def _sendable(self, route: Route) -> Target | None:
        """Give the target of a route that has something to send, now; None otherwise."""
        if not route.pending_spans or self._is_in_trouble(route.name):
            return None
        target = self.target_of(route)
        return target if target is not None and self._is_due(route, target) else None

    def target_of(self, route: Route) -> Target | None:
        """Give the target that a route's spans go to; None where its secret is not known."""
        target = self._targets.get(route.name) or self._credentials_target(route)
        if target is None or target.endpoint_named:
            return target
        return replace(target, endpoint=route.endpoint)

    def _credentials_target(self, route: Route) -> Target | None:
        path = self._settings.credentials_file
        if path is None or route.public_key is None:
            return None
        try:
            secret_key = read_credentials(path).get(route.public_key)
        except SettingsError as error:
            self._complain("SPOOL_CREDENTIALS_FILE", error)
            return None
        if not secret_key:
            return None
        return replace(Target.langfuse(route.public_key, secret_key), route=route.name)

    def _is_due(self, route: Route, target: Target) -> bool:
        if route.fingerprints and self._fingerprint(target) not in route.fingerprints:
            return True  # a new secret or a new endpoint: it was not this that was refused
        waited = self._clock() - route.waited_at
        if waited < 0 < route.wait_seconds:  # the clock went back: wait from now on, once
            self._store.restart_wait(route, self._clock())
        return waited >= route.wait_seconds

    def _is_in_trouble(self, route: str) -> bool:
        trouble = self._troubles.get(route)
        return trouble is not None and time.monotonic() < trouble.until

    def _fingerprint(self, target: Target) -> str:
        return target.fingerprint(self._store.salt())

    def _send_in_turn(
        self, route_id: int, target: Target, timeout: float = math.inf, *, is_forced: bool = False
    ) -> Verdict | None:
        """Send one request of a route, if the turn is free; None if not, or if nothing is due."""
        self._pause_for_others()
        with self._store.turn.take(self._settings.timeout_seconds) as is_had:
            # Read again: another process may have had the turn, or the file may be another.
            route = self._store.route(route_id) if is_had else None
            if route is None or route.name != target.route:
                return None
            if not is_forced and not self._is_due(route, target):
                return None
            return self._send(route, target, timeout)

    def _pause_for_others(self) -> None:
        """Leave a gap now and then that another process, which polls for the turn, can see."""
        if time.monotonic() - self._paused_at > _SECONDS_BETWEEN_PAUSES:
            time.sleep(_PAUSE)
            self._paused_at = time.monotonic()

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
        timeout = min(timeout, self._settings.timeout_seconds)
        outcome = self._post(target, take.batches, timeout)
        return self._act(route, target, take, outcome, time.monotonic() - started)

    def _next(self, route: Route, after: int) -> Take | None:
        """Take the head of the route, or what stands behind a head that is under suspicion."""
        pace, suspect = self._pace(route.name), self._suspects.get(route.name)
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
        return self._store.oldest(route.id, max_bytes=max_bytes, max_spans=max_spans, after=after)

    def _pace(self, route: str) -> Pace:
        return self._paces.setdefault(route, Pace(self._settings.max_request_bytes))

    def _post(self, target: Target, batches: Sequence[Batch], timeout: float) -> Outcome:
        try:
            body = join(batches, compress=self._settings.is_gzip)
        except PayloadError as error:
            return Outcome(Verdict.SPLIT, str(error))
        sender = self._senders.get(target.route)
        if sender is None or sender.target != target:
            sender = self._senders[target.route] = Sender(target, self._settings)
        self.tally.requests += 1
        outcome = sender.send(body, timeout)
        logger.debug(
            "langfuse-spool: sent %d spans (%d bytes) to %s: %s %s",
            sum(batch.spans for batch in batches),
            len(body),
            without_secrets(target.endpoint),
            outcome.verdict.value,
            outcome.reason,
        )
        return outcome

    # What an outcome does

    def _act(
        self, route: Route, target: Target, take: Take, outcome: Outcome, seconds: float
    ) -> Verdict:
        pace = self._pace(route.name)
        if outcome.verdict is Verdict.DELIVERED:
            pace.rise(seconds, self._settings.timeout_seconds)
            self._clear(route, take)
            self._settle(route, take, outcome)
        elif outcome.verdict is Verdict.SPLIT:
            pace.split(take.spans)
            if take.spans == 1:
                self._bury(route, take, outcome.reason)
        elif outcome.verdict is Verdict.HOLD:
            self._hold(route, target, outcome)
        else:
            if outcome.is_timeout:
                pace.fall(take.raw_bytes)
            return self._suspect(route, take, outcome)
        return outcome.verdict

    def _suspect(self, route: Route, take: Take, outcome: Outcome) -> Verdict:
        """Wait, unless only the head of the route fails: then go around it, and isolate it."""
        suspect = self._suspects.get(route.name)
        if suspect is not None and suspect.is_gone_around:  # others fail as well: it is the server
            suspect.proofs, suspect.is_gone_around = 0, False
        elif suspect is not None:
            suspect.narrow(take)
            if suspect.proofs:  # otherwise the whole route waits
                pause = backoff(suspect.failures, *self._settings.backoff_seconds)
                suspect.until = time.monotonic() + pause
        elif route.attempts:
            suspect = self._suspects[route.name] = Suspect(0, 0)
            suspect.narrow(take)
        if suspect is None or not suspect.proofs:
            self._wait(route, outcome)
            return Verdict.WAIT
        self._complain(f"route {route.name} goes around spans that fail alone", outcome.reason)
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

    def _hold(self, route: Route, target: Target, outcome: Outcome) -> None:
        self._complain(f"route {route.name} is held", outcome.reason)
        self._put_off(route, outcome, HOLD_SECONDS, self._fingerprint(target))

    def _wait(self, route: Route, outcome: Outcome) -> None:
        delay = self._delay(route.name, route.attempts, outcome)
        self._complain(f"route {route.name} waits", outcome.reason)
        self._put_off(route, outcome, delay)

    def _put_off(
        self, route: Route, outcome: Outcome, delay: float, fingerprint: str | None = None
    ) -> None:
        """Write down when a route's next attempt is due; where the file refuses, remember it."""
        self._remember(route.name, route.attempts, delay)
        now = self._clock()
        if fingerprint is None:
            self._store.wait(route, delay, now, outcome.reason)
        else:
            self._store.hold(route, fingerprint, delay, now, outcome.reason)
        del self._troubles[route.name]

    def _remember(self, route: str, attempts: int, delay: float) -> None:
        known = self._troubles.get(route)
        attempts = max(attempts, known.attempts if known else 0) + 1
        self._troubles[route] = _Trouble(attempts, time.monotonic() + delay)

    def _delay(self, route: str, attempts: int, outcome: Outcome) -> float:
        if outcome.retry_after is not None:
            return max(outcome.retry_after, self._settings.backoff_seconds[0])
        known = self._troubles.get(route)
        attempts = max(attempts, known.attempts if known else 0)
        return backoff(attempts + 1, *self._settings.backoff_seconds)

    def _settle(self, route: Route, take: Take, outcome: Outcome) -> None:
        self._unpacked.pop(route.name, None)
        self._count(route.name, take.spans, min(outcome.rejected, take.spans), outcome.reason)
        self._unsettled.setdefault(route.name, []).append((take, outcome))
        self._settle_again(route)

    def _count(self, route: str, spans: int, dead: int, reason: str) -> None:
        if dead:
            self._complain(f"route {route}: dead letters", reason)
        self._troubles.pop(route, None)
        self.tally.delivered += spans - dead
        self.tally.dead += dead

    def _settle_again(self, route: Route) -> list[tuple[Take, Outcome]]:
        """Settle what was delivered; give what the file refuses to settle still."""
        unsettled = self._unsettled.get(route.name, [])
        try:
            while unsettled:
                take, outcome = unsettled[0]
                self._store.settle(
                    take, self._clock(), dead=outcome.rejected, reason=outcome.reason
                )
                del unsettled[0]
        except SpoolError as error:
            self._complain(f"route {route.name}: delivered, but not settled", error)
            take, outcome = unsettled[-1]
            if not outcome.rejected:
                unsettled[-1] = (take.without_payloads(), outcome)
        return unsettled

    def _bury(self, route: Route, take: Take, reason: str) -> None:
        self._settle(route, take, Outcome(Verdict.SPLIT, reason, rejected=take.spans))

    # Straight from the inbox

    def _send_fresh(self) -> bool:
        """Send the oldest of the inbox, where no rows wait; say whether there may be more at once.

        As long as that works the keeper leaves the inbox to it.
        """
        if self._unsettled_claim is not None:
            self._settle_claim(*self._unsettled_claim)
            return False
        inbox, rest = self._store.inbox, None
        if inbox.unmoved_bytes and self._is_any_well():
            with contextlib.suppress(SpoolBusyError):  # the keeper moves what is there
                rest = self._send_claim_in_turn()
        left = inbox.unmoved_bytes
        if rest is not None or not left:
            inbox.served_until = time.monotonic() + _SERVED_SECONDS
        else:
            inbox.served_until = -math.inf
            self._store.database.written.set()  # for the keeper
        return rest is not None and (rest > 0 or left >= CHUNK)

    def _send_claim_in_turn(self) -> int | None:
        """Claim the oldest of the inbox, and send it; see `_send_claim`."""
        self._pause_for_others()
        with self._store.turn.take(self._settings.timeout_seconds) as is_had:
            claim = intake.claim(self._store, ROW_BYTES) if is_had else None
            return None if claim is None else self._send_claim(claim)

    def _send_claim(self, claim: Claim) -> int | None:
        """Send what of a claim makes one request, and end it.

        Gives how many bytes of it did not fit; None where nothing was delivered and settled.
        """
        sent, outcome = claim, None
        try:
            if (part := self._fresh(claim)) is not None:
                sent, outcome = part[0], self._post_claim(*part)
        finally:
            if outcome is None:
                intake.release(self._store, claim)
        if outcome is None or not self._settle_claim(sent, outcome):
            return None
        return claim.chunk.end - sent.chunk.end

    def _fresh(self, claim: Claim) -> tuple[Claim, Route, Target] | None:
        """Give what of a claim can be sent as one request, with its route as it is now."""
        identity = claim.chunk.identity
        name = None if identity is None else identity_of(identity)[0]
        route = next((known for known in self._store.routes() if known.name == name), None)
        target = self.target_of(route) if route is not None and self._is_well(route) else None
        if route is None or target is None:
            return None
        pace = self._pace(route.name)
        chunk = claim.chunk.head(pace.bytes, pace.spans)
        return None if chunk is None else (replace(claim, chunk=chunk), route, target)

    def _is_any_well(self) -> bool:
        routes = self._store.routes()
        return any(self._is_well(one) and self.target_of(one) is not None for one in routes)

    def _is_well(self, route: Route) -> bool:
        """Say whether a route's last request was delivered, and nothing older waits."""
        return not (
            route.pending_spans
            or route.attempts
            or route.fingerprints
            or route.name in self._suspects
            or self._unsettled.get(route.name)
            or self._is_in_trouble(route.name)
        )

    def _post_claim(self, claim: Claim, route: Route, target: Target) -> Outcome | None:
        """Send what was claimed; give the outcome if it ends the spans' stay."""
        chunk, pace = claim.chunk, self._pace(route.name)
        timeout = self._settings.timeout_seconds
        started = time.monotonic()
        outcome = self._post(target, [frame.batch for frame in chunk.frames], timeout)
        if outcome.verdict is Verdict.DELIVERED:
            pace.rise(time.monotonic() - started, timeout)
            return outcome
        if outcome.verdict is Verdict.SPLIT:
            pace.split(chunk.spans)
            return replace(outcome, rejected=1) if chunk.spans == 1 else None
        if outcome.verdict is Verdict.HOLD:
            self._hold(route, target, outcome)
        else:
            if outcome.is_timeout:
                pace.fall(chunk.raw_bytes)
            self._wait(route, outcome)
        return None

    def _settle_claim(self, claim: Claim, outcome: Outcome) -> bool:
        """Settle what was sent straight from the inbox; say whether that is done."""
        self._unsettled_claim = claim, outcome
        spans, dead = claim.chunk.spans, min(outcome.rejected, claim.chunk.spans)
        try:
            is_ours = self._store.deliver(
                claim.file, claim.chunk, self._clock(), dead=dead, reason=outcome.reason
            )
            # False: another process has taken this one for stopped, and moved it.
            moved = claim.chunk.end if is_ours else self._store.moved(claim.file.path.name)
        except SpoolError as error:
            self._complain("delivered from the inbox, but not settled", error)
            return False
        self._unsettled_claim = None
        intake.release(self._store, claim, moved)
        self._count(identity_of(claim.chunk.frames[0].identity)[0], spans, dead, outcome.reason)
        return True

    # From memory

    def _send_overflow(self) -> bool:
        """Send one request of every route from the overflow: the file does not do its part."""
        if self._overflow is None:
            return False
        sent = [self._send_held(target) for target in self._targets.values()]
        return any(sent)

    def _send_held(self, target: Target) -> bool:
        assert self._overflow is not None  # noqa: S101 - the caller saw to it
        pace = self._pace(target.route)
        held = self._overflow.unsent(target.route, pace.bytes)
        if not held or self._is_in_trouble(target.route):
            return False
        batches = [one.batch for one in held]
        outcome = self._post(target, batches, self._settings.timeout_seconds)
        if outcome.verdict is not Verdict.DELIVERED or outcome.rejected:
            # Splitting and dead letters need the file: these wait for it.
            self._remember(target.route, 0, self._delay(target.route, 0, outcome))
            return False
        self._troubles.pop(target.route, None)
        self._overflow.deliver(held)
        self.tally.delivered += sum(batch.spans for batch in batches)
        return True

    def _complain(self, trouble: str, detail: object) -> None:
        self._complaints.setdefault(trouble, Complaint(trouble)).say(detail)


def backoff(attempt: int, first: float, largest: float) -> float:
    """Draw the seconds to wait after a failed attempt: exponential, with full jitter."""
    from tenacity import RetryCallState, Retrying, wait_random_exponential  # noqa: PLC0415 - slow

    state = RetryCallState(Retrying(), None, (), {})
    state.attempt_number = attempt
    return float(wait_random_exponential(multiplier=first, max=largest)(state))


def hide_from_instrumentation() -> None:
    """Keep this thread's HTTP calls out of the traces that they carry."""
    suppressed = context.set_value("suppress_instrumentation", True)
    suppressed = context.set_value("suppress_http_instrumentation", True, suppressed)
    context.attach(suppressed)
