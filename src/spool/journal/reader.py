"""Reads frames, and goes on behind those that were cut short and those that are damaged.

Invariant: a frame that was cut short was never acknowledged, and is passed over; one that is
damaged hides no other, and its spans are counted.
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import Final

from spool.journal.chunk import Chunk
from spool.journal.frames import HEAD_BYTES, MARK, MARKED, NUMBERS, Frame
from spool.otlp.batch import CODECS, Batch

# What is read at once, and becomes one row of a route.
CHUNK: Final = 256 << 10

_whole_head: Final = struct.Struct(MARKED.format + NUMBERS.format[1:]).unpack_from
_LONGEST_IDENTITY: Final = 0xFFFF
# Its ids and times alone take more (opentelemetry/proto/trace/v1/trace.proto).
_SMALLEST_SPAN: Final = 40


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
    if not data.startswith(MARK, position) or position + HEAD_BYTES > len(data):
        return None
    _, checksum, payload_bytes, identity_bytes, codec, spans, raw_bytes, now = _whole_head(
        data, position
    )
    middle = position + HEAD_BYTES + identity_bytes
    end = middle + payload_bytes
    if end > len(data) or zlib.crc32(data[position + MARKED.size : end]) != checksum:
        return None
    if codec not in CODECS:
        return None
    batch = Batch(data[middle:end], spans, raw_bytes, codec)
    return Frame(data[position + HEAD_BYTES : middle], batch, now)


def _size_at(data: bytes, position: int) -> int:
    """Give the size that a frame that begins there claims; 0 where none begins."""
    if not data.startswith(MARK, position) or position + HEAD_BYTES > len(data):
        return 0
    payload_bytes, identity_bytes, *_ = NUMBERS.unpack_from(data, position + MARKED.size)
    return HEAD_BYTES + int(payload_bytes) + int(identity_bytes)


def _may_go_on(data: bytes, position: int) -> bool:
    """Say whether a frame that begins there could end behind the data."""
    is_begun = data.startswith(MARK[: len(data) - position], position)
    return is_begun and not _is_whole(data, position)


def _is_whole(data: bytes, position: int) -> bool:
    """Say whether a frame begins there, and has as many bytes as it claims."""
    return 0 < _size_at(data, position) <= len(data) - position


def _cut_at(data: bytes, position: int) -> int | None:
    """Tell where the next frame cuts short the one that begins there; None where none does.

    That one was refused, and others were appended behind it. A damaged one has all its bytes, or a
    length that is wrong.
    """
    behind = data.find(MARK, position + 1)
    part = data[position:behind]
    if behind < 0 or not part.startswith(MARK[: len(part)]):
        return None
    if len(part) >= HEAD_BYTES:
        end = position + _size_at(data, position)
        is_cut = behind < end != len(data) and not data.startswith(MARK, end)
        return behind if is_cut and not _is_length_wrong(part) else None
    return behind


def _is_length_wrong(part: bytes) -> bool:
    """Say whether all of this is one frame, but for a length in its head that is damaged."""
    _, checksum, payload_bytes, identity_bytes, *others = _whole_head(part)
    size = len(part) - HEAD_BYTES
    for payload, identity in (
        (size - identity_bytes, identity_bytes),
        (payload_bytes, size - payload_bytes),
    ):
        if payload >= 0 and 0 <= identity <= _LONGEST_IDENTITY:
            said = NUMBERS.pack(payload, identity, *others)
            if zlib.crc32(part[HEAD_BYTES:], zlib.crc32(said)) == checksum:
                return True
    return False


def _next_frame(data: bytes, position: int) -> int | None:
    """Find the next sound frame behind a damaged one."""
    while (position := data.find(MARK, position + 1)) >= 0:
        if _frame_at(data, position) is not None:
            return position
    return None


def _claimed_spans(data: bytes, position: int) -> int:
    """Count the spans of a damaged frame, by what it says; one at the least."""
    if not _is_whole(data, position):
        return 1
    *_, spans, raw_bytes, _ = NUMBERS.unpack_from(data, position + MARKED.size)
    return max(1, min(int(spans), int(raw_bytes) // _SMALLEST_SPAN))
