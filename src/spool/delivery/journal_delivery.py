"""The delivery from the journal: claim → one POST → settled, and no row is ever made.

So goes what comes to this process while its route is well, between requests of older rows.

Invariants:

- Only the holder of the drain lock claims: one request's spans of one route. What is claimed does
  not become rows until it is released.
- Anything but a clean delivery releases it: maintenance makes rows of it, and those are sent again.
- A route that was never delivered has only a short time for its first request, where spans may
  go to another host, too.
- What was delivered and cannot be settled, because the file refuses, stays claimed: it is not sent
  again.
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from spool.delivery.http.classification import Outcome, Verdict
from spool.errors import SpoolBusyError, SpoolError
from spool.journal.identity import Identity
from spool.journal.reader import CHUNK
from spool.otlp.batch import ROW_BYTES
from spool.settings.endpoints import is_same_host
from spool.store import ingest, journal_chunks
from spool.system.log import LimitedWarnings

if TYPE_CHECKING:
    from spool.delivery.client import Client
    from spool.delivery.routes import Routes
    from spool.settings.settings import Settings
    from spool.settings.target import Target
    from spool.store.ingest import Claim
    from spool.store.records import Route
    from spool.store.store import Store

# So long after it has sent from the journal maintenance leaves what comes to it, unless it is much.
_SERVED_SECONDS: Final = 2.0
# What is being sent cannot be moved, nor be evicted: a small spool has no room for that.
_ROOM_FOR_CLAIMS: Final = 32 << 20


class JournalDelivery:
    """Sends the oldest of this process's journal."""

    def __init__(self, store: Store, settings: Settings, routes: Routes, client: Client) -> None:
        self._store = store
        self._settings = settings
        self._routes = routes
        self._client = client
        self._unsettled: tuple[Claim, Outcome] | None = None
        self._warnings = LimitedWarnings()

    @property
    def is_unsettled(self) -> bool:
        """Whether something was delivered that the file refuses to settle."""
        return self._unsettled is not None

    def send(self) -> bool:
        """Send one request, if the route is well; say whether there may be more at once.

        As long as that works maintenance leaves the journal to it. Raises SpoolError.
        """
        if self._settings.max_bytes < _ROOM_FOR_CLAIMS:
            return False
        if self._unsettled is not None:
            self._settle(*self._unsettled)
            return False
        journal, rest = self._store.journal, None
        if journal.unmoved_bytes and self._is_any_well():
            with contextlib.suppress(SpoolBusyError):  # maintenance moves what is there
                rest = self._send_in_turn()
        left = journal.unmoved_bytes
        if rest is not None or not left:
            journal.served_until = time.monotonic() + _SERVED_SECONDS
        else:
            journal.served_until = -math.inf
            self._store.database.written.set()  # for maintenance
        return rest is not None and (rest > 0 or left >= CHUNK)

    def stop(self) -> None:
        """Leave the rest to maintenance."""
        if self._unsettled is not None:
            ingest.release(self._store, self._unsettled[0])

    def _is_any_well(self) -> bool:
        return any(self._routes.well_target_of(route) is not None for route in self._store.routes())

    def _send_in_turn(self) -> int | None:
        with self._store.drain_lock.take(self._client.timeout) as is_had:
            claim = ingest.claim(self._store, ROW_BYTES) if is_had else None
            return None if claim is None else self._send(claim)

    def _send(self, claim: Claim) -> int | None:
        """Send what of a claim makes one request, and end it.

        Gives how many bytes of it did not fit; None where nothing was delivered and settled.
        """
        sent, outcome = claim, None
        try:
            if (part := self._part(claim)) is not None:
                sent, outcome = part[0], self._post(*part)
        finally:
            if outcome is None:
                ingest.release(self._store, claim)
        if outcome is None or not self._settle(sent, outcome):
            return None
        return claim.chunk.end - sent.chunk.end

    def _part(self, claim: Claim) -> tuple[Claim, Route, Target] | None:
        """Give what of a claim can be sent as one request, with its route as it is now."""
        identity = claim.chunk.identity
        name = None if identity is None else Identity.decode(identity).route
        route = next((known for known in self._store.routes() if known.name == name), None)
        if route is None or (target := self._routes.well_target_of(route)) is None:
            return None
        size = self._client.request_size(route.name)
        chunk = claim.chunk.at_most(size.bytes, size.spans)
        return None if chunk is None else (replace(claim, chunk=chunk), route, target)

    def _post(self, claim: Claim, route: Route, target: Target) -> Outcome | None:
        """Send what was claimed; give the outcome if it was delivered."""
        chunk, size = claim.chunk, self._client.request_size(route.name)
        timeout = self._client.timeout
        longest = self._routes.longest(route, is_delaying=self._is_another_host(target))
        started = time.monotonic()
        outcome = self._client.post(target, [frame.batch for frame in chunk.frames], longest)
        if outcome.is_timeout and longest < timeout:
            self._routes.cut_short(route, target, started, longest)
            return None
        size.learn(chunk, outcome, time.monotonic() - started, timeout)
        if outcome.verdict is Verdict.HOLD:
            self._routes.hold(route, target, outcome)
        elif outcome.verdict is Verdict.WAIT:
            self._routes.wait(route, outcome)
        # Where it is to be split, what is to blame is searched for among the rows.
        return outcome if outcome.is_delivered else None

    def _is_another_host(self, target: Target) -> bool:
        """Say whether there is a host to send to beside a target's."""
        return any(
            not is_same_host(other.endpoint, target.endpoint)
            for other in self._routes.targets.values()
        )

    def _settle(self, claim: Claim, outcome: Outcome) -> bool:
        """Settle what was sent; say whether that is done."""
        self._unsettled = claim, outcome
        database = self._store.database
        try:
            is_ours = journal_chunks.deliver(
                database,
                claim.file,
                claim.chunk,
                self._routes.now(),
                dead=outcome.rejected,
                reason=outcome.reason,
            )
            # False: another process has taken this one for stopped, and moved it.
            moved = claim.chunk.end if is_ours else journal_chunks.moved(database, claim.file)
        except SpoolError as error:
            self._warnings.warn("delivered from the journal, but not settled", error)
            return False
        self._unsettled = None
        # Before it is released: whoever waits for the delivery may then look at what was counted.
        route = Identity.decode(claim.chunk.frames[0].identity).route
        self._routes.count(route, claim.chunk.spans, outcome)
        ingest.release(self._store, claim, moved)
        return True
