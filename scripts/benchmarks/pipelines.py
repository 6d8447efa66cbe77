"""Whole applications: they make spans, and a pipeline of ours or a peer's exports them."""

from __future__ import annotations

import functools
import gzip
import importlib
import resource
import statistics
import sys
import time
import types
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

from benchmarks import workload
from benchmarks.child import ready
from benchmarks.plan import CALM_SECONDS
from spool import Settings, SpoolSpanExporter
from spool.settings.target import Target
from spool.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Tracer

_PERCENTILES = 1000
_FIRST_SPANS = 50
_BUSY_SHARE = 0.1
_NO_LIMIT = 1 << 50


@dataclass(frozen=True)
class Pipeline:
    """What exports: one of `_PIPELINES`, with `gzip` or `none`; level 0 is its own default."""

    kind: str
    endpoint: str
    path: str
    compression: Any = "gzip"
    level: int = 0

    def provider(self) -> TracerProvider:
        provider = TracerProvider()
        processor = _PIPELINES[self.kind](self)
        if processor is not None:
            provider.add_span_processor(processor)
        return provider

    def pending(self) -> int:
        """Count what waits in the spool."""
        store = Store(Path(self.path))
        try:
            return store.ledger().pending
        finally:
            store.close()


def cpu(pipeline: dict[str, Any], spans: int, rate: float) -> dict[str, float]:
    """Tell the whole process's CPU time for a number of spans, made, exported and delivered."""
    provider = Pipeline(**pipeline).provider()
    tracer, pool = provider.get_tracer("litellm"), workload.attributes()
    workload.produce(tracer, pool, _FIRST_SPANS, rate)
    provider.force_flush()  # with the first request all is imported, connected and created
    started, cpu_started = time.monotonic(), time.process_time()
    workload.produce(tracer, pool, spans, rate)
    provider.shutdown()
    seconds = time.monotonic() - started
    return {
        "ended": _FIRST_SPANS + spans,
        "cpu_us": (time.process_time() - cpu_started) / spans * 1e6,
        "seconds": seconds,
        "peak_mib": _peak_mib(),
    }


def idle(pipeline: dict[str, Any], seconds: float) -> dict[str, float]:
    """Tell what share of a core a process costs in which nothing ends any more, in percent."""
    provider = Pipeline(**pipeline).provider()
    workload.produce(provider.get_tracer("litellm"), workload.attributes(), _FIRST_SPANS, rate=0)
    provider.force_flush()
    time.sleep(CALM_SECONDS)
    cpu_started = time.process_time()
    time.sleep(seconds)
    return {"percent": 100 * (time.process_time() - cpu_started) / seconds}


def end_times(pipeline: dict[str, Any], spans: int, rate: float, backlog: int) -> dict[str, float]:
    """Tell how long `end()` takes in the application's thread, in µs.

    With a backlog, only what ended while the drainer was still busy with it counts.
    """
    exported = Pipeline(**pipeline)
    provider, pool = exported.provider(), workload.attributes()
    produce = functools.partial(_timed_ends, provider.get_tracer("litellm"), pool)
    produce(_FIRST_SPANS, rate)  # threads, connections and imports
    times = [] if backlog else produce(spans, rate)
    while backlog and (exported.pending() > _BUSY_SHARE * backlog or len(times) < _FIRST_SPANS):
        times += produce(_FIRST_SPANS, rate)
    provider.shutdown()
    return _spread(times)


def peak(pipeline: dict[str, Any], spans: int, rate: float) -> dict[str, float]:
    """Tell a process's peak memory in MiB; it stays until nothing is pending."""
    exported = Pipeline(**pipeline)
    provider = exported.provider()
    workload.produce(provider.get_tracer("litellm"), workload.attributes(), spans, rate)
    while exported.kind == "ours" and exported.pending():
        time.sleep(0.05)
    provider.shutdown()
    return {"peak_mib": _peak_mib()}


