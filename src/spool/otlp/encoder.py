"""Spans to OTLP wire bytes: the hot path, as it runs in `span.end()` on the application's threads.

What comes out is, byte for byte, what OpenTelemetry's own encoder and protobuf give, several times
faster and without importing either. What is not known here goes through them, the whole call: an
odd span is never worse off. So nothing is guessed: a type counts as known if it is the exact one,
and every exception means "not known".

One thing is done otherwise: text that is not Unicode, with a lone surrogate in it (a cut emoji, an
undecodable file name), is mended. OpenTelemetry's encoder leaves out an attribute that has such
text, and refuses the whole call where a name or a status has it.

Only public names of the SDK are read: private ones would save about a tenth. The caches are
bounded and work without locks: two threads may encode the same thing, and either result is right.
What they hold by identity is immutable by its contract, and is held strongly: its id is nobody
else's.
"""

from __future__ import annotations

import struct
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.sdk.version import __version__ as _sdk_version
from opentelemetry.trace import SpanKind, StatusCode

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from opentelemetry.sdk.trace import Event, ReadableSpan
    from opentelemetry.trace import Link, SpanContext, Status
    from opentelemetry.trace.span import TraceState

_Thing = TypeVar("_Thing")


class _UnfamiliarError(Exception):
    """Only the official encoder knows what to do with this."""


def _long_varint(number: int) -> bytes:
    """Encode a number of eight bits or more."""
    if number < 1 << 14:
        return bytes((number & 0x7F | 0x80, number >> 7))
    encoded = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - seven bits a byte
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


# Most lengths are below this, and looked up.
_TABLED: Final = 2048
_VARINTS: Final = [
    bytes([number]) if number < 128 else _long_varint(number)  # noqa: PLR2004 - seven bits a byte
    for number in range(_TABLED)
]


def varint(number: int) -> bytes:
    """Encode a number that is not negative (Protocol Buffers, "Encoding", base 128 varints)."""
    return _VARINTS[number] if number < _TABLED else _long_varint(number)


def _varint_tag(number: int) -> bytes:
    return varint(number << 3)


def _fixed64_tag(number: int) -> bytes:
    return varint(number << 3 | 1)


def _len_tag(number: int) -> bytes:
    return varint(number << 3 | 2)


def _fixed32_tag(number: int) -> bytes:
    return varint(number << 3 | 5)


_TRACE_ID_SIZE: Final = 16
_SPAN_ID_SIZE: Final = 8


def _id_tag(number: int, size: int) -> bytes:
    """Encode what stands before an id: its length never changes."""
    return _len_tag(number) + varint(size)


# The field numbers, a message a paragraph, from the files below opentelemetry/proto of
# https://github.com/open-telemetry/opentelemetry-proto.

# ExportTraceServiceRequest, in collector/trace/v1/trace_service.proto
_REQUEST_RESOURCE_SPANS: Final = _len_tag(1)

# ResourceSpans, ScopeSpans, Span, Span.Event, Span.Link and Status, in trace/v1/trace.proto
_RESOURCE_SPANS_RESOURCE: Final = _len_tag(1)
_RESOURCE_SPANS_SCOPE_SPANS: Final = _len_tag(2)
_RESOURCE_SPANS_SCHEMA_URL: Final = _len_tag(3)

_SCOPE_SPANS_SCOPE: Final = _len_tag(1)
_SCOPE_SPANS_SPANS: Final = _len_tag(2)
_SCOPE_SPANS_SCHEMA_URL: Final = _len_tag(3)

_SPAN_TRACE_ID: Final = _id_tag(1, _TRACE_ID_SIZE)
_SPAN_SPAN_ID: Final = _id_tag(2, _SPAN_ID_SIZE)
_SPAN_TRACE_STATE: Final = _len_tag(3)
_SPAN_PARENT_SPAN_ID: Final = _id_tag(4, _SPAN_ID_SIZE)
_SPAN_NAME: Final = _len_tag(5)
_SPAN_KIND: Final = _varint_tag(6)
_SPAN_START_TIME: Final = _fixed64_tag(7)
_SPAN_END_TIME: Final = _fixed64_tag(8)
_SPAN_ATTRIBUTES: Final = _len_tag(9)
_SPAN_DROPPED_ATTRIBUTES: Final = _varint_tag(10)
_SPAN_EVENTS: Final = _len_tag(11)
_SPAN_DROPPED_EVENTS: Final = _varint_tag(12)
_SPAN_LINKS: Final = _len_tag(13)
_SPAN_DROPPED_LINKS: Final = _varint_tag(14)
_SPAN_STATUS: Final = _len_tag(15)
_SPAN_FLAGS: Final = _fixed32_tag(16)

_EVENT_TIME: Final = _fixed64_tag(1)
_EVENT_NAME: Final = _len_tag(2)
_EVENT_ATTRIBUTES: Final = _len_tag(3)
_EVENT_DROPPED_ATTRIBUTES: Final = _varint_tag(4)

# The official encoder leaves out a link's trace state, field 3.
_LINK_TRACE_ID: Final = _id_tag(1, _TRACE_ID_SIZE)
_LINK_SPAN_ID: Final = _id_tag(2, _SPAN_ID_SIZE)
_LINK_ATTRIBUTES: Final = _len_tag(4)
_LINK_DROPPED_ATTRIBUTES: Final = _varint_tag(5)
_LINK_FLAGS: Final = _fixed32_tag(6)

_STATUS_MESSAGE: Final = _len_tag(2)
_STATUS_CODE: Final = _varint_tag(3)

# Resource, in resource/v1/resource.proto
_RESOURCE_ATTRIBUTES: Final = _len_tag(1)

# InstrumentationScope, KeyValue, AnyValue, ArrayValue and KeyValueList, in common/v1/common.proto
_SCOPE_NAME: Final = _len_tag(1)
_SCOPE_VERSION: Final = _len_tag(2)
_SCOPE_ATTRIBUTES: Final = _len_tag(3)

_KEY_VALUE_KEY: Final = _len_tag(1)
_KEY_VALUE_VALUE: Final = _len_tag(2)

_ANY_STRING: Final = _len_tag(1)
_ANY_BOOL: Final = _varint_tag(2)
_ANY_INT: Final = _varint_tag(3)
_ANY_DOUBLE: Final = _fixed64_tag(4)
_ANY_ARRAY: Final = _len_tag(5)
_ANY_KEY_VALUES: Final = _len_tag(6)
_ANY_BYTES: Final = _len_tag(7)

_ARRAY_VALUES: Final = _len_tag(1)
_KEY_VALUES_VALUES: Final = _len_tag(1)

# enum SpanKind counts from 1, as 0 is "unspecified"; the SDK's from 0. enum StatusCode is the same.
_KINDS: Final = {kind: _SPAN_KIND + varint(kind.value + 1) for kind in SpanKind}
_CODES: Final = {
    code: _STATUS_CODE + varint(code.value) if code.value else b"" for code in StatusCode
}

# enum SpanFlags: CONTEXT_HAS_IS_REMOTE_MASK, and CONTEXT_IS_REMOTE_MASK.
_LOCAL: Final = struct.pack("<I", 0x100)
_REMOTE: Final = struct.pack("<I", 0x100 | 0x200)

# AnyValue messages with their length in front, whole or up to the number.
_TRUE: Final = b"\x02" + _ANY_BOOL + b"\x01"
_FALSE: Final = b"\x02" + _ANY_BOOL + b"\x00"
_DOUBLE: Final = b"\x09" + _ANY_DOUBLE

_fixed64: Final = struct.Struct("<Q").pack
_double: Final = struct.Struct("<d").pack

# Protobuf refuses what is nested some 30 deep or deeper: far above this, the official encoder sees.
_MAX_DEPTH: Final = 12

# How many resources, scopes and keys are remembered: more than an application has, if it has few.
_MAX_THINGS: Final = 128
_MAX_KEYS: Final = 4096
_MAX_KEY_LENGTH: Final = 256

# The exporter's release is the SDK's, which it pins. Since 1.31 the official encoder writes a
# scope's schema URL and attributes, since 1.43 values that are None; before, it is asked.
_release: Final = tuple(int(part) for part in _sdk_version.split(".")[:2])
_WRITES_WHOLE_SCOPES: Final = _release >= (1, 31)
_WRITES_NONE: Final = _release >= (1, 43)


def encode_spans(spans: Sequence[ReadableSpan]) -> bytes:
    """Serialize spans as an ExportTraceServiceRequest; raises what the official encoder raises."""
    try:
        return b"".join(_request(spans))
    except Exception:  # noqa: BLE001 - whatever it is, the official encoder decides
        return _encode_officially(spans)


def _encode_officially(spans: Sequence[ReadableSpan]) -> bytes:
    from opentelemetry.exporter.otlp.proto.common import trace_encoder  # noqa: PLC0415 - rarely needed

    try:
        return trace_encoder.encode_spans(spans).SerializeToString()
    except UnicodeEncodeError:
        mended = [_mended_span(span) for span in spans]
        return trace_encoder.encode_spans(mended).SerializeToString()


