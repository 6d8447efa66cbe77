"""OTLP as bytes: spans to request bytes, and request bytes cut and joined without decoding.

A payload is a serialized `ExportTraceServiceRequest`, raw or deflated. Two facts carry the drain:
serialized protobuf messages concatenate into a valid message (Protocol Buffers, "Encoding",
last-one-wins and repeated fields), and flushed deflate blocks concatenate into a valid stream
(`deflate`). So a request body is the byte-join of rows.
"""

from __future__ import annotations

import gzip
import itertools
import zlib
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from spool.errors import PayloadError
from spool.otlp.compression import Deflated, concatenate, deflate, gzip_member, inflate
from spool.otlp.encoder import encode_spans, varint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

# The largest row, before compression. One that a slow line cannot take at once is divided.
ROW_BYTES: Final = 2 << 20

# request.resource_spans → ResourceSpans.scope_spans → ScopeSpans.spans: their field numbers in
# opentelemetry/proto/collector/trace/v1/trace_service.proto and trace/v1/trace.proto.
_TO_SPANS = (1, 2, 2)


class Codec(IntEnum):
    """How a payload is stored. Any other number is damage."""

    RAW = 0
    GZIP = 1  # only an older version wrote it
    DEFLATE = 2


CODECS: Final = frozenset(map(int, Codec))


@dataclass(frozen=True, slots=True)
class Batch:
    """Spans as one payload. `raw_bytes` is its size before compression, `codec` a `Codec`."""

    payload: bytes
    spans: int
    raw_bytes: int
    codec: int = Codec.RAW


def encode(spans: Sequence[ReadableSpan]) -> Batch:
    """Serialize spans; raises what OpenTelemetry's encoder raises where one cannot be."""
    payload = encode_spans(spans)
    return Batch(payload, len(spans), len(payload))


def unpack(batch: Batch) -> bytes:
    """Give the raw request bytes. Raises PayloadError."""
    if batch.codec == Codec.RAW:
        return batch.payload
    if batch.codec == Codec.DEFLATE:
        return inflate(Deflated(batch.payload, batch.raw_bytes))
    if batch.codec != Codec.GZIP:
        raise PayloadError(f"a stored payload is of an unknown kind ({batch.codec})")
    try:
        return gzip.decompress(batch.payload)
    except (OSError, EOFError, zlib.error) as error:
        raise PayloadError(f"a stored payload is not gzip: {error}") from error


def join(batches: Iterable[Batch], *, compress: bool) -> bytes:
    """Join batches into one request body: gzip if `compress`, else raw. Raises PayloadError."""
    if compress:
        return gzip_member(_deflated(batches))
    return b"".join(unpack(batch) for batch in batches)


def merge(batches: Sequence[Batch], *, compress: bool) -> Batch:
    """Make one batch of several: deflated if `compress`, else raw. Raises PayloadError.

    One alone that is not to be compressed stays as it is.
    """
    if len(batches) == 1 and not compress:
        return batches[0]
    spans = sum(batch.spans for batch in batches)
    if compress:
        payload, length = _deflated(batches)
        return Batch(payload, spans, length, Codec.DEFLATE)
    raw = join(batches, compress=False)
    return Batch(raw, spans, len(raw))


def _deflated(batches: Iterable[Batch]) -> Deflated:
    """Join batches: deflated ones as they are, all between them compressed in one go."""
    parts: list[Deflated] = []
    for is_ready, run in itertools.groupby(batches, lambda batch: batch.codec == Codec.DEFLATE):
        if is_ready:
            parts += [Deflated(batch.payload, batch.raw_bytes) for batch in run]
        else:
            parts.append(deflate(join(run, compress=False)))
    return parts[0] if len(parts) == 1 else concatenate(parts)


def cut(batch: Batch, spans: int) -> tuple[Batch, Batch]:
    """Cut a batch behind its first `spans` spans; 0 < `spans` < `batch.spans`.

    Every span's bytes stay as they are; resource and scope stand in both halves. Raises
    PayloadError.
    """
    head, rest, taken = _cut(unpack(batch), _TO_SPANS, spans)
    return Batch(head, taken, len(head)), Batch(rest, batch.spans - taken, len(rest))


def pieces(batch: Batch, max_bytes: int) -> list[Batch]:
    """Halve a batch until each piece fits, or is one span: rows are rewritten as they are cut."""
    if batch.raw_bytes <= max_bytes or batch.spans == 1:
        return [batch]
    return [piece for half in cut(batch, batch.spans // 2) for piece in pieces(half, max_bytes)]


def divide(batch: Batch, most: int) -> list[Batch]:
    """Halve a batch until no part has more than so many spans. Raises PayloadError."""
    if batch.spans <= most:
        return [batch]
    halves = cut(batch, batch.spans // 2)
    if not halves[0].spans:
        raise PayloadError("a stored payload holds less spans than it says")
    return [part for half in halves for part in divide(half, most)]


class _Field(NamedTuple):
    number: int
    whole: bytes
    content: bytes


def _cut(message: bytes, path: tuple[int, ...], spans: int) -> tuple[bytes, bytes, int]:
    """Cut a message whose spans stand `path` fields deep: head, rest, and spans in the head.

    A half without spans is empty. Other fields (resource, scope, schema URL) go into both.
    """
    head: list[bytes] = []
    rest: list[bytes] = []
    taken = kept = 0
    for field in _fields(message):
        if field.number != path[0]:
            head.append(field.whole)
            rest.append(field.whole)
        elif len(path) == 1:
            is_taken = taken < spans
            (head if is_taken else rest).append(field.whole)
            taken, kept = taken + is_taken, kept + (not is_taken)
        else:
            inner_head, inner_rest, inner_taken = _cut(field.content, path[1:], spans - taken)
            head.append(_wrap(field.number, inner_head))
            rest.append(_wrap(field.number, inner_rest))
            taken, kept = taken + inner_taken, kept + bool(inner_rest)
    return b"".join(head) if taken else b"", b"".join(rest) if kept else b"", taken


def _wrap(number: int, content: bytes) -> bytes:
    if not content:
        return b""
    return varint(number << 3 | 2) + varint(len(content)) + content


def _fields(message: bytes) -> Iterator[_Field]:
    """Walk the fields of a message (Protocol Buffers, "Encoding", message structure)."""
    position = 0
    while position < len(message):
        start = position
        tag, position = _read_varint(message, position)
        content, position = _read_content(message, position, tag & 7)
        if position > len(message):
            raise PayloadError("a stored payload is cut off in the middle of a field")
        yield _Field(tag >> 3, message[start:position], content)


def _read_content(message: bytes, position: int, wire_type: int) -> tuple[bytes, int]:
    if wire_type == 2:  # noqa: PLR2004 - LEN, as the encoding names it
        length, position = _read_varint(message, position)
        return message[position : position + length], position + length
    if wire_type == 0:
        return b"", _read_varint(message, position)[1]
    fixed = {1: 8, 5: 4}.get(wire_type)
    if fixed is None:
        raise PayloadError(f"a stored payload has wire type {wire_type}, which OTLP has not")
    return b"", position + fixed


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(message):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the continuation bit
            return value, position
        shift += 7
    raise PayloadError("a stored payload is cut off in the middle of a number")
