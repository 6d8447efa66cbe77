"""The header of a journal's file: how far a database took it, for one that does not know it.

Each database knows that for itself, and is the one that counts as long as it is there. Where it was
moved away the next one goes on behind what the header says.

    offset  bytes  what
    0       4      F5 FF 53 4E: a mark that UTF-8 text never holds
    4       4      the CRC-32 of what is behind it
    8       16     the salt of the database that took frames last; zeros before one did
    24      8      from which offset on that one did
    32      8      up to which offset it did
    40             the frames, see `frames`

All numbers are little-endian. A file of an older version begins with its first frame, and has no
header. One that does not fit its checksum was taken by a power cut, and tells nothing.
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import Final

from spool.journal import frames

_MARK: Final = b"\xf5\xffSN"
_MARKED: Final = struct.Struct("<4sI")
_TAKEN: Final = struct.Struct("<16sQQ")
SIZE: Final = _MARKED.size + _TAKEN.size


def make(salt: bytes, begins_at: int, moved: int) -> bytes:
    """Make the header that says that a database took frames, between two offsets."""
    taken = _TAKEN.pack(salt, begins_at, moved)
    return _MARKED.pack(_MARK, zlib.crc32(taken)) + taken


NEW: Final = make(b"", SIZE, SIZE)


def begins_at(fd: int, salt: bytes) -> int:
    """Tell from which offset on frames are for the database with this salt. Raises OSError."""
    data = os.pread(fd, SIZE, 0)
    if data.startswith(frames.MARK):
        return 0  # it has no header
    if data != _MARKED.pack(_MARK, zlib.crc32(data[_MARKED.size :])) + data[_MARKED.size :]:
        return SIZE  # a power cut took it
    last, begun, moved = _TAKEN.unpack_from(data, _MARKED.size)
    return int(begun if last == salt else moved)
