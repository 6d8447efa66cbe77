"""Real spans of the OpenTelemetry SDK, as batches and through a provider."""

from __future__ import annotations

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter

from spool.otlp.batch import Batch, encode

_tracer = TracerProvider(shutdown_on_exit=False).get_tracer("tests")


def span(name: str = "call", size: int = 100) -> ReadableSpan:
    """Make an ended span that carries `size` bytes of text."""
    started = _tracer.start_span(name, attributes={"text": "x" * size})
    started.end()
    assert isinstance(started, ReadableSpan)
    return started


def batch(*names: str, size: int = 100) -> Batch:
    """Encode spans with these names as one batch."""
    return encode([span(name, size) for name in names])


def names_in(payload: bytes) -> list[str]:
    """Decode a payload; give the names of its spans."""
    request = ExportTraceServiceRequest.FromString(payload)
    return [
        span.name
        for resource_spans in request.resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
    ]


def provider_of(exporter: SpanExporter) -> TracerProvider:
    """Make a provider whose spans are exported as they end."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider
