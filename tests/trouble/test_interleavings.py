"""Small programs of two to four processes on one spool, in every order that a seed draws.

After each: nothing that was acknowledged is lost, nothing is counted twice or delivered twice
without an excuse, the ledger balances, and nobody waits for ever. `TEST_SEED=N` repeats a run, and
a failure names the schedule: `TEST_SEED=N TEST_SCHEDULE=M` repeats that one alone.
"""

from __future__ import annotations

import contextlib
import gzip
import itertools
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from drains import evict
from interleavings import Machine, Process, shims
from ledgers import balances
from seeds import seed
from spans import batch, names_in
from spool.delivery.drainer import Drainer
from spool.delivery.http.classification import Outcome, Verdict
from spool.delivery.http.sender import Sender
from spool.errors import SpoolFileError
from spool.journal.file import File
from spool.otlp.batch import Batch, unpack
from spool.settings.settings import Settings
from spool.settings.target import Target
from spool.store import ingest, operations, row_packing, takeover
from spool.store.maintenance import Maintenance
from spool.store.records import Ledger
from spool.store.store import Store
from spool.system import spool_files
from trials import Trial

pytestmark = [
    pytest.mark.trust,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(
        sys.version_info < (3, 11), reason="its pathlib keeps os's functions, past any shim"
    ),
]

FEW, MANY = 500, 100_000
MOST_SPANS = 60
TARGETS = [
    Target.langfuse(f"pk-lf-{number}", f"sk-lf-{number}", "https://langfuse.example")
    for number in range(2)
]
BATCHES = [batch(f"s{number}", size=10) for number in range(MOST_SPANS)]
SENDING = 2.0


class Receiver(Sender):
    """The sender, and the server behind it: it may accept without being heard."""

    def __init__(self, schedule: Schedule, target: Target) -> None:
        super().__init__(target, schedule.settings)
        self._schedule = schedule

    def send(self, body: bytes, timeout: float) -> Outcome:  # noqa: ARG002 - as the real one
        schedule = self._schedule
        time.sleep(schedule.chance.choice([0.0, 0.001, 1.0]))  # the request is on its way
        outcome = schedule.chance.choices(
            [
                Outcome(Verdict.DELIVERED),
                Outcome(Verdict.WAIT, "503"),
                Outcome(Verdict.HOLD, "401"),
            ],
            [1, schedule.unreliability, schedule.unreliability / 4],
        )[0]
        if outcome.verdict is Verdict.DELIVERED:
            schedule.arrived.update(names_in(gzip.decompress(body)))
            if schedule.chance.random() < schedule.unreliability / 2:
                schedule.unheard += 1
                outcome = Outcome(Verdict.WAIT, "reset")
        time.sleep(schedule.chance.choice([0.0, 0.001]))  # so is the answer
        return outcome


class PatientMachine(Machine):
    """Kills nobody between a commit that moves a journal and the file's header that says so.

    Who dies there while the file is moved away as well has it sent twice, which is at least once.
    """

    def may_kill(self) -> bool:
        frame, names = sys._getframe(), set()
        while frame.f_back is not None:
            frame = frame.f_back
            names.add(frame.f_code.co_name)
        return File.write_header.__name__ not in names


@dataclass
class Found:
    """What files and journals hold: each name as often as it is there."""

    pending: Counter[str] = field(default_factory=Counter)
    dead: Counter[str] = field(default_factory=Counter)
    ledgers: list[Ledger] = field(default_factory=list)

    def total(self, name: str) -> int:
        return sum(int(getattr(ledger, name)) for ledger in self.ledgers)


