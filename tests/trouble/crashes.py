"""A crash from both sides: what a worker had said, and what the next process finds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from ledgers import balances
from spans import batch
from spool.errors import SpoolDamagedError
from spool.otlp.batch import Batch, unpack
from spool.settings.target import Target
from spool.store import takeover
from spool.store.records import DeadLetter, Ledger, Row
from spool.store.store import Store
from standin import spans_of

WORKER = Path(__file__).with_name("worker.py")
TARGET = Target.langfuse("pk-lf-test", "sk-lf-test", "https://langfuse.example")


@dataclass(frozen=True)
class Found:
    """What the next process finds in an image."""

    spans: frozenset[str] = frozenset()
    ledger: Ledger = field(default_factory=Ledger)


class Told:
    """What a process has said so far."""

    def __init__(self) -> None:
        self.begun: set[str] = set()
        self.spooled: set[str] = set()
        self.synced: set[str] = set()
        self.delivered: set[str] = set()
        self._syncing: dict[str, set[str]] = {}

    def hear(self, line: str) -> None:
        """Take in one more line."""
        word, *rest = line.split()
        if word == "syncing":
            self._syncing[rest[0]] = set(self.spooled)
        elif word == "synced":
            self.synced |= self._syncing.pop(rest[0])
        elif word in ("begun", "spooled", "delivered"):
            getattr(self, word).update(rest)
        else:  # what is held in memory is not owed, but in the file in the end
            assert word == "held" or line.strip() == "in_memory", line


def found_in(path: Path) -> Found:
    """Use a spool as the next process does: write to it, read all of it, check its ledger."""
    store = Store(path)
    store.open()
    try:
        takeover.take_over(store, compress=True, sending=10.0)
        rows, letters, ledger = read(store)
    except SpoolDamagedError:  # what only a reader finds is salvaged by the next writer
        store.open()
        takeover.take_over(store, compress=True, sending=10.0)
        rows, letters, ledger = read(store)
    store.append(TARGET, batch("one more"), now=1.0, patience=5)
    store.close()
    assert all(row.is_sound for row in rows)
    assert sum(row.batch.spans for row in rows) == ledger.pending
    assert balances(ledger), ledger
    batches = [row.batch for row in rows] + [letter.batch for letter in letters]
    return Found(frozenset(span_id for one in batches for span_id in ids_in(one)), ledger)


def read(store: Store) -> tuple[list[Row], list[DeadLetter], Ledger]:
    rows: list[Row] = []
    while page := store.pending(rows[-1].id if rows else 0):
        rows += page
    return rows, store.dead_letters(), store.ledger()


def ids_in(one: Batch) -> list[str]:
    request = ExportTraceServiceRequest.FromString(unpack(one))
    return [span.span_id.hex() for span in spans_of(request.resource_spans)]
