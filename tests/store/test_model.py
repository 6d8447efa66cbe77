"""The real store and drainer against a plain model in memory, over whatever happens to them.

After every step: the ledger balances; what is pending in the file is what the totals say; and every
span that was accepted has arrived, or is pending or dead, or was evicted or purged and counted.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from decoders import first_member
from drains import evict
from spans import batch, names_in
from spool.delivery.drainer import Drainer
from spool.delivery.http.classification import Outcome, Verdict
from spool.delivery.http.content_encoding import ContentEncoding
from spool.errors import SpoolFileError
from spool.otlp.batch import merge, unpack
from spool.settings.settings import Settings
from spool.settings.target import Target
from spool.store import eviction, operations, row_packing
from spool.store.records import Take
from spool.store.store import Store

pytestmark = pytest.mark.once

TARGETS = [
    Target.langfuse(f"pk-lf-{number}", f"sk-lf-{number}", "https://langfuse.example")
    for number in range(2)
]
TROUBLES = {
    "wait": Outcome(Verdict.WAIT, "503"),
    "retry after": Outcome(Verdict.WAIT, "429", retry_after=30),
    "timeout": Outcome(Verdict.WAIT, "timeout", is_timeout=True),
    "hold": Outcome(Verdict.HOLD, "401"),
    "too large": Outcome(Verdict.SPLIT, "413"),
    "rejects one": Outcome(Verdict.DELIVERED, "rejected", rejected=1),
}
MAX_AGE = 60.0
handles = st.integers(0, 1)
routes = st.integers(0, 1)


class Receiver:
    """Stands for the sender and the server behind it: answers as told, and remembers."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.encoding = ContentEncoding(is_gzip=True)
        self.trouble = "none"
        self.arrived: set[str] = set()

    def send(self, body: bytes, _timeout: float) -> Outcome:
        names = names_in(first_member(body))
        if self.trouble == "accepted, unanswered":
            self.arrived.update(names)
            return Outcome(Verdict.WAIT, "reset")
        if self.trouble == "one bad span" and any(name.endswith("7") for name in names):
            return Outcome(Verdict.SPLIT, "400")
        if self.trouble == "poison" and any(name.endswith("3") for name in names):
            return Outcome(Verdict.WAIT, "500")
        outcome = TROUBLES.get(self.trouble, Outcome(Verdict.DELIVERED))
        if outcome.verdict is Verdict.DELIVERED:
            self.arrived.update(names)
        return outcome


class SpoolMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="spool-model-"))
        self.copies = itertools.count()
        self.numbers = itertools.count()
        self.now = 1_700_000_000.0
        self.elapsed, self.monotonic = 0.0, 1000.0
        self.accepted: set[str] = set()
        self.accepted_at: dict[str, float] = {}
        self.receivers = [Receiver(target) for target in TARGETS]
        self.path = self.root / "0" / "spool.db"

    @initialize()
    def open(self) -> None:
        self.stores = [Store(self.path), Store(self.path)]
        for target in TARGETS:
            self.stores[0].register(target)
        self.new_drainers()

    def new_drainers(self) -> None:
        config = Settings(path=self.path, backoff_seconds=(0.001, 0.002))
        self.drainers = []
        for store in self.stores:
            drainer = Drainer(store, config, clock=lambda: self.now)
            for target, receiver in zip(TARGETS, self.receivers, strict=True):
                drainer.routes.add(target)
                drainer.client._senders[target.route] = receiver  # type: ignore[assignment]  # its shape
            self.drainers.append(drainer)

    @rule(handle=handles, route=routes, spans=st.integers(1, 12), is_packed=st.booleans())
    def append(self, handle: int, route: int, spans: int, is_packed: bool) -> None:
        names = [f"s{next(self.numbers)}" for _ in range(spans)]
        one = batch(*names, size=10)
        if is_packed:
            one = merge([one], compress=True)
        self.stores[handle].append(TARGETS[route], one, self.now)
        self.accepted.update(names)
        self.accepted_at.update(dict.fromkeys(names, self.elapsed))

    @rule(
        handle=handles,
        trouble=st.sampled_from(
            [*TROUBLES, "accepted, unanswered", "one bad span", "poison", "none"]
        ),
        passes=st.integers(1, 12),
        seconds=st.sampled_from([0, 1, 61, 400]),
    )
    def drain(self, handle: int, trouble: str, passes: int, seconds: float) -> None:
        for receiver in self.receivers:
            receiver.trouble = trouble
        for _ in range(passes):
            self.drainers[handle].send_due()
            self.now += seconds

    drain_more = drain

    @rule(handle=handles, failures=st.integers(1, 3))
    def drain_while_the_file_refuses_to_settle(self, handle: int, failures: int) -> None:
        store = self.stores[handle]
        settle = store.settle
        left = [failures]

        def failing(take: Take, now: float, **how: Any) -> int:
            if left[0]:
                left[0] -= 1
                raise SpoolFileError("no space left")
            return settle(take, now, **how)

        store.settle = failing  # type: ignore[method-assign]  # for this rule alone
        try:
            self.drainers[handle].send_due()
        finally:
            store.settle = settle  # type: ignore[method-assign]  # as above

    @rule(handle=handles, excess=st.integers(1, 5000))
    def evict(self, handle: int, excess: int) -> None:
        evict(self.stores[handle], excess, self.now)

    @rule(handle=handles, seconds=st.sampled_from([1.0, 30.0, 61.0]), is_new_boot=st.booleans())
    def grow_older(self, handle: int, seconds: float, is_new_boot: bool) -> None:
        """Time passes by the monotonic clock, which begins anew when the machine does."""
        before = self.in_file()[0]
        self.elapsed += seconds
        self.monotonic = 1.0 if is_new_boot else self.monotonic + seconds
        eviction.watch(self.stores[handle], seconds, self.monotonic)
        while eviction.expire(self.stores[handle], MAX_AGE, self.now):
            pass
        for name in before - self.in_file()[0]:
            assert self.elapsed - self.accepted_at[name] >= MAX_AGE

    @rule(handle=handles, route=routes, max_bytes=st.sampled_from([200, 1000, 5000]))
    def pack(self, handle: int, route: int, max_bytes: int) -> None:
        routes = self.stores[handle].routes()
        while row_packing.pack(self.stores[handle].database, routes[route].id, max_bytes):
            pass

    @rule(handle=handles, is_purge=st.booleans())
    def look_after_the_dead(self, handle: int, is_purge: bool) -> None:
        for letter in self.stores[handle].dead_letters()[:3]:
            (operations.purge if is_purge else operations.retry)(self.stores[handle], letter.id)

    @rule(handle=handles, route=routes)
    def adopt(self, handle: int, route: int) -> None:
        stranded = self.stores[handle].routes()[route]
        operations.adopt(self.stores[handle], stranded, TARGETS[1 - route], sending=2)

    @rule(handle=handles)
    def checkpoint(self, handle: int) -> None:
        self.stores[handle].database.checkpoint()

    @rule(handle=handles)
    def vacuum(self, handle: int) -> None:
        self.stores[handle].database.vacuum()

    @rule(handle=handles)
    def reopen(self, handle: int) -> None:
        self.stores[handle].close()

    @rule()
    def crash(self) -> None:
        """Go on with what a kill would have left on disk; nothing of the processes survives."""
        copy = self.root / str(next(self.copies) + 1) / "spool.db"
        copy.parent.mkdir(mode=0o700)
        for suffix in ("", "-wal", ".lock"):
            source = self.path.with_name(self.path.name + suffix)
            if source.exists():
                shutil.copy2(source, copy.with_name(copy.name + suffix))
        for store in self.stores:
            store.close()
        self.path = copy
        self.stores = [Store(copy), Store(copy)]
        self.new_drainers()

    @rule(seconds=st.sampled_from([-365 * 86400.0, -60.0, 60.0, 365 * 86400.0]))
    def jump_in_time(self, seconds: float) -> None:
        self.now += seconds

    def in_file(self) -> tuple[set[str], set[str], int]:
        """Read the names of the pending and of the dead spans, and count what the rows hold."""
        store = Store(self.path)
        pending, after, spans = set(), 0, 0
        while rows := store.pending(after):
            after = rows[-1].id
            for row in rows:
                assert row.is_sound
                spans += row.batch.spans
                pending.update(names_in(unpack(row.batch)))
        dead = {name for letter in store.dead_letters() for name in names_in(unpack(letter.batch))}
        store.close()
        return pending, dead, spans

    @invariant()
    def nothing_is_lost_uncounted(self) -> None:
        pending, dead, spans = self.in_file()
        ledger = self.stores[0].ledger()
        gone = ledger.delivered + ledger.dead + ledger.evicted + ledger.purged
        assert ledger.accepted == gone + ledger.pending
        assert ledger.accepted == len(self.accepted)
        assert ledger.pending == spans
        arrived = set().union(*(receiver.arrived for receiver in self.receivers))
        missing = self.accepted - arrived - pending - dead
        assert len(missing) <= ledger.evicted + ledger.purged

    def teardown(self) -> None:
        for store in getattr(self, "stores", []):
            store.close()
        shutil.rmtree(self.root)


TestModel = SpoolMachine.TestCase
TestModel.settings = settings(
    max_examples=80,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