def _mended_span(span: ReadableSpan) -> ReadableSpan:
    """Copy a span, with text that can be encoded where the official encoder insists on it."""
    from opentelemetry.sdk.trace import Event, ReadableSpan  # noqa: PLC0415 - rarely needed
    from opentelemetry.trace import Status  # noqa: PLC0415 - as above

    code, words = span.status.status_code, span.status.description
    return ReadableSpan(
        _mended(span.name),
        span.get_span_context(),
        span.parent,
        span.resource,
        span.attributes,
        [Event(_mended(event.name), event.attributes, event.timestamp) for event in span.events],
        span.links,
        span.kind,
        instrumentation_scope=span.instrumentation_scope,
        status=Status(code, words and _mended(words)),
        start_time=span.start_time,
        end_time=span.end_time,
    )


# Everything is a list of pieces, which are joined once, at the end or where a length is needed.


def _request(spans: Sequence[ReadableSpan]) -> list[bytes]:
    pieces: list[bytes] = []
    for resource, its_spans in _grouped(spans, _resource_of):
        around = _resource(resource)
        scopes, size = _scopes(its_spans)
        length = varint(size + around.size)
        pieces += (_REQUEST_RESOURCE_SPANS, length, around.before, *scopes, around.behind)
    return pieces


def _scopes(spans: Sequence[ReadableSpan]) -> tuple[list[bytes], int]:
    """Encode the ScopeSpans of one resource; give their size, too."""
    pieces: list[bytes] = []
    total = 0
    for scope, its_spans in _grouped(spans, _scope_of):
        around = _scope(scope)
        bodies: list[bytes] = []
        size = around.size
        for span in its_spans:
            body = _span(span)
            length = varint(len(body))
            bodies += (_SCOPE_SPANS_SPANS, length, body)
            size += 1 + len(length) + len(body)
        length = varint(size)
        pieces += (_RESOURCE_SPANS_SCOPE_SPANS, length, around.before, *bodies, around.behind)
        total += 1 + len(length) + size
    return pieces, total


_resource_of: Final = attrgetter("resource")
_scope_of: Final = attrgetter("instrumentation_scope")


def _grouped(
    spans: Sequence[ReadableSpan], of: Callable[[ReadableSpan], Any]
) -> Collection[tuple[Any, Sequence[ReadableSpan]]]:
    """Group spans by what equals, in order; by identity first: hashing a Resource writes JSON."""
    if len(spans) == 1:
        return [(of(spans[0]), spans)]
    things = list(map(of, spans))
    distinct = {id(thing): thing for thing in things}
    if len(distinct) == 1:
        return [(things[0], spans)]
    groups: dict[Any, list[ReadableSpan]] = {}
    group_of = {identity: groups.setdefault(thing, []) for identity, thing in distinct.items()}
    for thing, span in zip(things, spans, strict=True):
        group_of[id(thing)].append(span)
    return groups.items()


def _message(tag: bytes, pieces: list[bytes]) -> list[bytes]:
    return [tag, varint(sum(map(len, pieces))), *pieces]


def _field(tag: bytes, content: bytes) -> bytes:
    return tag + varint(len(content)) + content


def _text(tag: bytes, text: str | None) -> bytes:
    if type(text) is str:
        return _field(tag, _utf8(text)) if text else b""
    if text is None:
        return b""
    raise _UnfamiliarError


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _mended(text).encode()


