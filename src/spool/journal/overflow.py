"""The overflow: spans that the disk refuses for now, in memory, bounded.

Each span tries the journal first, so what comes after is on disk as soon as that works; their order
is no promise. Maintenance writes what is here to the store; while it cannot, the drainer sends it.

Invariants:

- What was added is here until the store has it, or it was sent from here. While it is being sent it
  is not written to the store.
- Of what was sent only a count remains, one for each target, until the store has it as accepted and
  delivered.
"""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from spool.otlp.batch import merge

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from spool.otlp.batch import Batch
    from spool.settings.target import Target

MAX_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Held:
    """One batch in memory."""

    number: int
    target: Target
    batch: Batch
    created_at: float

    @classmethod
    def joined(cls, held: Sequence[Held]) -> Held:
        """Make one batch of several of a route, so that the store takes them as one row."""
        return replace(held[0], batch=merge([one.batch for one in held], compress=False))


class Overflow:
    """Holds batches in the order they came; safe between threads and in signal handlers.

    `max_bytes` is the size of all payloads. `moving` is held by the one thread that writes batches
    to the store. `has_moved`: the disk took something since it last refused a span.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.moving = threading.RLock()
        self.has_moved = True
        self._max_bytes = max_bytes
        self._bytes = 0
        self._held: dict[int, Held] = {}
        self._sending: set[int] = set()
        self._delivered: dict[str, tuple[Target, int]] = {}
        self._numbers = itertools.count()
        self._lock = threading.RLock()  # a signal handler may add while its thread adds

    def __bool__(self) -> bool:
        """Whether any spans are here that were not sent."""
        return bool(self._held)

    @property
    def spans(self) -> int:
        """Count the spans that are here, and not in the store's ledger."""
        with self._lock:
            return self.unsent_spans + sum(spans for _, spans in list(self._delivered.values()))

    @property
    def unsent_spans(self) -> int:
        """Count those that were not sent from here, either."""
        with self._lock:
            return sum(held.batch.spans for held in self._all())

    def _all(self) -> list[Held]:
        return list(self._held.values())  # a signal handler may add more, in spite of the lock

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
        """Give the oldest batch with the next of its route, as many as fit."""
        with self._lock:
            first = next((h for h in self._all() if h.number not in self._sending), None)
            return [] if first is None else self._next(first.target.route, max_bytes)

    def routes(self) -> list[Target]:
        """Give the target of each route that spans are here of."""
        with self._lock:
            return list({held.target.route: held.target for held in self._all()}.values())

    def forget(self, held: Held) -> None:
        """Let go of a batch that the store has now."""
        with self._lock:
            self.has_moved = True
            if self._held.pop(held.number, None) is None:  # given back, and sent all the same
                self._count(held.target, -held.batch.spans)
            else:
                self._bytes -= len(held.batch.payload)

    def take(self, route: str, max_bytes: int) -> list[Held]:
        """Give a route's oldest batches to be sent, as many as fit, one at the least.

        End it with `deliver` or `give_back`.
        """
        with self._lock:
            taken = self._next(route, max_bytes)
            self._sending.update(held.number for held in taken)
            return taken

    def give_back(self, taken: Iterable[Held]) -> None:
        """End a sending that has failed."""
        with self._lock:
            self._sending.difference_update(held.number for held in taken)

    def give_back_all(self) -> None:
        """End every sending: whoever sends does not come back."""
        self._sending.clear()

    def _next(self, route: str, max_bytes: int) -> list[Held]:
        found: list[Held] = []
        for held in self._all():
            if held.target.route != route or held.number in self._sending:
                continue
            max_bytes -= held.batch.raw_bytes
            if found and max_bytes < 0:
                break
            found.append(held)
        return found

    def deliver(self, sent: Iterable[Held]) -> None:
        """Note that batches were sent from here, except what was given back and is in the store."""
        with self._lock:
            for held in sent:
                self._sending.discard(held.number)
                if self._held.pop(held.number, None) is None:
                    continue
                self._bytes -= len(held.batch.payload)
                self._count(held.target, held.batch.spans)

    def delivered(self) -> list[tuple[Target, int]]:
        """Give how many spans of each target were sent from here, and are not in the ledger yet."""
        with self._lock:
            return list(self._delivered.values())

    def credited(self, target: Target, spans: int) -> None:
        """Let go of a count that the store has now."""
        with self._lock:
            self._count(target, -spans)

    def _count(self, target: Target, spans: int) -> None:
        _, counted = self._delivered.pop(target.route, (target, 0))
        if counted + spans:
            self._delivered[target.route] = target, counted + spans
