"""Frames as bytes, whole and damaged, and what is read of a file of them."""

from __future__ import annotations

import os
from pathlib import Path

from spans import batch
from spool.journal import frames, reader
from spool.journal.chunk import Chunk
from spool.journal.frames import Frame
from spool.journal.identity import Identity
from spool.settings.target import Target
from targets import MINE


def made(*names: str, size: int = 100, now: float = 1.0, target: Target = MINE) -> bytes:
    """Make one frame of spans with these names."""
    return b"".join(frames.make(Identity.of(target).encode(), batch(*names, size=size), now))


def five() -> list[bytes]:
    """Make five frames, each larger than the one before, that came at 0, 1, 2, 3 and 4."""
    return [made(f"s{number}", size=100 * number, now=float(number)) for number in range(5)]


def flipped(content: bytes, at: int) -> bytes:
    """Damage one byte."""
    at %= len(content)
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


def read(path: Path, content: bytes, *, is_final: bool = False) -> tuple[list[Frame], int]:
    """Write a file, and read it: the frames, and how many spans are lost."""
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    found: list[Frame] = []
    lost = offset = 0
    while (chunk := reader.read(fd, offset, is_final=is_final)) is not None:
        assert chunk.start == offset
        found += chunk.frames
        lost, offset = lost + chunk.lost, chunk.end
    os.close(fd)
    return found, lost


def chunk_of(path: Path, content: bytes, size: int = reader.CHUNK) -> Chunk:
    """Write a file, and read its first chunk."""
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    chunk = reader.read(fd, 0, size)
    os.close(fd)
    assert chunk is not None
    return chunk


def times(found: list[Frame]) -> list[float]:
    """Tell when the frames came."""
    return [frame.created_at for frame in found]
