"""The overflow: spans that the disk refuses for now, in memory, bounded.

Each span tries the file first, so what comes after is on disk as soon as that works; their order is
no promise. The keeper moves what is here to the file, too; while it cannot, the drainer sends it.

Invariant: what was added is here until it is in the file: as pending, or as delivered if it was
sent from here.
"""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from spool.otlp import merge

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from spool.otlp import Batch
    from spool.settings import Target

MAX_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Held:
    """One batch in memory; once it was sent from here its payload is gone."""

    number: int
    target: Target
    batch: Batch
    created_at: float
    is_delivered: bool = False

    @classmethod
    def joined(cls, held: Sequence[Held]) -> Held:
        """Make one batch of several of a route, so that the file takes them as one row."""
        return replace(held[0], batch=merge([one.batch for one in held], compress=False))


class Overflow:
    """Holds batches in the order they came; safe between threads.

    `moving` is held by the one thread that moves batches to the file. `has_moved`: the file took
    something since it last refused a span.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.moving = threading.RLock()
        self.has_moved = True
        self._max_bytes = max_bytes
        self._bytes = 0
        self._held: dict[int, Held] = {}
        self._numbers = itertools.count()
        self._lock = threading.RLock()  # a signal handler may add while its thread adds

    def __bool__(self) -> bool:
        """Whether anything is here."""
        return bool(self._held)

    @property
    def spans(self) -> int:
        """Count the spans that are here, and not in the file's ledger."""
        with self._lock:
            return sum(held.batch.spans for held in self._held.values())

    @property
    def unsent_spans(self) -> int:
        """Count those that were not sent from here, either."""
        with self._lock:
            held = self._held.values()
            return sum(one.batch.spans for one in held if not one.is_delivered)

    def add(self, target: Target, batch: Batch, created_at: float) -> bool:
        """Hold a batch, if there is room for it; say whether there was."""
        with self._lock:
            if self._bytes + len(batch.payload) > self._max_bytes:
                return False
            number = next(self._numbers)
            self._held[number] = Held(number, target, batch, created_at)
            self._bytes += len(batch.payload)
            return True

    def oldest(self, max_bytes: int) -> list[Held]:
        """Give the oldest batch with the next of its route, as many as fit; a sent one, alone."""
        with self._lock:
            first = next(iter(self._held.values()), None)
            if first is None or first.is_delivered:
                return [] if first is None else [first]
            return self._unsent(first.target.route, max_bytes)

    def forget(self, held: Held) -> None:
        """Let go of a batch that the file has now."""
        with self._lock:
            gone = self._held.pop(held.number)
            self.has_moved = True
            self._bytes -= len(gone.batch.payload)

    def unsent(self, route: str, max_bytes: int) -> list[Held]:
        """Give a route's oldest batches that were not sent, as many as fit, one at the least."""
        with self._lock:
            return self._unsent(route, max_bytes)

    def _unsent(self, route: str, max_bytes: int) -> list[Held]:
        found: list[Held] = []
        for held in self._held.values():
            if held.is_delivered or held.target.route != route:
                continue
            max_bytes -= held.batch.raw_bytes
            if found and max_bytes < 0:
                break
            found.append(held)
        return found

    def deliver(self, sent: Iterable[Held]) -> None:
        """Note that batches were sent from here; their count stays until the file has it."""
        with self._lock:
            for held in sent:
                if held.number in self._held:
                    receipt = replace(held, batch=replace(held.batch, payload=b""))
                    self._held[held.number] = replace(receipt, is_delivered=True)
                    self._bytes -= len(held.batch.payload)
