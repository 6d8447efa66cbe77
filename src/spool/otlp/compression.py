"""One gzip member from payloads that were compressed at different times, none of it done again.

    offset  bytes  a deflated payload
    0       4      the CRC-32 of its content
    4       n      deflate blocks, none of them the final one; the last 4 bytes are 00 00 FF FF

    offset  bytes  a gzip body
    0       10     the header: 1F 8B 08, no flags, no time, compressed fast, on no certain system
    10      n      the blocks of its payloads, as they are, one payload behind the other
    10 + n  2      03 00: an empty block, the final one
    12 + n  4      the CRC-32 of all content, combined of the payloads' own
    16 + n  4      the length of all content, modulo 2^32

All numbers are little-endian.

Invariants:

- A payload's blocks look back at none but its own content, none of them is the final one, and a
  flush ends them at a whole byte (RFC 1951, sections 3.2.3 and 3.2.4). So they can stand behind any
  others, and the body's own final block, an empty one, ends the stream.
- A body is one member (RFC 1952, section 2.3): there are receivers that read the first only, say
  200, and lose the rest.
- Who made a payload does not matter: isal's and zlib's stand in one body.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from spool.errors import PayloadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# No name, no time, "compressed as fast as can be", on a system that does not matter.
_HEADER: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff"
_FINAL_BLOCK: Final = b"\x03\x00"
_FLUSHED: Final = b"\x00\x00\xff\xff"
_CRC: Final = struct.Struct("<I")
_TRAILER: Final = struct.Struct("<II")
# zlib's level 1 costs a quarter of level 6 for a sixth more bytes (measured on LLM-like spans);
# isal's a fifth of that, for fewer bytes.
_LEVEL: Final = 1
_POLYNOMIAL: Final = 0xEDB88320  # RFC 1952, section 8, with the first coefficient in the last bit


class Deflated(NamedTuple):
    """A deflated payload, and how many bytes it holds."""

    payload: bytes
    length: int


def deflate(content: bytes) -> Deflated:
    """Compress into a payload."""
    compressor = _library.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    head = _CRC.pack(_library.crc32(content))
    blocks = head + compressor.compress(content) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return Deflated(blocks, len(content))


def inflate(deflated: Deflated) -> bytes:
    """Give what a payload holds. Raises PayloadError for one that is damaged."""
    payload, length = deflated
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = inflater.decompress(payload[_CRC.size :], length + 1)
    except zlib.error as error:
        raise PayloadError(f"a stored payload is not deflated: {error}") from error
    is_ended = payload.endswith(_FLUSHED) and not inflater.eof
    is_whole = len(content) == length and _crc(payload) == _library.crc32(content)
    if not (is_ended and is_whole):
        raise PayloadError("a stored payload is not deflated: it does not hold what it should")
    return content


def concatenate(parts: Iterable[Deflated]) -> Deflated:
    """Put payloads behind each other, as one. Raises PayloadError for what is none."""
    checksum = length = 0
    blocks: list[bytes | memoryview] = []
    for payload, content_length in parts:
        checksum = _library.crc32_combine(checksum, _crc(payload), content_length)
        length += content_length
        blocks.append(memoryview(payload)[_CRC.size :])
    return Deflated(b"".join([_CRC.pack(checksum), *blocks]), length)


def gzip_member(deflated: Deflated) -> bytes:
    """Make a gzip stream of one member of a payload."""
    payload, length = deflated
    trailer = _TRAILER.pack(_crc(payload), length & 0xFFFFFFFF)
    return b"".join([_HEADER, memoryview(payload)[_CRC.size :], _FINAL_BLOCK, trailer])


def _crc(payload: bytes) -> int:
    if len(payload) < _CRC.size:
        raise PayloadError("a stored payload is not deflated: it is too short")
    return int(_CRC.unpack_from(payload)[0])


def combine(first: int, second: int, length: int) -> int:
    """Compute the CRC-32 of two contents behind each other, of theirs and the second's length.

    A CRC-32 is a polynomial's remainder: the first one's is moved up by the second's length, which
    is a multiplication by x to the power of its bits (as zlib's crc32_combine does it).
    """
    moved, factor = first, 1 << 23  # x to the power of 8
    while length:
        if length & 1:
            moved = _times(factor, moved)
        factor = _times(factor, factor)
        length >>= 1
    return moved ^ second


def _times(one: int, other: int) -> int:
    """Multiply two polynomials, modulo CRC-32's."""
    product = 0
    while one:
        if one & 1 << 31:
            product ^= other
        one = one << 1 & 0xFFFFFFFF
        other = other >> 1 ^ (_POLYNOMIAL if other & 1 else 0)
    return product


class _Library(NamedTuple):
    """What compresses."""

    compressobj: Callable[..., Any]
    crc32: Callable[[bytes], int]
    crc32_combine: Callable[[int, int, int], int]


def _fastest() -> _Library:
    try:
        from isal import isal_zlib  # noqa: PLC0415 - not on every machine
    except ImportError:
        return ZLIB
    return _Library(isal_zlib.compressobj, isal_zlib.crc32, isal_zlib.crc32_combine)


ZLIB: Final = _Library(zlib.compressobj, zlib.crc32, combine)
_library = _fastest()
