"""A report in Prometheus' text format: for `/metrics`, and for node_exporter's textfile collector.

| name (langfuse_spool_…) | type, unit | labels | what it is |
|---|---|---|---|
| exists | gauge | | 1, or 0 where there is no spool |
| info | gauge, 1 | path, version | which spool this is |
| ok | gauge | | 1 where no person need look: there is no concern |
| concerns | gauge | code | how many there are, by their code |
| drainer_running | gauge | | whether any process drains |
| pending_spans, pending_bytes | gauge | route | what waits; before compression |
| oldest_pending_timestamp_seconds | gauge | route | since when the oldest waits, if any does |
| last_success_timestamp_seconds | gauge | route | when spans were delivered last, if ever |
| route_state | gauge | route, state | 1 for the state that it is in, 0 for the others |
| route_failed_attempts | gauge | route | requests that failed since the last delivery |
| accepted_spans_total, and as many as the ledger has that only grow | counter | | the ledger |
| dead_letter_spans, in_memory_spans | gauge | | what is there now |
| used_bytes, limit_bytes | gauge | | live data, as the limit counts it; `SPOOL_MAX_BYTES` |
| file_bytes, disk_free_bytes | gauge | | the file with its WAL; what the disk has left |

Of a spool that is not there, or cannot be read, `exists`, `ok` (0) and `concerns` are told.

The names are public. prometheus_client writes them, with what has to be escaped: an extra.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from spool.__about__ import __version__
from spool.delivery.route_state import RouteState
from spool.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from prometheus_client.core import Metric

    from spool.report.concerns import Concern
    from spool.report.report import Report
    from spool.store.records import Route

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_PREFIX: Final = "langfuse_spool_"
# What is there now, and may become less. All else in the ledger is of all time.
_NOW: Final = {"dead": "dead_letter_spans", "in_memory": "in_memory_spans"}
_OF_A_ROUTE: Final[tuple[tuple[str, str, Callable[[Route], float | None]], ...]] = (
    ("pending_spans", "Spans that wait.", lambda route: route.pending_spans),
    ("pending_bytes", "What waits, before compression.", lambda route: route.pending_bytes),
    (
        "oldest_pending_timestamp_seconds",
        "Since when the oldest span waits.",
        lambda route: route.oldest_at,
    ),
    (
        "last_success_timestamp_seconds",
        "When spans were delivered last.",
        lambda route: route.last_success_at,
    ),
    (
        "route_failed_attempts",
        "Requests that failed since the last delivery.",
        lambda route: route.attempts,
    ),
)


def text_of(
    report: Report | None, concerns: Sequence[Concern], *, exists: bool | None = None
) -> str:
    """Write a report; without one say whether a spool `exists`, of which nothing can be read.

    Raises SettingsError without the extra.
    """
    try:
        from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise SettingsError(
            "prometheus_client is not installed, which writes this: pip install prometheus_client"
        ) from error
    registry = CollectorRegistry()
    is_there = report is not None if exists is None else exists
    registry.register(_Metrics(report, concerns, exists=is_there))
    text: str = generate_latest(registry).decode()
    return text


class _Metrics:
    """What prometheus_client collects from."""

    def __init__(self, report: Report | None, concerns: Sequence[Concern], *, exists: bool) -> None:
        self._report = report
        self._concerns = concerns
        self._exists = exists

    def collect(self) -> Iterator[Metric]:
        report = self._report
        yield _gauge("exists", "Whether there is a spool at the path.", self._exists)
        yield from _health(self._concerns, is_well=report is not None and not self._concerns)
        if report is None:
            return
        yield _gauge("drainer_running", "Whether any process drains.", report.is_running)
        path = {"path": str(report.path), "version": __version__}
        yield _gauges("info", "Which spool this is.", [(path, 1)])
        yield from _routes(report)
        yield from _ledger(report)
        yield from _file(report)


def _health(concerns: Sequence[Concern], *, is_well: bool) -> Iterator[Metric]:
    codes = Counter(concern.code for concern in concerns)
    yield _gauge("ok", "Whether no person need look: there is no concern.", is_well)
    found = [({"code": code}, count) for code, count in sorted(codes.items())]
    yield _gauges("concerns", "What a person should see to, by its code.", found)


def _routes(report: Report) -> Iterator[Metric]:
    for name, words, value_of in _OF_A_ROUTE:
        values = [({"route": one.name}, value_of(one)) for one in report.routes]
        yield _gauges(
            name, words, [(labels, value) for labels, value in values if value is not None]
        )
    states = [
        ({"route": route.name, "state": one.value}, one is state)
        for route, state in zip(report.routes, report.states, strict=True)
        for one in RouteState
    ]
    yield _gauges("route_state", "1 for the state that a route is in.", states)


def _ledger(report: Report) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily  # noqa: PLC0415 - an extra

    for name, count in asdict(report.ledger).items():
        if name in _NOW:
            yield _gauge(_NOW[name], f"Spans that are {name.replace('_', ' ')} now.", count)
        elif name != "pending":
            words = f"Spans that were {name}, ever."
            yield CounterMetricFamily(f"{_PREFIX}{name}_spans", words, value=count)


def _file(report: Report) -> Iterator[Metric]:
    yield _gauge("used_bytes", "Live data, as the limit counts it.", report.used_bytes)
    yield _gauge("limit_bytes", "SPOOL_MAX_BYTES.", report.max_bytes)
    yield _gauge("file_bytes", "The size of the file and its WAL.", report.file_bytes)
    yield _gauge("disk_free_bytes", "What the disk has left.", report.free_bytes)


def _gauge(name: str, words: str, value: float) -> Metric:
    return _gauges(name, words, [({}, value)])


def _gauges(name: str, words: str, values: Iterable[tuple[dict[str, str], float]]) -> Metric:
    from prometheus_client.core import Metric  # noqa: PLC0415 - an extra

    metric = Metric(f"{_PREFIX}{name}", words, "gauge")
    for labels, value in values:
        metric.add_sample(f"{_PREFIX}{name}", labels, value)
    return metric
