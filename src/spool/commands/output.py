"""What commands print: lines without control characters, local times, the spans of a batch."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import click

from spool.otlp.batch import unpack
from spool.system.redaction import printable

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    from spool.otlp.batch import Batch


def say(line: str, *, err: bool = False) -> None:
    """Print a line. What spans, keys and servers say is escaped, as JSON does it by itself."""
    click.echo(printable(line), err=err)


def local_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def spans_of(batch: Batch) -> list[Span]:
    from opentelemetry.proto.collector.trace.v1 import (  # noqa: PLC0415 - slow, rarely needed
        trace_service_pb2,
    )

    request = trace_service_pb2.ExportTraceServiceRequest.FromString(unpack(batch))
    return [
        span
        for resource_spans in request.resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
    ]