def _mended(text: str) -> str:
    """Join surrogates that are pairs, and put U+FFFD for those that stand alone."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _count(tag: bytes, count: int) -> bytes:
    if type(count) is not int or not 0 <= count < 1 << 32:
        raise _UnfamiliarError
    return tag + varint(count) if count else b""


# Resources and scopes


class _Around(NamedTuple):
    """What stands before and behind the spans of a resource or a scope, and its size."""

    before: bytes
    behind: bytes
    size: int


def _around(before: bytes, behind: bytes) -> _Around:
    return _Around(before, behind, len(before) + len(behind))


class _Remembered(Generic[_Thing]):
    """An encoder that encodes the same object once."""

    def __init__(self, encode: Callable[[_Thing], _Around]) -> None:
        self._encode = encode
        self._known: dict[int, tuple[_Thing, _Around]] = {}

    def __call__(self, thing: _Thing) -> _Around:
        known = self._known.get(id(thing))
        return self._remember(thing) if known is None else known[1]

    def _remember(self, thing: _Thing) -> _Around:
        around = self._encode(thing)
        if len(self._known) >= _MAX_THINGS:
            self._known.clear()
        self._known[id(thing)] = thing, around
        return around


@_Remembered
def _resource(resource: Resource) -> _Around:
    if type(resource) is not Resource:
        raise _UnfamiliarError
    pieces: list[bytes] = []
    _add_attributes(pieces, _RESOURCE_ATTRIBUTES, resource.attributes)
    return _around(
        _field(_RESOURCE_SPANS_RESOURCE, b"".join(pieces)),
        _text(_RESOURCE_SPANS_SCHEMA_URL, resource.schema_url),
    )


@_Remembered
def _scope(scope: InstrumentationScope | None) -> _Around:
    if scope is None:
        return _around(_field(_SCOPE_SPANS_SCOPE, b""), b"")
    if type(scope) is not InstrumentationScope:
        raise _UnfamiliarError
    if not _WRITES_WHOLE_SCOPES and (scope.attributes or scope.schema_url):
        raise _UnfamiliarError
    pieces = [_text(_SCOPE_NAME, scope.name), _text(_SCOPE_VERSION, scope.version)]
    _add_attributes(pieces, _SCOPE_ATTRIBUTES, scope.attributes)
    return _around(
        _field(_SCOPE_SPANS_SCOPE, b"".join(pieces)),
        _text(_SCOPE_SPANS_SCHEMA_URL, scope.schema_url),
    )


# Spans


def _span(span: ReadableSpan) -> bytes:
    context, parent = span.get_span_context(), span.parent
    if context is None:
        raise _UnfamiliarError
    pieces = [
        _SPAN_TRACE_ID,
        context.trace_id.to_bytes(_TRACE_ID_SIZE, "big"),
        _SPAN_SPAN_ID,
        context.span_id.to_bytes(_SPAN_ID_SIZE, "big"),
    ]
    if context.trace_state:
        pieces.append(_trace_state(context.trace_state))
    if parent is not None:
        pieces += (_SPAN_PARENT_SPAN_ID, parent.span_id.to_bytes(_SPAN_ID_SIZE, "big"))
    pieces += (
        _text(_SPAN_NAME, span.name),
        _KINDS[span.kind],
        _time(_SPAN_START_TIME, span.start_time),
        _time(_SPAN_END_TIME, span.end_time),
    )
    _add_attributes(pieces, _SPAN_ATTRIBUTES, span.attributes)
    if dropped := span.dropped_attributes:
        pieces.append(_count(_SPAN_DROPPED_ATTRIBUTES, dropped))
    pieces += [_field(_SPAN_EVENTS, _event(event)) for event in span.events]
    if dropped := span.dropped_events:
        pieces.append(_count(_SPAN_DROPPED_EVENTS, dropped))
    pieces += [_field(_SPAN_LINKS, _link(link)) for link in span.links]
    if dropped := span.dropped_links:
        pieces.append(_count(_SPAN_DROPPED_LINKS, dropped))
    pieces += (_status(span.status), _SPAN_FLAGS, _flags(parent))
    return b"".join(pieces)


def _time(tag: bytes, nanoseconds: int | None) -> bytes:
    if type(nanoseconds) is not int or nanoseconds == 0:
        raise _UnfamiliarError
    return tag + _fixed64(nanoseconds)


def _trace_state(state: TraceState) -> bytes:
    return _text(_SPAN_TRACE_STATE, ",".join([f"{key}={value}" for key, value in state.items()]))


def _flags(context: SpanContext | None) -> bytes:
    return _LOCAL if context is None or not context.is_remote else _REMOTE


def _status(status: Status) -> bytes:
    message = _text(_STATUS_MESSAGE, status.description)
    return _field(_SPAN_STATUS, message + _CODES[status.status_code])


def _event(event: Event) -> bytes:
    pieces = [_time(_EVENT_TIME, event.timestamp), _text(_EVENT_NAME, event.name)]
    _add_attributes(pieces, _EVENT_ATTRIBUTES, event.attributes)
    pieces.append(_count(_EVENT_DROPPED_ATTRIBUTES, event.dropped_attributes))
    return b"".join(pieces)


def _link(link: Link) -> bytes:
    pieces = [
        _LINK_TRACE_ID,
        link.context.trace_id.to_bytes(_TRACE_ID_SIZE, "big"),
        _LINK_SPAN_ID,
        link.context.span_id.to_bytes(_SPAN_ID_SIZE, "big"),
    ]
    _add_attributes(pieces, _LINK_ATTRIBUTES, link.attributes)
    dropped = _count(_LINK_DROPPED_ATTRIBUTES, link.dropped_attributes)
    pieces += (dropped, _LINK_FLAGS, _flags(link.context))
    return b"".join(pieces)


# Attributes


def _add_attributes(pieces: list[bytes], tag: bytes, attributes: Any) -> None:
    if not attributes:
        return
    keys = _keys
    # A copy is a plain dict, made at once; a BoundedAttributes would be asked for each value.
    for key, value in attributes.copy().items():
        name = keys[key]
        if type(value) is str:
            try:  # as `_utf8`, but quicker
                content = value.encode()
            except UnicodeEncodeError:
                content = _mended(value).encode()
            size = len(content)
            prefix = _STRING_PREFIXES[size] if size < _TABLED else _string_prefix(size)
            size += len(name) + len(prefix)
            length = _VARINTS[size] if size < _TABLED else _long_varint(size)
            pieces += (tag, length, name, prefix, content)
        else:
            content = _any_value(value)
            pieces += (tag, varint(len(name) + len(content)), name, content)


class _Keys(dict[str, bytes]):
    """What stands in a KeyValue before the value's length, by key."""

    def __missing__(self, key: str) -> bytes:
        name = _text(_KEY_VALUE_KEY, key) + _KEY_VALUE_VALUE
        if len(key) <= _MAX_KEY_LENGTH:
            if len(self) >= _MAX_KEYS:
                self.clear()
            self[key] = name
        return name


