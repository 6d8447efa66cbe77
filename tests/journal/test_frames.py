from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from spans import batch
from spool.journal import frames, reader
from spool.journal.chunk import Chunk
from spool.journal.frames import Frame
from spool.otlp.batch import Batch, Codec, merge
from spool.settings.target import Target

MINE = Target.langfuse("pk-lf-mine", "sk-lf-mine", "https://langfuse.example")
OTHERS = Target.otlp("https://user:secret@collector.example/v1/traces?token=1", {})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name a file of frames."""
    return tmp_path / "frames"


def made(*names: str, size: int = 100, now: float = 1.0, target: Target = MINE) -> bytes:
    return b"".join(frames.make(frames.identify(target), batch(*names, size=size), now))


def five() -> list[bytes]:
    return [made(f"s{number}", size=100 * number, now=float(number)) for number in range(5)]


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


def times(found: list[Frame]) -> list[float]:
    return [frame.created_at for frame in found]


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


def test_a_frame_tells_whose_it_is_without_secrets_and_when_it_came(path: Path) -> None:
    one = batch("a", "b")
    written = b"".join(frames.make(frames.identify(OTHERS), one, 1.5))
    (first, second), lost = read(path, written + made("c", now=2.5))
    assert (first.batch, first.created_at, second.created_at, lost) == (one, 1.5, 2.5, 0)
    endpoint = "https://collector.example/v1/traces"
    assert frames.identity_of(first.identity) == (OTHERS.route, endpoint, None, 2)
    assert frames.identity_of(second.identity) == (MINE.route, MINE.endpoint, MINE.public_key, 2)
    assert b"secret" not in written
    assert b"token" not in written


def test_a_frame_of_an_older_version_tells_whose_it_is(path: Path) -> None:
    older = json.dumps([MINE.route, MINE.endpoint, MINE.public_key]).encode()
    (frame,), lost = read(path, b"".join(frames.make(older, batch("a"), 1.0)))
    assert frames.identity_of(frame.identity) == frames.identity(MINE)
    assert not lost


def test_a_packed_batch_is_read_as_it_was_also_one_of_an_older_version(path: Path) -> None:
    one = batch("a", "b")
    packed = merge([one], compress=True)
    gzipped = Batch(gzip.compress(one.payload), 2, one.raw_bytes, Codec.GZIP)
    of_each = [frames.make(frames.identify(MINE), each, 1.0) for each in (packed, gzipped)]
    found, lost = read(path, b"".join(part for parts in of_each for part in parts))
    assert ([frame.batch for frame in found], lost) == ([packed, gzipped], 0)


def test_a_batch_of_a_kind_that_nobody_knows_is_damage_and_hides_no_other(path: Path) -> None:
    unknown = b"".join(frames.make(frames.identify(MINE), Batch(b"?" * 200, 2, 200, 3), 1.0))
    found, lost = read(path, unknown + made("c", now=2.0))
    assert (times(found), lost) == ([2], 2)


def test_a_frame_that_was_cut_short_is_passed_over(path: Path) -> None:
    *whole, last = five()
    for end in (*range(40), len(last) - 1):
        found, lost = read(path, b"".join(whole) + last[:end], is_final=True)
        assert (times(found), lost) == ([0, 1, 2, 3], 0)


def test_frames_that_were_cut_short_before_others_came_are_no_damage(path: Path) -> None:
    written = five()
    for end in (*range(1, 60), len(written[2]) - 1):
        found, lost = read(path, b"".join([*written[:2], written[2][:end], *written[3:]]))
        assert (times(found), lost) == ([0, 1, 3, 4], 0), f"at {end}"
    cut = [one[:-20] for one in written]
    found, lost = read(path, b"".join([*cut[:2], written[2], *cut[1:3], written[4], cut[0]]))
    assert (times(found), lost) == ([2, 4], 0)


def test_damage_anywhere_in_a_frame_hides_no_other(path: Path) -> None:
    written = five()
    for at in (*range(40), len(written[2]) - 1):
        damaged = [*written[:2], flipped(written[2], at), *written[3:]]
        found, lost = read(path, b"".join(damaged))
        assert times(found) == [0, 1, 3, 4], f"at {at}"
        assert 1 <= lost <= len(written[2]) // 40  # the damage may be in the very count


def test_half_a_frame_hides_no_other(path: Path) -> None:
    written = five()
    found, lost = read(path, b"".join([*written[:2], written[2][-50:], *written[3:]]))
    assert (times(found), lost) == ([0, 1, 3, 4], 1)


def test_a_damaged_last_frame_is_lost_when_nobody_can_still_be_writing_it(path: Path) -> None:
    last = made("a", "b", "c")
    content = b"".join(five()) + flipped(last, len(last) - 1)
    found, lost = read(path, content)
    assert (len(found), lost) == (5, 0)
    found, lost = read(path, content, is_final=True)
    assert (len(found), lost) == (5, 3)


@pytest.fixture
def large() -> list[bytes]:
    """Make frames that are larger than what is read at once, and a small one."""
    size = 3 * reader.CHUNK
    return [made("a", size=size, now=1.0), made("b", size=size, now=2.0), made("c", now=3.0)]


def test_frames_and_damage_may_be_larger_than_what_is_read_at_once(
    path: Path, large: list[bytes]
) -> None:
    found, lost = read(path, b"".join(large))
    assert (times(found), lost) == ([1, 2, 3], 0)
    found, lost = read(path, b"".join([bytes(len(large[0])), *large[1:]]))
    assert (times(found), lost) == ([2, 3], 1)


def test_a_damaged_length_hides_nothing_and_makes_nobody_read_more_than_there_is(
    path: Path, large: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    pread = os.pread

    def noting(fd: int, size: int, offset: int) -> bytes:
        asked.append(size)
        return pread(fd, size, offset)

    monkeypatch.setattr(os, "pread", noting)
    gigabytes = large[0][:8] + b"\xff" * 4 + large[0][12:]
    content = b"".join([gigabytes, *large[1:]])
    found, lost = read(path, content)
    assert (times(found), lost) == ([2, 3], 1)
    assert max(asked) <= len(content) + 1


def test_an_empty_file_holds_nothing(path: Path) -> None:
    assert read(path, b"", is_final=True) == ([], 0)


# What of a chunk can be sent as it is


def chunk_of(path: Path, content: bytes, size: int = reader.CHUNK) -> Chunk:
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    chunk = reader.read(fd, 0, size)
    os.close(fd)
    assert chunk is not None
    return chunk


def test_a_chunk_is_as_large_as_was_asked_for_and_one_frame_at_the_least(path: Path) -> None:
    written = five()
    assert len(chunk_of(path, b"".join(written), len(written[0]) + len(written[1])).frames) == 2
    assert len(chunk_of(path, b"".join(written), 10).frames) == 1


def test_the_head_of_a_chunk_are_its_first_frames_up_to_a_size(path: Path) -> None:
    written = five()
    chunk = chunk_of(path, b"".join(written))
    assert (chunk.spans, chunk.head(chunk.raw_bytes, chunk.spans)) == (5, chunk)
    for head in (chunk.head(chunk.raw_bytes, 2), chunk.head(chunk.raw_bytes // 3, 5)):
        assert head is not None
        assert (times(list(head.frames)), head.start, head.end) == (
            [0, 1],
            0,
            len(written[0]) + len(written[1]),
        )
    assert chunk.head(10, 5) is None
    assert chunk.head(chunk.raw_bytes, 0) is None


def test_a_chunk_is_somebodys_if_all_of_it_is_and_can_be_read(path: Path) -> None:
    ours = made("a") + made("b")
    assert chunk_of(path, ours).identity == frames.identify(MINE)
    assert chunk_of(path, ours + made("c", target=OTHERS)).identity is None
    assert chunk_of(path, flipped(made("a"), 50) + ours).identity is None
    assert chunk_of(path, made("a")[:50] + ours).identity == frames.identify(MINE)


def test_a_chunk_is_divided_where_its_frames_end_though_it_begins_with_one_cut_short(
    path: Path,
) -> None:
    written, cut = five(), made("cut")[:50]
    chunk = chunk_of(path, cut + b"".join(written[:2]) + cut + b"".join(written[2:]))
    first = len(cut) + len(written[0])
    assert (chunk.start, chunk.end, chunk.spans) == (0, first + len(written[1]), 2)
    assert chunk.pieces() == [(first, 1), (chunk.end, 1)]
    for part in (chunk.first(1), chunk.head(chunk.raw_bytes, 1)):
        assert part is not None
        assert (times(list(part.frames)), part.start, part.end) == ([0], 0, first)
        assert part.pieces() == [(first, 1)]
