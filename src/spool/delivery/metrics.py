"""What is told of requests to a MeterProvider, by OpenTelemetry's own names.

As the semantic conventions 1.44 have them (opentelemetry-semantic-conventions 0.66b1, "SDK
self-observability"), and OpenTelemetry's OTLP exporter 1.45 counts:

| name | instrument, unit | what it counts |
|---|---|---|
| otel.sdk.exporter.span.exported | observable counter, {span} | spans done: delivered, or dead |
| otel.sdk.exporter.span.inflight | observable up-down counter, {span} | of requests under way |
| otel.sdk.exporter.operation.duration | histogram, s | requests, delivered or not |

| attribute | value |
|---|---|
| otel.component.type | spool.SpoolSpanExporter |
| otel.component.name | the same, and the spool's number in this process: `/0` |
| server.address, server.port | of the endpoint |
| error.type | the status, or the exception's class, `timeout`, `rejected`, `no_otlp_answer` |
| http.response.status_code | of the answer that was no success; only of the duration |

An operation is one request: what failed waits on disk, and is tried again in another one, perhaps
of another process, with other spans. So a failed request is in the duration, and its spans are not
in `exported` before they are done. Dead letters are there with `rejected`.

Invariants:

- Each is told by the process that sent, once: so they can be added up.
- Nobody who sends tells a MeterProvider: what is counted is looked at by who collects, and so are
  the durations of the requests since. So nothing that it does reaches the delivery.
- Where none is set no durations are kept. What is counted is told to one that is set later, too.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
import urllib.parse
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from opentelemetry.metrics import Observation

from spool.system import metering
from spool.system.forks import PerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from opentelemetry.metrics import CallbackOptions, Histogram, Meter

    from spool.delivery.http.classification import Outcome
    from spool.settings.target import Target

_COMPONENT: Final = "spool.SpoolSpanExporter"
_PORTS: Final = {"http": 80, "https": 443}
# As the conventions advise for http.client.request.duration: without advice it is 5 s at the least.
_BOUNDARIES: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)

# So many durations are kept until somebody collects; then the oldest go.
_MOST_DURATIONS: Final = 10_000

_numbers: Final[dict[Path, int]] = {}

Attributes = dict[str, str | int]
_Key = tuple[tuple[str, str | int], ...]


@dataclass(slots=True)
class _Counted:
    """What one process has to tell, by attributes. The child of a fork has nothing yet."""

    under_way: set[Operation] = field(default_factory=set)
    exported: Counter[_Key] = field(default_factory=Counter)
    durations: deque[tuple[float, _Key]] = field(
        default_factory=functools.partial(deque, maxlen=_MOST_DURATIONS)
    )
    lock: threading.RLock = field(default_factory=threading.RLock)  # several send, and handlers


class Instruments:
    """What is counted, and the instruments that tell of it; `is_on`: whether anybody will ask."""

    def __init__(self, is_on: Callable[[], bool] = metering.look) -> None:
        self._is_on = is_on
        self._own = PerProcess(_Counted, lambda _: None)
        self._known: dict[_Key, None] = {}
        self._duration: Histogram | None = None
        self.makers = (self._make_duration, self._make_inflight, self._make_exported)

    def begin(self, operation: Operation) -> None:
        """Note that a request is under way."""
        self._known[operation.key] = None
        self._own.get().under_way.add(operation)

    def end(self, operation: Operation, seconds: float) -> None:
        """Note that it is no longer, and how long it took if it has an outcome."""
        own = self._own.get()
        own.under_way.discard(operation)
        if self._is_on() and operation.outcome is not None:
            of_it = operation.attributes | _errors(operation.outcome)
            own.durations.append((seconds, tuple(of_it.items())))

    def export(self, spans: int, attributes: Attributes) -> None:
        """Count spans that are done."""
        own = self._own.get()
        with own.lock:
            own.exported[tuple(attributes.items())] += spans

    def _make_exported(self, meter: Meter) -> None:
        meter.create_observable_counter(
            "otel.sdk.exporter.span.exported",
            [self._exported],
            "{span}",
            "The number of spans for which the export has finished, either successful or failed.",
        )

    def _make_inflight(self, meter: Meter) -> None:
        meter.create_observable_up_down_counter(
            "otel.sdk.exporter.span.inflight",
            [self._inflight],
            "{span}",
            "The number of spans which were passed to the exporter, but that have not been "
            "exported yet (neither successful, nor failed).",
        )

    def _make_duration(self, meter: Meter) -> None:
        self._duration = meter.create_histogram(
            "otel.sdk.exporter.operation.duration",
            "s",
            "The duration of exporting a batch of telemetry records.",
            explicit_bucket_boundaries_advisory=_BOUNDARIES,
        )

    def _exported(self, _: CallbackOptions) -> list[Observation]:
        try:
            self._record_durations()
        except Exception as error:  # noqa: BLE001 - the counter is told all the same
            metering.trouble.warn(error)
        exported = list(self._own.get().exported.items())
        return [Observation(spans, dict(key)) for key, spans in exported]

    def _inflight(self, _: CallbackOptions) -> list[Observation]:
        spans = dict.fromkeys(list(self._known), 0)
        for operation in list(self._own.get().under_way):
            spans[operation.key] = spans.get(operation.key, 0) + operation.spans
        return [Observation(total, dict(key)) for key, total in spans.items()]

    def _record_durations(self) -> None:
        """Tell of the requests since: no histogram is observable, but it can be told meanwhile."""
        durations = self._own.get().durations
        while self._duration is not None and durations:
            seconds, key = durations.popleft()
            self._duration.record(seconds, dict(key))


_of_process: Final = Instruments()
metering.want(*_of_process.makers)


@dataclass(slots=True, eq=False)
class Operation:
    """One request of so many `spans`; its `outcome` is None while it is under way."""

    attributes: Attributes
    spans: int
    outcome: Outcome | None = None

    @property
    def key(self) -> _Key:
        """Its attributes, hashable."""
        return tuple(self.attributes.items())


class RequestMetrics:
    """Tells of the requests of one spool."""

    def __init__(self, spool: Path, instruments: Instruments = _of_process) -> None:
        self._instruments = instruments
        number = _numbers.setdefault(spool, len(_numbers))
        self._component: Attributes = {
            "otel.component.type": _COMPONENT,
            "otel.component.name": f"{_COMPONENT}/{number}",
        }

    @contextlib.contextmanager
    def operation(self, target: Target, spans: int) -> Iterator[Operation]:
        """Tell of a request while it is under way, and when it has ended."""
        operation = Operation(self._component | _server(target), spans)
        started = time.perf_counter()
        self._instruments.begin(operation)
        try:
            yield operation
        finally:
            self._instruments.end(operation, time.perf_counter() - started)

    def ended(self, target: Target | None, delivered: int, dead: int) -> None:
        """Tell of spans that are done; `target` took them, or refused."""
        attributes = self._component | ({} if target is None else _server(target))
        if delivered:
            self._instruments.export(delivered, attributes)
        if dead:
            self._instruments.export(dead, attributes | {"error.type": "rejected"})


def _server(target: Target) -> Attributes:
    found: Attributes = {}
    with contextlib.suppress(ValueError):  # a host or a port that is none
        url = urllib.parse.urlsplit(target.endpoint)
        if url.hostname:
            found["server.address"] = url.hostname
        if port := url.port or _PORTS.get(url.scheme):
            found["server.port"] = port
    return found


def _errors(outcome: Outcome) -> Attributes:
    if not (error_type := outcome.error_type):
        return {}
    status: Attributes = {"http.response.status_code": outcome.status} if outcome.status else {}
    return {"error.type": error_type} | status
