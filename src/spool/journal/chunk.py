"""A chunk: frames that were read at once, and what of it makes a request or a row."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spool.journal.frames import Frame


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

    def at_least(self, size: float) -> Chunk:
        """Give the first frames that have `size` bytes together or somewhat more, or all."""
        if self.lost:
            return self
        end = self.first_at
        for number, frame in enumerate(self.frames, 1):
            end += frame.size
            if end - self.start >= size:
                return Chunk(self.frames[:number], self.start, end)
        return self

    def by_route(self) -> dict[bytes, list[Frame]]:
        """Give its frames by whose they are."""
        found: dict[bytes, list[Frame]] = {}
        for frame in self.frames:
            found.setdefault(frame.identity, []).append(frame)
        return found

    def ends(self) -> list[tuple[int, int]]:
        """Tell up to which offsets it holds how many spans: by frames, if all of it can be read."""
        if self.lost:
            return [(self.end, self.spans)]
        ends = itertools.accumulate((frame.size for frame in self.frames), initial=self.first_at)
        next(ends)
        return [(end, one.batch.spans) for end, one in zip(ends, self.frames, strict=True)]

    def at_most(self, max_bytes: int, max_spans: int) -> Chunk | None:
        """Give the first frames, as many as make one request; None where the first is too large."""
        end = self.first_at
        for number, frame in enumerate(self.frames):
            max_bytes -= frame.batch.raw_bytes
            max_spans -= frame.batch.spans
            if max_bytes < 0 or max_spans < 0:
                return Chunk(self.frames[:number], self.start, end) if number else None
            end += frame.size
        return self
