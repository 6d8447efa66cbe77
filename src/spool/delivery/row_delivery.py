"""The delivery of rows: take → one POST → settle, wait, hold, search or bury.

Invariants:

- A request that is refused is searched for the spans that are to blame: half of it is sent, and so
  on. A span that is refused alone is set aside, and becomes a dead letter when the receiver accepts
  others. Where it accepts none the route is held, and all of its spans stay.
- What was delivered and cannot be settled, because the file refuses, is remembered and not sent
  again.
- One thread at a time is at a route: it changes lanes with its row, before that request has ended.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from spool.delivery import backoff
from spool.delivery.evidence import Refusals, Suspect, somewhere
from spool.delivery.http.classification import Outcome, Verdict
from spool.errors import SpoolError
from spool.store import dead_letters
from spool.system.log import LimitedWarnings

if TYPE_CHECKING:
    from collections.abc import Collection

    from spool.delivery.client import Client
    from spool.delivery.routes import Routes
    from spool.settings.settings import Settings
    from spool.settings.target import Target
    from spool.store.records import Route, Take
    from spool.store.store import Store

_Sent = tuple["Take", Outcome, "Target | None"]


class RowDelivery:
    """Sends the rows of one store; only for the holder of a route's drain lock."""

    def __init__(self, store: Store, settings: Settings, routes: Routes, client: Client) -> None:
        self._store = store
        self._settings = settings
        self._routes = routes
        self._client = client
        self._unsettled: dict[str, list[_Sent]] = {}
        self._suspects: dict[str, Suspect] = {}
        self._refusals: dict[str, Refusals] = {}
        self._under_way: dict[str, object] = {}
        self._warnings = LimitedWarnings()

    def has_unsettled(self, route: str) -> bool:
        """Say whether spans of a route were delivered, and the file refuses to settle that."""
        return bool(self._unsettled.get(route))

    def next_due(self) -> float:
        """Tell in how many seconds there is something to do that no row tells; else infinity."""
        if any(list(self._unsettled.values())):
            return 0.0
        suspects = list(self._suspects.values())
        waits = [suspect.until - time.monotonic() for suspect in suspects]
        return min((left for left in waits if left > 0), default=math.inf)

    def is_searching(self, route: Route) -> bool:
        """Say whether spans of a route are under suspicion: their rows must stay as they are."""
        refusals = self._refusals.get(route.name)
        is_any_aside = refusals is not None and bool(refusals.words or refusals.again)
        return bool(route.suspect_to) or is_any_aside or route.name in self._suspects

    def send(
        self, route_id: int, target: Target, timeout: float = math.inf, *, is_forced: bool = False
    ) -> Verdict | None:
        """Send one request of a route within `timeout` seconds, if it is due, or forced.

        None where it is not due, where nothing waits, where another thread is at it, and where the
        caller's timeout has cut it: that says nothing about the route. Raises SpoolError.
        """
        mine = object()
        try:
            if self._under_way.setdefault(target.route, mine) is not mine:
                return None
            return self._send(route_id, target, timeout, is_forced=is_forced)
        finally:
            if self._under_way.get(target.route) is mine:
                del self._under_way[target.route]

    def _send(
        self, route_id: int, target: Target, timeout: float, *, is_forced: bool
    ) -> Verdict | None:
        route = self._in_turn(route_id, target)
        if route is None:
            return None
        if is_forced:  # all of it, not what has come since some was suspected
            route = replace(route, suspect_to=0)
        elif not self._routes.is_due(route, target):
            return None
        unsettled = self._settle_again(route.name)
        take = self._next(route, max((sent.rows[-1].id for sent, *_ in unsettled), default=0))
        if take is None:
            return None
        if take.damage:
            self._bury(route.name, take, take.damage)
            return Verdict.SPLIT
        started = time.monotonic()
        longest = self._client.timeout
        outcome = self._client.post(target, take.batches, min(timeout, longest))
        if outcome.is_timeout and timeout < longest:
            return None
        return self._act(route, target, take, outcome, time.monotonic() - started)

    def _in_turn(self, route_id: int, target: Target) -> Route | None:
        """Read a route again; None where it is not this thread's to send.

        Another process may have had its turn, trouble may have begun or ended, or the file may
        be another.
        """
        route = self._store.route(route_id)
        if route is None or route.name != target.route:
            return None
        return route if self._store.lock_of(route).is_ours() else None

    # What is sent next

    def _next(self, route: Route, after: int) -> Take | None:
        """Take the head of the route, or what stands behind what is under suspicion."""
        if route.suspect_to and (take := self._probe(route, after)) is not None:
            return take
        suspect = self._suspects.get(route.name)
        is_time = suspect is None or time.monotonic() >= suspect.until
        if suspect is None or (suspect.is_gone_around and not (suspect.proofs and is_time)):
            behind = after if suspect is None else max(after, suspect.last_id)
            if (take := self._unsuspected(route, behind, suspect)) is not None:
                return take
        if suspect is None or not is_time:
            return None
        suspect.is_gone_around = False
        return self._take(route, after, suspect.spans)

    def _probe(self, route: Route, after: int) -> Take | None:
        """Take one span: of what has come since others were suspected, or of a held backlog."""
        newest = self._store.newest_id(route.id)
        if newest > max(after, route.suspect_to):
            return self._take(route, newest - 1, spans=1)
        return self._take_somewhere(route, after, route.attempts) if route.is_held else None

    def _unsuspected(self, route: Route, after: int, suspect: Suspect | None) -> Take | None:
        """Take what stands behind the spans that were refused; one of them where nothing does."""
        refusals = self._refusals.setdefault(route.name, Refusals())
        refusals.front = front = self._front(route, refusals, after)
        spans = self._client.request_size(route.name).spans
        if suspect is not None:
            front, spans = self._behind(route, suspect.aside, front), min(spans, suspect.around)
        if refusals.words and (number := refusals.elsewhere) is not None:
            take = self._take_somewhere(route, front, number)
        else:
            take = self._take(route, front, spans)
        if take is None and suspect is not None and suspect.aside:
            suspect.aside.clear()
            take = self._take(route, refusals.front, spans=1)
        if take is not None or not refusals.words:
            return take
        self._condemn(route)
        refusals.try_once_more()
        return self._take(route, after, spans=1)

    def _front(self, route: Route, refusals: Refusals, after: int) -> int:
        """Give the id up to which all rows behind another were refused."""
        if not refusals.words:
            return after
        return self._behind(route, refusals.words, max(after, refusals.front))

    def _behind(self, route: Route, aside: Collection[int], after: int) -> int:
        """Give the id behind which there is a row that is not aside."""
        while (first := self._store.first_id(route.id, after)) in aside:
            after = first
        return after

    def _take_somewhere(self, route: Route, after: int, number: int) -> Take | None:
        first, last = self._store.first_id(route.id, after), self._store.newest_id(route.id)
        return self._take(route, somewhere(first, last, number) - 1, spans=1) if first else None

    def _take(self, route: Route, after: int, spans: int) -> Take | None:
        size = self._client.request_size(route.name)
        return self._store.take(route.id, max_bytes=size.bytes, max_spans=spans, after=after)

    # What an outcome does

    def _act(
        self, route: Route, target: Target, take: Take, outcome: Outcome, seconds: float
    ) -> Verdict:
        size = self._client.request_size(route.name)
        if outcome.is_delivered and route.is_held:  # what was refused before was not too large
            size.reset()
        size.learn(take, outcome, seconds, self._client.timeout)
        if outcome.verdict in (Verdict.HOLD, Verdict.WAIT):
            self._condemn(route)  # what is proven by now
        if outcome.is_delivered:
            self._settle(route.name, take, outcome, target)
            if outcome.rejected < take.spans:
                self._exonerate(route, take)
                self._accept(route, take)
        elif outcome.verdict is Verdict.SPLIT:
            return self._refuse(route, target, take, outcome)
        elif outcome.verdict is Verdict.HOLD:
            self._routes.hold(route, target, outcome)
        else:
            return self._suspect(route, take, outcome)
        return outcome.verdict

    def _refuse(self, route: Route, target: Target, take: Take, outcome: Outcome) -> Verdict:
        """Search a request for what is to blame: a span, or the receiver, which holds the route."""
        suspect = self._suspects.get(route.name)
        if suspect is not None and suspect.is_of(take):  # it is refused now, which says more
            del self._suspects[route.name]
        if take.spans > 1:
            return Verdict.SPLIT
        if outcome.is_damage:
            self._bury(route.name, take, outcome.reason)
            return Verdict.SPLIT
        refusals = self._refusals.setdefault(route.name, Refusals())
        refusals.refuse(take, outcome.reason)
        newest = self._store.newest_id(route.id)
        refusals.front = self._front(route, refusals, refusals.front)
        is_probe = route.is_held and bool(route.suspect_to)
        if not is_probe and not refusals.is_enough and newest > refusals.front:
            return Verdict.SPLIT
        self._condemn(route)
        if not refusals.words:
            return Verdict.SPLIT
        refusals.is_receiver_doubted = True
        probes = route.probes + (0 < route.suspect_to < take.rows[0].id)
        self._routes.hold(route, target, outcome, newest, probes)
        return Verdict.HOLD

    def _accept(self, route: Route, take: Take) -> None:
        if (refusals := self._refusals.get(route.name)) is not None:
            refusals.accept(take)
            if refusals.are_many_proven:
                self._condemn(route)

    def _condemn(self, route: Route) -> None:
        """Bury the spans that are proven bad."""
        refusals = self._refusals.get(route.name)
        if refusals is None or not refusals.proven:
            return
        condemned = refusals.condemned()
        try:
            database, salt = self._store.database, refusals.salt
            now = self._routes.now()
            buried = dead_letters.bury_refused(database, route.id, salt, condemned, now)
        except SpoolError as error:  # they are found again
            self._warnings.warn(f"route {route.name}: bad spans, but not buried", error)
        else:
            words = next(iter(condemned.values()))
            self._routes.count(route.name, buried, Outcome(Verdict.SPLIT, words, rejected=buried))

    def _suspect(self, route: Route, take: Take, outcome: Outcome) -> Verdict:
        """Wait, unless only the head of the route fails: then go around it, and isolate it."""
        suspect = self._suspects.get(route.name)
        if suspect is not None and not suspect.is_gone_around and not suspect.is_of(take):
            suspect = None
            del self._suspects[route.name]
        if suspect is not None and suspect.is_gone_around:  # others fail as well: it is the server
            suspect.fail_around(take)
        elif suspect is not None:
            suspect.narrow(take)
            if outcome.blames_no_span:
                suspect.forget_proofs()
        elif route.attempts:
            suspect = self._suspects[route.name] = Suspect(0, 0)
            suspect.narrow(take)
        if suspect is None or not suspect.proofs:
            self._routes.wait(route, outcome)
            return Verdict.WAIT
        self._warnings.warn(f"route {route.name} goes around spans that fail alone", outcome.reason)
        if suspect.is_proven:
            self._bury(route.name, take, outcome.reason)
            del self._suspects[route.name]
            return Verdict.SPLIT
        newest = self._store.newest_id(route.id)
        if newest > suspect.last_id:
            pause = backoff.draw(suspect.failures, *self._settings.backoff_seconds)
            suspect.until = time.monotonic() + pause
            return Verdict.SPLIT
        self._routes.wait(route, outcome, suspect_to=newest)
        return Verdict.WAIT

    def _exonerate(self, route: Route, take: Take) -> None:
        """Note a delivery: it proves that the server is well, or clears the suspect."""
        suspect = self._suspects.get(route.name)
        if suspect is None:
            return
        if not suspect.is_of(take):
            suspect.deliver_around()
        elif take.rows[-1].id >= suspect.last_id:
            del self._suspects[route.name]
        else:
            suspect.failures = 0

    def _bury(self, route: str, take: Take, reason: str) -> None:
        self._settle(route, take, Outcome(Verdict.SPLIT, reason, rejected=take.spans), None)

    def _settle(self, route: str, take: Take, outcome: Outcome, target: Target | None) -> None:
        self._routes.count(route, take.spans, outcome)
        self._unsettled.setdefault(route, []).append((take, outcome, target))
        self._settle_again(route)

    def _settle_again(self, route: str) -> list[_Sent]:
        """Settle what was delivered; give what the file refuses to settle still."""
        unsettled = self._unsettled.get(route, [])
        try:
            while unsettled:
                take, outcome, target = unsettled[0]
                self._store.settle(
                    take,
                    self._routes.now(),
                    dead=outcome.rejected,
                    reason=outcome.reason,
                    accepted_by=self._routes.fingerprint(target) if target else None,
                )
                del unsettled[0]
        except SpoolError as error:
            self._warnings.warn(f"route {route}: delivered, but not settled", error)
            take, outcome, target = unsettled[-1]
            if not outcome.rejected:
                unsettled[-1] = take.without_payloads(), outcome, target
        return unsettled
