"""Frames: what `export()` calls bring, one behind the other in a file that only grows.

Invariants:

- A frame tells all of itself, and its checksum says whether it is whole.
- One that was cut short was never acknowledged, and is passed over; one that is damaged hides no
  other, and its spans are counted.
- The note at the head tells how far the file was moved, for a database that does not know it: each
  knows that for itself, and is the one that counts as long as it is there.
"""

from __future__ import annotations

import itertools
import json
import os
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from spool.otlp.batch import CODECS, Batch
from spool.settings.settings import Named
from spool.system.redaction import without_secrets

if TYPE_CHECKING:
    from spool.settings.settings import Target

# What is read at once, and becomes one row of a route.
CHUNK: Final = 256 << 10

# A mark that UTF-8 text never holds, and the checksum of what follows it; then the sizes of payload
# and identity, the batch's codec, spans and raw bytes, and the time in seconds since 1970.
_MARK: Final = b"\xf5\xffSP"
_HEAD: Final = struct.Struct("<4sI")
_NUMBERS: Final = struct.Struct("<IHBIId")
_HEAD_BYTES: Final = _HEAD.size + _NUMBERS.size
_WHOLE_HEAD: Final = struct.Struct(_HEAD.format + _NUMBERS.format[1:]).unpack_from
# A mark, the checksum of what follows it, the salt of the database that took frames last, from
# which offset on that one did, and up to which.
_NOTE_MARK: Final = b"\xf5\xffSN"
_NOTE_NUMBERS: Final = struct.Struct("<16sQQ")
NOTE_BYTES: Final = _HEAD.size + _NOTE_NUMBERS.size
_LONGEST_IDENTITY: Final = 0xFFFF
# Its ids and times alone take more (opentelemetry/proto/trace/v1/trace.proto).
_SMALLEST_SPAN: Final = 40

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
        return _HEAD_BYTES + len(self.identity) + len(self.batch.payload)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Frames that follow each other, between two offsets.

    `lost` spans between them, or before, cannot be read: they were damaged on disk. Before the
    first one there may be some that were cut short.
    """

    frames: tuple[Frame, ...]
    start: int
    end: int
    lost: int = 0

    @property
    def spans(self) -> int:
        """Count the spans of its frames."""
        return sum(frame.batch.spans for frame in self.frames)

    @property
    def raw_bytes(self) -> int:
        """Add up the sizes of its batches before compression."""
        return sum(frame.batch.raw_bytes for frame in self.frames)

    @property
    def first_at(self) -> int:
        """Tell where its first frame begins, if all of it can be read."""
        return self.end - sum(frame.size for frame in self.frames)

    @property
    def identity(self) -> bytes | None:
        """Whose it is, if all of it can be read and is of one route."""
        found = {frame.identity for frame in self.frames}
        return found.pop() if len(found) == 1 and not self.lost else None

    def first(self, size: float) -> Chunk:
        """Give the first frames that have `size` bytes together or somewhat more, or all."""
        if self.lost:
            return self
        end = self.first_at
        for number, frame in enumerate(self.frames, 1):
            end += frame.size
            if end - self.start >= size:
                return Chunk(self.frames[:number], self.start, end)
        return self

    def routes(self) -> dict[bytes, list[Frame]]:
        """Give its frames by whose they are."""
        found: dict[bytes, list[Frame]] = {}
        for frame in self.frames:
            found.setdefault(frame.identity, []).append(frame)
        return found

    def pieces(self) -> list[tuple[int, int]]:
        """Tell up to which offsets it holds how many spans: by frames, if all of it can be read."""
        if self.lost:
            return [(self.end, self.spans)]
        ends = itertools.accumulate((frame.size for frame in self.frames), initial=self.first_at)
        next(ends)
        return [(end, one.batch.spans) for end, one in zip(ends, self.frames, strict=True)]

    def head(self, max_bytes: int, max_spans: int) -> Chunk | None:
        """Give the first frames, as many as make one request; None where the first is too large."""
        end = self.first_at
        for number, frame in enumerate(self.frames):
            max_bytes -= frame.batch.raw_bytes
            max_spans -= frame.batch.spans
            if max_bytes < 0 or max_spans < 0:
                return Chunk(self.frames[:number], self.start, end) if number else None
            end += frame.size
        return self


# Making


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


def make(identity: bytes, batch: Batch, now: float) -> tuple[bytes, bytes]:
    """Make a frame of a batch and whose it is (`identify`): two parts, the payload as it is."""
    payload, spans, raw_bytes = batch.payload, batch.spans, batch.raw_bytes
    said = _NUMBERS.pack(len(payload), len(identity), batch.codec, spans, raw_bytes, now) + identity
    checksum = zlib.crc32(payload, zlib.crc32(said))
    return _HEAD.pack(_MARK, checksum) + said, payload


def note(salt: bytes, begins_at: int, moved: int) -> bytes:
    """Make the note that a database took frames, between two offsets."""
    said = _NOTE_NUMBERS.pack(salt, begins_at, moved)
    return _HEAD.pack(_NOTE_MARK, zlib.crc32(said)) + said


NO_NOTE: Final = note(b"", NOTE_BYTES, NOTE_BYTES)


# Reading


def begins_at(fd: int, salt: bytes) -> int:
    """Tell from which offset on frames are for the database with this salt. Raises OSError."""
    data = os.pread(fd, NOTE_BYTES, 0)
    if data.startswith(_MARK):
        return 0  # it has no note
    if data != _HEAD.pack(_NOTE_MARK, zlib.crc32(data[_HEAD.size :])) + data[_HEAD.size :]:
        return NOTE_BYTES  # a power cut took it
    noted, begun, moved = _NOTE_NUMBERS.unpack_from(data, _HEAD.size)
    return int(begun if noted == salt else moved)


def read(fd: int, offset: int, size: int = CHUNK, *, is_final: bool = False) -> Chunk | None:
    """Read the next frames from an offset on, `size` bytes; None for no whole one (yet).

    `is_final`: nobody appends any more, so what cannot be read now never can. Raises OSError.
    """
    while True:
        data = os.pread(fd, size, offset)
        is_end = len(data) < size
        found, length, lost = _parse(data, is_end=is_end, is_final=is_final)
        if found or lost:
            return Chunk(found, offset, offset + length, lost)
        if is_end:
            return None
        # A large frame, or much that is damaged; and a damaged length may claim gigabytes.
        size = min(max(2 * size, _size_at(data, 0)), os.fstat(fd).st_size - offset + 1)


def _parse(data: bytes, *, is_end: bool, is_final: bool) -> tuple[tuple[Frame, ...], int, int]:
    """Give the frames in the data, the length up to the last one's end, and how many are lost."""
    found: list[Frame] = []
    position = lost = 0
    while position < len(data):
        frame = _frame_at(data, position)
        if frame is not None:
            found.append(frame)
            position += frame.size
            continue
        if not is_end and (found or _may_go_on(data, position)):
            break  # its rest is behind what was read
        if (cut_at := _cut_at(data, position)) is not None:
            if found:
                break  # the next chunk begins with it
            position = cut_at
            continue
        behind = _next_frame(data, position)
        if behind is None:
            if is_final and is_end and _is_whole(data, position):
                lost, position = lost + _claimed_spans(data, position), len(data)
            break
        lost, position = lost + _claimed_spans(data, position), behind
    return tuple(found), position, lost


