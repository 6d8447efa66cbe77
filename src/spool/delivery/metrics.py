"""What is told of requests to a MeterProvider, by OpenTelemetry's own names.

As the semantic conventions 1.44 have them (opentelemetry-semantic-conventions 0.66b1, "SDK
self-observability"), and OpenTelemetry's OTLP exporter 1.45 counts:

| name | instrument, unit | what it counts |
|---|---|---|
| otel.sdk.exporter.span.exported | counter, {span} | spans that are done: delivered, or dead |
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
- They are told by the threads that send. Nothing that a MeterProvider does reaches the delivery.
- Where none is set, OpenTelemetry's proxies pass them over; they find one that is set later, even
  while a request is under way: so what is in flight is not added up, but looked at.
"""

from __future__ import annotations

import contextlib
import functools
import time
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from opentelemetry.metrics import Meter, NoOpMeter, Observation, get_meter

from spool.__about__ import __version__
from spool.system.forks import PerProcess
from spool.system.importing import importing
from spool.system.log import LimitedWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from opentelemetry.metrics import CallbackOptions

    from spool.delivery.http.classification import Outcome
    from spool.settings.target import Target

_COMPONENT: Final = "spool.SpoolSpanExporter"
_PORTS: Final = {"http": 80, "https": 443}
# As the conventions advise for http.client.request.duration: without advice it is 5 s at the least.
_BOUNDARIES: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)

_numbers: Final[dict[Path, int]] = {}
_trouble: Final = LimitedWarning("the MeterProvider raises")

Attributes = dict[str, str | int]


@functools.cache
def meter() -> Meter:
    """Give the process's meter of spools: of the MeterProvider that is set, or will be."""
    try:
        return get_meter("langfuse-spool", __version__)
    except Exception as error:  # noqa: BLE001 - what OTEL_PYTHON_METER_PROVIDER names
        _trouble.warn(error)
        return NoOpMeter("langfuse-spool")


@functools.cache
def _of_process() -> Instruments:
    try:
        return Instruments(meter())
    except Exception as error:  # noqa: BLE001 - as the invariants say
        _trouble.warn(error)
        return Instruments(NoOpMeter("langfuse-spool"))


class Instruments:
    """The instruments of a meter."""

    def __init__(self, meter: Meter) -> None:
        self.exported = meter.create_counter(
            "otel.sdk.exporter.span.exported",
            "{span}",
            "The number of spans for which the export has finished, either successful or failed.",
        )
        meter.create_observable_up_down_counter(
            "otel.sdk.exporter.span.inflight",
            [self._inflight],
            "{span}",
            "The number of spans which were passed to the exporter, but that have not been "
            "exported yet (neither successful, nor failed).",
        )
        self.duration = meter.create_histogram(
            "otel.sdk.exporter.operation.duration",
            "s",
            "The duration of exporting a batch of telemetry records.",
            explicit_bucket_boundaries_advisory=_BOUNDARIES,
        )
        # A child of a fork has none of its parent's requests under way.
        self._under_way: PerProcess[set[Operation]] = PerProcess(set, lambda _: None)
        self._known: dict[tuple[tuple[str, str | int], ...], None] = {}

    def begin(self, operation: Operation) -> None:
        """Note that a request is under way."""
        self._known[operation.key] = None
        self._under_way.get().add(operation)

    def end(self, operation: Operation) -> None:
        """Note that it is no longer."""
        self._under_way.get().discard(operation)

    def _inflight(self, _: CallbackOptions) -> list[Observation]:
        spans = dict.fromkeys(list(self._known), 0)
        for operation in list(self._under_way.get()):
            spans[operation.key] = spans.get(operation.key, 0) + operation.spans
        return [Observation(total, dict(key)) for key, total in spans.items()]


@dataclass(slots=True, eq=False)
class Operation:
    """One request of so many `spans`; its `outcome` is None while it is under way."""

    attributes: Attributes
    spans: int
    outcome: Outcome | None = None

    @property
    def key(self) -> tuple[tuple[str, str | int], ...]:
        """Its attributes, hashable."""
        return tuple(self.attributes.items())


class RequestMetrics:
    """Tells of the requests of one spool."""

    def __init__(self, spool: Path, instruments: Instruments | None = None) -> None:
        self._instruments = _of_process() if instruments is None else instruments
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
            seconds = time.perf_counter() - started
            self._instruments.end(operation)
            if (outcome := operation.outcome) is not None:
                of_it = operation.attributes | _errors(outcome)
                _safely(lambda: self._instruments.duration.record(seconds, of_it))

    def ended(self, target: Target | None, delivered: int, dead: int) -> None:
        """Tell of spans that are done; `target` took them, or refused."""
        attributes = self._component | ({} if target is None else _server(target))
        if delivered:
            _safely(lambda: self._instruments.exported.add(delivered, attributes))
        if dead:
            of_dead = attributes | {"error.type": "rejected"}
            _safely(lambda: self._instruments.exported.add(dead, of_dead))


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


def _safely(tell: Callable[[], None]) -> None:
    try:
        with importing():  # a fork waits for it, too: its child would find the SDK's locks locked
            tell()
    except Exception as error:  # noqa: BLE001 - as the invariants say
        _trouble.warn(error)
