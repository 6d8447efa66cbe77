"""Batches cut between their spans, without decoding one: each span's bytes stay as they are.

A request is cut where its spans stand. What stands around them (resource, scope, schema URLs, and
fields that nobody knows yet) goes into both halves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from spool.errors import PayloadError
from spool.otlp.batch import Batch, unpack
from spool.otlp.encoder import varint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# request.resource_spans → ResourceSpans.scope_spans → ScopeSpans.spans: their field numbers in
# opentelemetry/proto/collector/trace/v1/trace_service.proto and trace/v1/trace.proto.
_TO_SPANS = (1, 2, 2)


def cut(batch: Batch, spans: int) -> tuple[Batch, Batch]:
    """Cut a batch behind its first `spans` spans; 0 < `spans` < `batch.spans`.

    Raises PayloadError.
    """
    head, rest, taken = _cut(unpack(batch), _TO_SPANS, spans)
    return Batch(head, taken, len(head)), Batch(rest, batch.spans - taken, len(rest))


def pieces(batch: Batch, max_bytes: int) -> list[Batch]:
    """Halve a batch until each piece fits, or is one span: rows are rewritten as they are cut.

    Raises PayloadError.
    """
    return _halved(batch, lambda one: one.raw_bytes <= max_bytes or one.spans == 1)


def divide(batch: Batch, most: int) -> list[Batch]:
    """Halve a batch until no part has more than so many spans. Raises PayloadError."""
    return _halved(batch, lambda one: one.spans <= most)


def _halved(batch: Batch, is_small: Callable[[Batch], bool]) -> list[Batch]:
    if is_small(batch):
        return [batch]
    head, rest = cut(batch, batch.spans // 2)
    if not head.spans:
        raise PayloadError("a stored payload holds less spans than it says")
    return [*_halved(head, is_small), *_halved(rest, is_small)]


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
