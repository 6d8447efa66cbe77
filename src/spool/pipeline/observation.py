"""What is told of each spool to a MeterProvider, when that asks: what `status` says, as metrics.

No conventions name these. Of the spool, all processes together, as `status` has it:

| name | instrument, unit | what it is |
|---|---|---|
| spool.span.pending | observable up-down counter, {span} | spans on disk that wait |
| spool.span.oldest_age | observable gauge, s | for how long the oldest does; 0 where none waits |
| spool.span.dead | observable up-down counter, {span} | dead letters that are there |
| spool.span.evicted | observable up-down counter, {span} | how many limits evicted, ever |
| spool.usage | observable up-down counter, By | live data, as the limit counts it |
| spool.limit | observable up-down counter, By | `SPOOL_MAX_BYTES` |

And of this process alone:

| spool.span.refused | observable counter, {span} | spans that were not taken, by `error.type` |

All have the attribute `spool.path`. `error.type` is the class of the error (`SpoolFullError`: the
limit, with `drop-newest`), or `already_shutdown`.

Invariants:

- Of all processes that have a spool open and are asked, one tells of it: so sums over processes
  count nothing twice. When it ends, or is no longer asked, another does from its next time on. The
  totals are the file's, and survive all of them: so they are no counters, which begin at 0 with
  their process.
- What is left when its exporters have ended is read once more, and told to each that asks for a
  moment: a MeterProvider collects as it ends, for each of its readers.
- Nothing is read before somebody asks, and then on the thread that does; nobody there waits for
  another process, and no exception comes back.
"""

from __future__ import annotations

import functools
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from opentelemetry.metrics import Observation

from spool.store import journal_chunks
from spool.system import metering
from spool.system.forks import PerProcess
from spool.system.log import LimitedWarning

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from opentelemetry.metrics import CallbackOptions, Meter

    from spool.store.store import Store

# For so long after its end a spool is told of: until the MeterProvider has ended, too.
_AFTER_SECONDS: Final = 10.0

_warning: Final = LimitedWarning("metrics cannot tell of the spool")

# Field of a reading: name, unit, description.
_SUMS: Final = {
    "pending": ("spool.span.pending", "{span}", "The number of spans on disk that wait."),
    "dead": ("spool.span.dead", "{span}", "The number of dead letters that are there."),
    "evicted": ("spool.span.evicted", "{span}", "The number of spans that limits evicted, ever."),
    "usage": ("spool.usage", "By", "The live data of the spool, as the limit counts it."),
    "limit": ("spool.limit", "By", "The limit of the spool."),
}
_OLDEST_AGE: Final = "spool.span.oldest_age", "s", "For how long the oldest span on disk waits."
_REFUSED: Final = "spool.span.refused", "{span}", "The number of spans refused here: they are lost."


@dataclass(frozen=True, slots=True)
class Reading:
    """A spool at one moment: spans, seconds and bytes."""

    pending: int
    oldest_age: float
    dead: int
    evicted: int
    usage: int
    limit: int

    @classmethod
    def of(cls, store: Store, limit: int) -> Reading:
        """Read it. Raises SpoolFileError."""
        ledger = store.ledger()
        since = [route.oldest_at for route in store.routes() if route.oldest_at is not None]
        since += [frame.created_at for frame in store.inbound()]
        inbound = journal_chunks.inbound_bytes(store.database)
        return cls(
            pending=ledger.pending,
            oldest_age=max(0.0, time.time() - min(since)) if since else 0.0,
            dead=ledger.dead,
            evicted=ledger.evicted,
            usage=store.database.live_bytes() + inbound,
            limit=limit,
        )


class _Spool:
    """One spool that is open here. A reading serves each instrument once."""

    def __init__(self, store: Store, limit: int) -> None:
        self.store = store
        self.ended_at: float | None = None
        self._limit = limit
        self._reading: Reading | None = None
        self._served = {*_SUMS, "oldest_age"}
        self._is_last = False

    @property
    def is_past(self) -> bool:
        """Say whether nothing is told of it any more."""
        ended_at = self.ended_at
        return ended_at is not None and time.monotonic() - ended_at > _AFTER_SECONDS

    def value(self, field: str) -> float | None:
        """Give what an instrument tells; None where that is not ours to tell, or not known."""
        if self.is_past:
            return None
        if field in self._served and not self._is_last:
            self._is_last = self.ended_at is not None
            self._reading, self._served = self._read(), set()
        self._served.add(field)
        return None if self._reading is None else getattr(self._reading, field)

    def _read(self) -> Reading | None:
        try:
            if self.store.exists() and self.store.reporter.is_us():
                return Reading.of(self.store, self._limit)
        except Exception as error:  # noqa: BLE001 - as the invariants say
            _warning.warn(error)
        finally:
            if self.ended_at is not None:  # this has opened it again
                self.store.close()
        return None


class Observed:
    """The spools that are open in a process, and the instruments that tell of them."""

    def __init__(self) -> None:
        self._spools: dict[Path, _Spool] = {}
        self._refused: PerProcess[Counter[tuple[Path, str]]] = PerProcess(Counter, lambda _: None)
        self.makers: tuple[Callable[[Meter], None], ...] = (
            *(functools.partial(self._make_sum, name) for name in _SUMS),
            self._make_oldest_age,
            self._make_refused,
        )

    def begin(self, store: Store, limit: int) -> None:
        """Tell of a spool from now on; `limit` in bytes."""
        for path, spool in list(self._spools.items()):
            if spool.is_past:
                self._spools.pop(path, None)
        self._spools[store.database.path] = _Spool(store, limit)
        metering.look()

    def end(self, store: Store) -> None:
        """Tell of it for a moment more. It is not in use any longer, and closed by who asks."""
        spool = self._spools.get(store.database.path)
        if spool is not None and spool.store is store:
            spool.ended_at = time.monotonic()

    def refuse(self, store: Store, spans: int, reason: object) -> None:
        """Count spans that were refused: for an error, or after the end. Waits for nobody."""
        is_error = isinstance(reason, Exception)
        error_type = type(reason).__qualname__ if is_error else "already_shutdown"
        self._refused.get()[store.database.path, error_type] += spans

    def _make_sum(self, field: str, meter: Meter) -> None:
        name, unit, words = _SUMS[field]
        meter.create_observable_up_down_counter(name, [self._callback(field)], unit, words)

    def _make_oldest_age(self, meter: Meter) -> None:
        name, unit, words = _OLDEST_AGE
        meter.create_observable_gauge(name, [self._callback("oldest_age")], unit, words)

    def _make_refused(self, meter: Meter) -> None:
        name, unit, words = _REFUSED
        meter.create_observable_counter(name, [self._refusals], unit, words)

    def _callback(self, field: str) -> Callable[[CallbackOptions], list[Observation]]:
        def observe(_: CallbackOptions) -> list[Observation]:
            return [
                Observation(value, {"spool.path": str(path)})
                for path, spool in list(self._spools.items())
                if (value := spool.value(field)) is not None
            ]

        return observe

    def _refusals(self, _: CallbackOptions) -> list[Observation]:
        return [
            Observation(spans, {"spool.path": str(path), "error.type": error_type})
            for (path, error_type), spans in list(self._refused.get().items())
        ]


observed: Final = Observed()
metering.want(*observed.makers)