class Schedule:
    """One schedule: its processes and their steps, drawn from a seed; and the judgement."""

    def __init__(self, directory: Path, drawn: str) -> None:
        self.chance = random.Random(drawn)
        random.seed(drawn)  # for the backoff's jitter
        self.path = directory / "spool" / "spool.db"
        self.begun: dict[str, None] = {}
        self.acknowledged: set[str] = set()
        self.arrived: Counter[str] = Counter()
        self.accepted = self.unheard = 0
        self.unreliability = self.chance.choice([0.0, 0.0, 0.3])
        self.moves = 0
        self._numbers = itertools.count()
        self._is_moving = self.chance.random() < 0.3
        self._drainers: list[Drainer] = []
        self.machine = (PatientMachine if self._is_moving else Machine)(self.chance)
        self.settings = Settings(
            path=self.path, backoff_seconds=(0.01, 0.05), timeout_seconds=SENDING
        )

    def run(self) -> None:
        """Let the processes run, and judge what they leave; then what a last one makes of it."""
        processes = [self._start() for _ in range(self.chance.choice([2, 2, 3, 4]))]
        if self.chance.random() < 0.4:
            self.machine.kills[self.chance.choice(processes)] = self.chance.randint(1, 400)
        if self.chance.random() < 0.3:
            pause = self.chance.choice([0.05, 1.0, 30.0])
            when = self.chance.randint(1, 400)
            self.machine.stops[self.chance.choice(processes)] = when, pause
        if self._is_moving:
            pauses = [self.chance.random() * 0.05 for _ in range(self.chance.randint(1, 2))]
            self.machine.process().start(
                "person", *(partial(self._move_away, pause) for pause in pauses)
            )
        try:
            self.machine.run()
            if not self.path.exists():
                self._open()
            self._judge(self._found())
            self._drain()
            found = self._found()
            self._judge(found)
            at_path = found.ledgers[0]
            assert at_path.pending == 0, f"{at_path.pending} spans are never sent"
        finally:
            self.machine.close()

    # The processes

    def _start(self) -> Process:
        process = self.machine.process()
        store = Store(self.path)
        process.start("application", *self._draw(store, "append", "append", "append", "nothing"))
        process.start(
            "maintenance",
            *self._draw(
                store,
                "take_in",
                "take_in",
                "keep",
                "save",
                "checkpoint",
                "evict",
                "salvage",
                "vacuum",
            ),
            *self._draw(store, "leave", "nothing")[:1],
        )
        process.start(
            "drainer",
            *self._draw(store, "send", "send", "send", "take_over", "pack", "adopt", "nothing"),
        )
        return process

    def _draw(self, store: Store, *names: str) -> list[Callable[[], object]]:
        drainer = self._drainer(store, time.time)
        maintenance = Maintenance(store, self.settings)
        steps: dict[str, Callable[[], object]] = {
            "nothing": lambda: time.sleep(0.01),
            "append": lambda: self._append(store),
            "take_in": lambda: ingest.ingest(store, compress=True),
            "take_over": lambda: self._take_over(store),
            "keep": maintenance.keep,
            "save": maintenance.save,
            "send": drainer.send_due,
            "pack": lambda: self._pack(store),
            "evict": lambda: evict(store, 200),
            "adopt": lambda: self._adopt(store),
            "checkpoint": store.database.checkpoint,
            "vacuum": store.database.vacuum,
            "salvage": lambda: self._salvage(store),
            "leave": lambda: self._leave(store, maintenance),
        }
        chosen = self.chance.choices(names, k=self.chance.randint(1, 4))
        return [steps[name] for name in chosen]

    def _drainer(self, store: Store, clock: Callable[[], float]) -> Drainer:
        drainer = Drainer(store, self.settings, clock=clock)
        for target in TARGETS:
            drainer.routes.add(target)
            drainer.client._senders[target.route] = Receiver(self, target)
        self._drainers.append(drainer)
        return drainer

    def _is_unsettled(self) -> bool:
        """Say whether a drainer ended with what it delivered and the file refused to settle."""
        return any(
            drainer.row_delivery.has_unsettled(target.route)
            for drainer in self._drainers
            for target in TARGETS
        )

    def _append(self, store: Store) -> None:
        for _ in range(self.chance.randint(1, 3)):
            if (number := next(self._numbers)) < MOST_SPANS:
                self.begun[f"s{number}"] = None
                store.accept(self.chance.choice(TARGETS), BATCHES[number], 1.0)
                self.acknowledged.add(f"s{number}")

    def _take_over(self, store: Store) -> None:
        takeover.take_over(
            store, compress=True, sending=SENDING, everything=self.chance.random() < 0.5
        )

    def _pack(self, store: Store) -> None:
        for route in store.routes():
            with store.drain_lock.take(SENDING) as is_had:
                if is_had:
                    row_packing.pack(store.database, route.id, 1000)

    def _adopt(self, store: Store) -> None:
        stranded = [route for route in store.routes() if route.name != TARGETS[1].route]
        if stranded:
            operations.adopt(store, stranded[0], TARGETS[1], SENDING)

    def _salvage(self, store: Store) -> None:
        """Take the file for a damaged one, which it is not: then nothing of it may be missing.

        Not where it may be moved away meanwhile: then there would be two of it.
        """
        if self._is_moving:
            return
        store.routes()
        store.database._repair.note_damage()
        store.database.repair()

    def _leave(self, store: Store, maintenance: Maintenance) -> None:
        try:
            maintenance.save(is_last=True)
        finally:
            store.close()

    def _move_away(self, pause: float) -> None:
        """Rename the main file with what belongs to it, at once: no other comes between these."""
        time.sleep(pause)
        self.moves += 1
        aside = self.path.parent.parent / f"aside-{self.moves}"
        aside.mkdir()
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                Machine.real["rename"](
                    spool_files.beside(self.path, suffix), aside / f"spool.db{suffix}"
                )

    # The judgement

    def _judge(self, found: Found) -> None:
        for ledger in found.ledgers:
            assert balances(ledger), ledger
        held = found.pending + found.dead
        assert max(held.values(), default=1) == 1, f"held twice: {held.most_common(3)}"
        assert found.total("damaged") == 0, "a sound file was damaged"
        missing = self.acknowledged - set(held) - set(self.arrived)
        evicted = found.total("evicted")
        assert len(missing) <= evicted, f"lost: {sorted(missing)}, evicted {evicted}"
        known = self.acknowledged | (set(self.begun) & (set(held) | set(self.arrived)))
        accepted = self.accepted = found.total("accepted")
        assert len(known) <= accepted <= len(known) + evicted, f"{accepted} of {len(known)} counted"
        is_excused = self.unheard or self.machine.killed or self.machine.stopped
        if not (is_excused or self._is_unsettled()):
            assert max(self.arrived.values(), default=1) == 1, f"sent twice: {self.arrived}"
        pending = found.total("pending")
        assert pending == found.pending.total(), f"{pending} counted, {found.pending} there"

    def _found(self) -> Found:
        found = Found()
        asides = self.path.parent.parent.glob(f"aside-*/{self.path.name}")
        for path in (self.path, *sorted(asides)):
            with contextlib.closing(Store(path)) as store:
                try:
                    store.ledger()
                except SpoolFileError:  # it was moved while it was made
                    store.open()
                self._look_into(store, found)
        return found

    def _look_into(self, store: Store, found: Found) -> None:
        found.ledgers.append(store.ledger())
        for frame in store.inbound():
            found.pending.update(self._names(frame.batch))
        after = 0
        while rows := store.pending(after):
            after = rows[-1].id
            for row in rows:
                found.pending.update(self._names(row.batch))
        for letter in store.dead_letters():
            found.dead.update(self._names(letter.batch))

    @staticmethod
    def _names(one: Batch) -> list[str]:
        return names_in(unpack(one))

    def _open(self) -> None:
        with contextlib.closing(Store(self.path)) as store:
            store.open()

    def _drain(self) -> None:
        """Let a last process send what there is, to a receiver that is well."""
        self.unreliability = 0.0
        process = self.machine.process()
        store = Store(self.path)
        drainer = self._drainer(store, lambda: time.time() + 1000.0)

        def drain() -> None:
            takeover.take_over_all(store, compress=True, sending=SENDING, end=time.monotonic() + 60)
            for _ in range(100):
                drainer.send_due()
                if not any(route.pending_spans for route in store.routes()):
                    return
                time.sleep(0.1)

        for one in self.machine.processes:  # who was stopped goes on, or is gone
            one.stopped_until = 0.0
        process.start("last", drain)
        self.machine.run()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an empty spool, to be copied."""
    path = tmp_path_factory.mktemp("template") / "spool.db"
    with contextlib.closing(Store(path)) as store:
        store.open()
    return path


@contextlib.contextmanager
def fast_directory() -> Iterator[Path]:
    """Give a directory in memory, where there is such a disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="spool-", dir=memory if memory.is_dir() else None
    ) as directory:
        yield Path(directory)


def test_nothing_is_lost_or_counted_twice_in_whatever_order_processes_take_their_steps(
    template: Path, is_full: bool, report: Callable[[Trial], None]
) -> None:
    drawn = seed()
    one = os.environ.get("TEST_SCHEDULE")
    numbers = [int(one)] if one else range(MANY if is_full else FEW)
    accepted = duplicates = 0
    with fast_directory() as root, shims():
        for number in numbers:
            directory = root / str(number)
            (directory / "spool").mkdir(parents=True)
            shutil.copyfile(template, directory / "spool" / "spool.db")
            schedule = Schedule(directory, f"{drawn} {number}")
            schedule.machine.is_told = one is not None
            try:
                schedule.run()
            except BaseException:
                print(f"TEST_SEED={drawn} TEST_SCHEDULE={number}")
                raise
            accepted += schedule.accepted
            duplicates += schedule.arrived.total() - len(schedule.arrived)
            shutil.rmtree(directory)
    report(
        Trial(
            name="processes and threads, switched, stopped and killed at every call",
            tried=len(numbers),
            ended=accepted,  # as judged after each: it is what ended
            accepted=accepted,
            refused=0,
            in_memory=0,
            lost=0,
            duplicates=duplicates,
        )
    )