def flat_out(path: str, endpoint: str, seconds: float) -> dict[str, float]:
    """Tell how many spans a second one process ends, as fast as it goes, without a drain.

    The time is over when all of them are in the file as rows.
    """
    provider = Pipeline("ours-write-only", endpoint, path).provider()
    tracer, pool = provider.get_tracer("litellm"), workload.attributes()
    workload.produce(tracer, pool, 50, rate=0)
    ready()
    started, spans = time.monotonic(), 0
    while time.monotonic() < started + seconds:
        workload.produce(tracer, pool, 20, rate=0)
        spans += 20
    provider.shutdown()
    return {"per_second": spans / (time.monotonic() - started), "ended": spans + 50}


def _timed_ends(tracer: Tracer, pool: list[dict[str, Any]], count: int, rate: float) -> list[float]:
    times: list[float] = []
    clock = time.perf_counter_ns

    class Timed:
        """Hands out spans whose end is timed."""

        def start_span(self, name: str) -> Any:
            span = tracer.start_span(name)
            end = span.end

            def timed() -> None:
                started = clock()
                end()
                times.append((clock() - started) / 1000)

            return types.SimpleNamespace(set_attribute=span.set_attribute, end=timed)

    timed: Any = Timed()
    workload.produce(timed, pool, count, rate)
    return times


def _spread(times: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(times, n=_PERCENTILES)
    return {
        "count": len(times),
        "p50": statistics.median(times),
        "p99": cuts[989],
        "worst": max(times),
    }


def _stock(pipeline: Pipeline) -> SpanExporter:
    if pipeline.level:
        _set_stock_level(pipeline.level)
    used = Compression.Gzip if pipeline.compression == "gzip" else Compression.NoCompression
    return OTLPSpanExporter(endpoint=pipeline.endpoint, compression=used)


def _set_stock_level(level: int) -> None:
    """Give the stock exporter another gzip level than Python's default of 9: it has no setting."""
    leveled = types.SimpleNamespace(GzipFile=functools.partial(gzip.GzipFile, compresslevel=level))
    try:
        module: Any = importlib.import_module("opentelemetry.exporter.otlp.common.http")
    except ModuleNotFoundError:  # before 1.45
        module = sys.modules[OTLPSpanExporter.__module__]
    module.gzip = leveled


def _logfire(pipeline: Pipeline) -> SpanExporter:
    """Put together what logfire's own configuration does, but for its token."""
    otlp = importlib.import_module("logfire._internal.exporters.otlp")
    exporter: SpanExporter = otlp.RetryFewerSpansSpanExporter(
        otlp.BodySizeCheckingOTLPSpanExporter(
            endpoint=pipeline.endpoint,
            session=otlp.OTLPExporterHttpSession(),
            compression=Compression.Gzip,
        )
    )
    return exporter


def _ours(pipeline: Pipeline, *, drain: bool = True) -> SpanExporter:
    settings = Settings(
        path=Path(pipeline.path),
        target=Target.otlp(pipeline.endpoint, {}),
        compression=pipeline.compression,
        drain=drain,
        max_bytes=_NO_LIMIT,
    )
    return SpoolSpanExporter(settings=settings)


_PIPELINES: dict[str, Callable[[Pipeline], SpanProcessor | None]] = {
    "none": lambda _: None,
    "stock": lambda pipeline: BatchSpanProcessor(_stock(pipeline)),
    "stock-simple": lambda pipeline: SimpleSpanProcessor(_stock(pipeline)),
    "logfire": lambda pipeline: BatchSpanProcessor(_logfire(pipeline)),
    "ours": lambda pipeline: SimpleSpanProcessor(_ours(pipeline)),
    "ours-batch": lambda pipeline: BatchSpanProcessor(_ours(pipeline)),
    "ours-write-only": lambda pipeline: SimpleSpanProcessor(_ours(pipeline, drain=False)),
}


def _peak_mib() -> float:
    """Tell the peak memory of this process; getrusage knows its parent's before exec, too."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)  # macOS: bytes
    peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024
