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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

from benchmarks import workload
from spool import Settings, SpoolSpanExporter
from spool.settings import Target
from spool.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Tracer

_PERCENTILES = 1000


def cpu(
    pipeline: str, endpoint: str, path: str, compression: str, level: int, spans: int, rate: float
) -> dict[str, float]:
    """Tell the whole process's CPU time for a number of spans, made, exported and delivered."""
    provider = _provider(pipeline, endpoint, path, compression, level)
    tracer, pool = provider.get_tracer("litellm"), workload.attributes()
    started, cpu_started = time.monotonic(), time.process_time()
    workload.produce(tracer, pool, spans, rate)
    provider.shutdown()
    seconds = time.monotonic() - started
    return {
        "cpu_us": (time.process_time() - cpu_started) / spans * 1e6,
        "seconds": seconds,
        "peak_mib": _peak_mib(),
    }


def end_times(
    pipeline: str, endpoint: str, path: str, spans: int, rate: float, backlog: int
) -> dict[str, float]:
    """Tell how long `end()` takes in the application's thread, in µs.

    With a backlog, only what ended while the drainer was still busy with it counts.
    """
    provider = _provider(pipeline, endpoint, path, "gzip", 0)
    pool = workload.attributes()
    produce = functools.partial(_timed_ends, provider.get_tracer("litellm"), pool)
    produce(200, rate)  # threads, connections and imports
    times = produce(spans, rate)
    while backlog and _pending(path) > 2 * spans:
        times += produce(spans // 4, rate)
    provider.shutdown()
    return _spread(times)


def peak(pipeline: str, endpoint: str, path: str, spans: int, rate: float) -> dict[str, float]:
    """Tell a process's peak memory in MiB; it stays until nothing is pending."""
    provider = _provider(pipeline, endpoint, path, "gzip", 0)
    workload.produce(provider.get_tracer("litellm"), workload.attributes(), spans, rate)
    while pipeline.startswith("ours") and _pending(path):
        time.sleep(0.05)
    provider.shutdown()
    return {"peak_mib": _peak_mib()}


def flat_out(endpoint: str, path: str, starts_at: float, seconds: float) -> dict[str, float]:
    """Tell how many spans a second one process ends, as fast as it goes, without a drain."""
    provider = _provider("ours-write-only", endpoint, path, "gzip", 0)
    tracer, pool = provider.get_tracer("litellm"), workload.attributes()
    workload.produce(tracer, pool, 50, rate=0)
    time.sleep(max(0.0, starts_at - time.time()))
    end, spans = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        workload.produce(tracer, pool, 20, rate=0)
        spans += 20
    provider.shutdown()
    return {"per_second": spans / seconds}


def _timed_ends(
    tracer: Tracer, pool: list[dict[str, Any]], count: int, rate: float
) -> list[float]:
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


def _provider(
    pipeline: str, endpoint: str, path: str, compression: str, level: int
) -> TracerProvider:
    provider = TracerProvider()
    processor = _PIPELINES[pipeline](endpoint, path, compression, level)
    if processor is not None:
        provider.add_span_processor(processor)
    return provider


def _stock(endpoint: str, compression: str, level: int) -> SpanExporter:
    if level:
        _set_stock_level(level)
    used = Compression.Gzip if compression == "gzip" else Compression.NoCompression
    return OTLPSpanExporter(endpoint=endpoint, compression=used)


def _set_stock_level(level: int) -> None:
    """Give the stock exporter another gzip level than Python's default of 9: it has no setting."""
    leveled = types.SimpleNamespace(GzipFile=functools.partial(gzip.GzipFile, compresslevel=level))
    try:
        module: Any = importlib.import_module("opentelemetry.exporter.otlp.common.http")
    except ModuleNotFoundError:  # before 1.45
        module = sys.modules[OTLPSpanExporter.__module__]
    module.gzip = leveled


def _logfire(endpoint: str, level: int) -> SpanExporter:
    """Put together what logfire's own configuration does, but for its token."""
    otlp = importlib.import_module("logfire._internal.exporters.otlp")
    if level:
        _set_stock_level(level)
    exporter: SpanExporter = otlp.RetryFewerSpansSpanExporter(
        otlp.BodySizeCheckingOTLPSpanExporter(
            endpoint=endpoint, session=otlp.OTLPExporterHttpSession(), compression=Compression.Gzip
        )
    )
    return exporter


def _ours(endpoint: str, path: str, compression: Any, *, drain: bool = True) -> SpanExporter:
    settings = Settings(
        path=Path(path), target=Target.otlp(endpoint, {}), compression=compression, drain=drain
    )
    return SpoolSpanExporter(settings=settings)


_PIPELINES: dict[str, Callable[[str, str, str, int], SpanProcessor | None]] = {
    "none": lambda *_: None,
    "stock": lambda at, _, how, level: BatchSpanProcessor(_stock(at, how, level)),
    "stock-simple": lambda at, _, how, level: SimpleSpanProcessor(_stock(at, how, level)),
    "logfire": lambda at, _, __, level: BatchSpanProcessor(_logfire(at, level)),
    "ours": lambda at, path, how, _: SimpleSpanProcessor(_ours(at, path, how)),
    "ours-batch": lambda at, path, how, _: BatchSpanProcessor(_ours(at, path, how)),
    "ours-write-only": lambda at, path, how, _: SimpleSpanProcessor(
        _ours(at, path, how, drain=False)
    ),
}


def _pending(path: str) -> int:
    store = Store(Path(path))
    try:
        return sum(route.pending_spans for route in store.routes())
    finally:
        store.close()


def _peak_mib() -> float:
    """Tell the peak memory of this process; getrusage knows its parent's before exec, too."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)  # macOS: bytes
    peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024
