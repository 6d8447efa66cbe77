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
    31      I      whose it is: JSON of a route, its endpoint, its public key or null, and who named
                   the endpoint (`Named`; an older version did not say it). Never a secret
    31 + I  P      the payload: an ExportTraceServiceRequest, as its codec says

All numbers are little-endian. `make` computes the checksum, in the thread whose span it is, and
`reader` compares it.

Invariant: a frame tells all of itself, and its checksum says whether it is whole.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from spool.settings.target import Named
from spool.system.redaction import without_secrets

if TYPE_CHECKING:
    from spool.otlp.batch import Batch
    from spool.settings.target import Target

MARK: Final = b"\xf5\xffSP"
MARKED: Final = struct.Struct("<4sI")  # the mark, and the checksum
NUMBERS: Final = struct.Struct("<IHBIId")  # from the payload's size to when it came
HEAD_BYTES: Final = MARKED.size + NUMBERS.size

Identity = tuple[str, str, "str | None", int]


@dataclass(frozen=True, slots=True)
class Frame:
    """One `export()` call's spans: whose they are (`identity_of`), and when they came."""

    identity: bytes
    batch: Batch
    created_at: float

    @property
    def size(self) -> int:
        """Count its bytes in the file."""
        return HEAD_BYTES + len(self.identity) + len(self.batch.payload)


def make(identity: bytes, batch: Batch, now: float) -> tuple[bytes, bytes]:
    """Make a frame of a batch and whose it is (`identify`): two parts, the payload as it is."""
    payload, spans, raw_bytes = batch.payload, batch.spans, batch.raw_bytes
    said = NUMBERS.pack(len(payload), len(identity), batch.codec, spans, raw_bytes, now) + identity
    checksum = zlib.crc32(payload, zlib.crc32(said))
    return MARKED.pack(MARK, checksum) + said, payload


def identity(target: Target) -> Identity:
    """Give what `route` knows of a target, without a secret: its columns, see `sql.REGISTER`."""
    return target.route, without_secrets(target.endpoint), target.public_key, int(target.named)


def identify(target: Target) -> bytes:
    """Say whose a frame is."""
    return json.dumps(identity(target)).encode()


def identity_of(said: bytes) -> Identity:
    """Give what `identify` said; older versions did not say who named the endpoint."""
    route, endpoint, public_key, *named = json.loads(said)
    return route, endpoint, public_key, named[0] if named else int(Named.BY_OWNER)