_keys: Final = _Keys()


def _string_prefix(size: int) -> bytes:
    """Encode what stands in an AnyValue, its length included, before a string of `size` bytes."""
    inner = _ANY_STRING + varint(size)
    return varint(len(inner) + size) + inner


_STRING_PREFIXES: Final = [_string_prefix(size) for size in range(_TABLED)]


def _any_value(value: Any, depth: int = 0) -> bytes:
    """Encode an AnyValue, with its length in front."""
    kind = type(value)
    scalar = _SCALARS.get(kind)
    if scalar is not None:
        return scalar(value)
    if depth == _MAX_DEPTH:
        raise _UnfamiliarError
    if kind is tuple or kind is list:
        return _array(value, depth + 1)
    if kind is dict:
        return _key_values(value, depth + 1)
    return _any_value(_plain(value))


def _array(values: Sequence[Any], depth: int) -> bytes:
    content = b"".join([_ARRAY_VALUES + _any_value(value, depth) for value in values])
    return _delimited(_field(_ANY_ARRAY, content))


def _key_values(values: Mapping[str, Any], depth: int) -> bytes:
    pieces: list[bytes] = []
    for key, value in values.items():
        pieces += _message(_KEY_VALUES_VALUES, [_keys[key], _any_value(value, depth)])
    return _delimited(_field(_ANY_KEY_VALUES, b"".join(pieces)))


def _plain(value: Any) -> Any:
    """Give what protobuf would read of a subclass such as HTTPStatus or numpy.float64."""
    for kind, plain in _PLAIN.items():
        if isinstance(value, kind):
            return plain(value)
    raise _UnfamiliarError


def _delimited(content: bytes) -> bytes:
    return varint(len(content)) + content


def _string(value: str) -> bytes:
    content = _utf8(value)
    size = len(content)
    return (_STRING_PREFIXES[size] if size < _TABLED else _string_prefix(size)) + content


def _bool(value: bool) -> bytes:
    return _TRUE if value else _FALSE


def _int(value: int) -> bytes:
    if 0 <= value < _TABLED:
        return _INTS[value]
    if not -1 << 63 <= value < 1 << 63:
        raise _UnfamiliarError
    return _delimited(_ANY_INT + _long_varint(value & (1 << 64) - 1))


_INTS: Final = [_delimited(_ANY_INT + varint) for varint in _VARINTS]


def _float(value: float) -> bytes:
    return _DOUBLE + _double(value)


def _bytes(value: bytes) -> bytes:
    return _delimited(_field(_ANY_BYTES, value))


def _none(_: None) -> bytes:
    if not _WRITES_NONE:
        raise _UnfamiliarError
    return b"\x00"


_SCALARS: Final[dict[type, Callable[[Any], bytes]]] = {
    str: _string,
    bool: _bool,
    int: _int,
    float: _float,
    bytes: _bytes,
    type(None): _none,
}
_PLAIN: Final[dict[type, Callable[[Any], Any]]] = {
    str: str.__str__,
    int: int.__index__,
    float: float.__float__,
}
