"""Spans as a person reads them: a line each, a page each, or OTLP JSON.

OTLP JSON is what the specification says ("JSON Protobuf Encoding"): protobuf's own, but with ids in
hexadecimal digits, and enumerations as numbers.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final

from spool.commands.output import local_time
from spool.errors import PayloadError
from spool.otlp.batch import unpack
from spool.system.redaction import printable
from spool.system.words import duration_of, size_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from google.protobuf.message import Message
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

    from spool.otlp.batch import Batch

_IDS: Final = frozenset({"traceId", "spanId", "parentSpanId"})
_LONGEST_VALUE: Final = 200  # characters, unless all are wanted
_KINDS: Final = ("unspecified", "internal", "server", "client", "producer", "consumer")
_STATUSES: Final = ("unset", "ok", "error")
_NANO: Final = 1e9


def request_of(batch: Batch) -> ExportTraceServiceRequest:
    """Decode a batch. Raises PayloadError."""
    from google.protobuf.message import DecodeError  # noqa: PLC0415 - slow, rarely needed
    from opentelemetry.proto.collector.trace.v1 import (  # noqa: PLC0415 - as above
        trace_service_pb2,
    )

    try:
        return trace_service_pb2.ExportTraceServiceRequest.FromString(unpack(batch))
    except DecodeError as error:
        raise PayloadError(f"a stored payload is no OTLP request: {error}") from error


def spans_of(batch: Batch) -> list[Span]:
    """Give a batch's spans. Raises PayloadError."""
    return [span for *_, span in _each(request_of(batch))]


def _each(request: ExportTraceServiceRequest) -> Iterator[tuple[ResourceSpans, ScopeSpans, Span]]:
    for resource_spans in request.resource_spans:
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                yield resource_spans, scope_spans, span


def otlp_json(batch: Batch) -> dict[str, Any]:
    """Give a batch as an OTLP JSON request. Raises PayloadError."""
    from google.protobuf.json_format import MessageToDict  # noqa: PLC0415 - slow, rarely needed

    message: Message = request_of(batch)
    found: dict[str, Any] = MessageToDict(message, use_integers_for_enums=True)
    for resource_spans in found.get("resourceSpans", ()):
        for scope_spans in resource_spans.get("scopeSpans", ()):
            for span in scope_spans.get("spans", ()):
                for one in (span, *span.get("links", ())):
                    one.update({i: base64.b64decode(one[i]).hex() for i in _IDS & one.keys()})
    return found


def page(batch: Batch, *, is_full: bool) -> Iterator[str]:
    """Give the lines about a batch's spans; long values are cut, unless all is wanted.

    Raises PayloadError.
    """
    for resource_spans, scope_spans, span in _each(request_of(batch)):
        yield ""
        yield f"span {span.name}"
        yield f"  trace    {span.trace_id.hex()}"
        parent = f"  parent {span.parent_span_id.hex()}" if span.parent_span_id else ""
        yield f"  span     {span.span_id.hex()}{parent}"
        seconds = (span.end_time_unix_nano - span.start_time_unix_nano) / _NANO
        lasted = duration_of(seconds) if seconds >= 0 else "ended before it began"
        yield f"  began    {nano_time(span.start_time_unix_nano)}  ({lasted})"
        yield f"  kind     {_word(_KINDS, span.kind)}"
        said = f"  {span.status.message}" if span.status.message else ""
        yield f"  status   {_word(_STATUSES, span.status.code)}{said}"
        yield f"  scope    {scope_spans.scope.name} {scope_spans.scope.version}".rstrip()
        yield from _attributes("attributes", span.attributes, is_full=is_full)
        for event in span.events:
            title = f"event {event.name}  {nano_time(event.time_unix_nano)}"
            yield from _attributes(title, event.attributes, is_full=is_full, is_shown=True)
        for link in span.links:
            yield f"  link     {link.trace_id.hex()} {link.span_id.hex()}"
        yield from _attributes("resource", resource_spans.resource.attributes, is_full=is_full)


def nano_time(nanoseconds: int) -> str:
    """Give a span's time in ISO 8601, in local time; what no clock can say as it stands."""
    try:
        return local_time(nanoseconds / _NANO)
    except (ValueError, OverflowError, OSError):
        return f"{nanoseconds} ns since 1970"


def _word(words: tuple[str, ...], number: int) -> str:
    return words[number] if 0 <= number < len(words) else str(number)


def _attributes(
    title: str, attributes: Iterable[KeyValue], *, is_full: bool, is_shown: bool = False
) -> Iterator[str]:
    lines = [f"    {one.key} = {_cut(_text(one.value), is_full=is_full)}" for one in attributes]
    if lines or is_shown:
        yield f"  {title}"
        yield from lines


def _cut(text: str, *, is_full: bool) -> str:
    if is_full or len(text) <= _LONGEST_VALUE:
        return text
    size = size_of(len(text.encode()))
    return f"{printable(text[:_LONGEST_VALUE])}… ({size} in all; --full shows it)"


def _text(value: AnyValue) -> str:
    kind = value.WhichOneof("value")
    if kind is None:
        return "(nothing)"
    if kind == "array_value":
        return f"[{', '.join(map(_text, value.array_value.values))}]"
    if kind == "kvlist_value":
        pairs = (f"{one.key}: {_text(one.value)}" for one in value.kvlist_value.values)
        return f"{{{', '.join(pairs)}}}"
    if kind == "bool_value":
        return "true" if value.bool_value else "false"
    found = getattr(value, kind)
    return found.hex() if isinstance(found, bytes) else str(found)
