"""Frames: what `export()` calls bring, one behind the other in a file that only grows.

    offset  bytes  what
    0       4      F5 FF 53 50: a mark that UTF-8 text never holds
    4       4      the CRC-32 of all that is behind it, up to the frame's end
    8       4      P, the payload's size
    12      2      I, the identity's size
    14      1      the batch's codec: 0 raw, 2 deflated, 1 gzip (only an older version wrote it)
    15      4      the batch's spans
    19      4      the batch's bytes before compression
    23      8      when it came: seconds since 1970, a double
    31      I      whose it is, see `Identity`: a JSON list of the route, its endpoint, its public
                   key or null, and who named the endpoint. Never a secret
    31 + I  P      the payload: an ExportTraceServiceRequest, as its codec says

All numbers are little-endian. `make` computes the checksum, in the thread whose span it is, and
`reader` compares it.

Invariant: a frame tells all of itself, and its checksum says whether it is whole.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from spool.otlp.batch import Batch

MARK: Final = b"\xf5\xffSP"
MARKED: Final = struct.Struct("<4sI")  # the mark, and the checksum
NUMBERS: Final = struct.Struct("<IHBIId")  # from the payload's size to when it came
HEAD_BYTES: Final = MARKED.size + NUMBERS.size


@dataclass(frozen=True, slots=True)
class Frame:
    """One `export()` call's spans: whose they are (an encoded `Identity`), and when they came."""

    identity: bytes
    batch: Batch
    created_at: float

    @property
    def size(self) -> int:
        """Count its bytes in the file."""
        return HEAD_BYTES + len(self.identity) + len(self.batch.payload)


def make(identity: bytes, batch: Batch, now: float) -> tuple[bytes, bytes]:
    """Make a frame of an encoded `Identity` and a batch: two parts, the payload as it is."""
    payload, spans, raw_bytes = batch.payload, batch.spans, batch.raw_bytes
    rest = NUMBERS.pack(len(payload), len(identity), batch.codec, spans, raw_bytes, now) + identity
    checksum = zlib.crc32(payload, zlib.crc32(rest))
    return MARKED.pack(MARK, checksum) + rest, payload
