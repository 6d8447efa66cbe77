"""Batches: spans as one payload, joined to request bodies and merged to rows without decoding.

A payload is a serialized `ExportTraceServiceRequest`, raw or deflated. Two facts carry the drain:
serialized protobuf messages concatenate into a valid message (Protocol Buffers, "Encoding",
last-one-wins and repeated fields), and flushed deflate blocks concatenate into a valid stream
(`compression`). So a request body is the byte-join of rows.
"""

from __future__ import annotations

import gzip
import itertools
import zlib
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from spool.errors import PayloadError
from spool.otlp.compression import Deflated, concatenate, deflate, gzip_member, inflate
from spool.otlp.encoder import encode_spans

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

# The largest row, before compression. One that a slow line cannot take at once is divided.
ROW_BYTES: Final = 2 << 20


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