def _frame_at(data: bytes, position: int) -> Frame | None:
    """Give the frame that begins there, if it is whole and sound."""
    if not data.startswith(_MARK, position) or position + _HEAD_BYTES > len(data):
        return None
    _, checksum, payload_bytes, identity_bytes, codec, spans, raw_bytes, now = _WHOLE_HEAD(
        data, position
    )
    middle = position + _HEAD_BYTES + identity_bytes
    end = middle + payload_bytes
    if end > len(data) or zlib.crc32(data[position + _HEAD.size : end]) != checksum:
        return None
    if codec not in CODECS:
        return None
    batch = Batch(data[middle:end], spans, raw_bytes, codec)
    return Frame(data[position + _HEAD_BYTES : middle], batch, now)


def _size_at(data: bytes, position: int) -> int:
    """Give the size that a frame that begins there claims; 0 where none begins."""
    if not data.startswith(_MARK, position) or position + _HEAD_BYTES > len(data):
        return 0
    payload_bytes, identity_bytes, *_ = _NUMBERS.unpack_from(data, position + _HEAD.size)
    return _HEAD_BYTES + int(payload_bytes) + int(identity_bytes)


def _may_go_on(data: bytes, position: int) -> bool:
    """Say whether a frame that begins there could end behind the data."""
    is_begun = data.startswith(_MARK[: len(data) - position], position)
    return is_begun and not _is_whole(data, position)


def _is_whole(data: bytes, position: int) -> bool:
    """Say whether a frame begins there, and has as many bytes as it claims."""
    return 0 < _size_at(data, position) <= len(data) - position


def _cut_at(data: bytes, position: int) -> int | None:
    """Tell where the next frame cuts short the one that begins there; None where none does.

    That one was refused, and others were appended behind it. A damaged one has all its bytes, or a
    length that is wrong.
    """
    behind = data.find(_MARK, position + 1)
    part = data[position:behind]
    if behind < 0 or not part.startswith(_MARK[: len(part)]):
        return None
    if len(part) >= _HEAD_BYTES:
        end = position + _size_at(data, position)
        is_cut = behind < end != len(data) and not data.startswith(_MARK, end)
        return behind if is_cut and not _is_length_wrong(part) else None
    return behind


def _is_length_wrong(part: bytes) -> bool:
    """Say whether all of this is one frame, but for a length in its head that is damaged."""
    _, checksum, payload_bytes, identity_bytes, *others = _WHOLE_HEAD(part)
    size = len(part) - _HEAD_BYTES
    for payload, identity in (
        (size - identity_bytes, identity_bytes),
        (payload_bytes, size - payload_bytes),
    ):
        if payload >= 0 and 0 <= identity <= _LONGEST_IDENTITY:
            said = _NUMBERS.pack(payload, identity, *others)
            if zlib.crc32(part[_HEAD_BYTES:], zlib.crc32(said)) == checksum:
                return True
    return False


def _next_frame(data: bytes, position: int) -> int | None:
    """Find the next sound frame behind a damaged one."""
    while (position := data.find(_MARK, position + 1)) >= 0:
        if _frame_at(data, position) is not None:
            return position
    return None


def _claimed_spans(data: bytes, position: int) -> int:
    """Count the spans of a damaged frame, by what it says; one at the least."""
    if not _is_whole(data, position):
        return 1
    *_, spans, raw_bytes, _ = _NUMBERS.unpack_from(data, position + _HEAD.size)
    return max(1, min(int(spans), int(raw_bytes) // _SMALLEST_SPAN))
