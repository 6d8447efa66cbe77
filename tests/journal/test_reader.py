from __future__ import annotations

import os
from pathlib import Path

import pytest

from frame_bytes import five, flipped, made, read, times
from spool.journal import frames, reader
from spool.journal.identity import Identity
from spool.otlp.batch import Batch
from targets import MINE

# Where what of a frame stands, see `frames`.
_BEHIND_IDENTITY = frames.HEAD_BYTES + len(Identity.of(MINE).encode())
PARTS = {
    "mark": slice(0, 4),
    "checksum": slice(4, 8),
    "payload's size": slice(8, 12),
    "identity's size": slice(12, 14),
    "codec": slice(14, 15),
    "number of spans": slice(15, 19),
    "bytes before compression": slice(19, 23),
    "time": slice(23, frames.HEAD_BYTES),
    "identity": slice(frames.HEAD_BYTES, _BEHIND_IDENTITY),
    "payload": slice(_BEHIND_IDENTITY, None),
}

of_each_part = pytest.mark.parametrize("part", PARTS)


def offsets(part: str, frame: bytes) -> range:
    return range(len(frame))[PARTS[part]]


@of_each_part
def test_a_last_frame_is_passed_over_where_it_was_cut_in_the(part: str, path: Path) -> None:
    *whole, last = five()
    for end in offsets(part, last):
        found, lost = read(path, b"".join(whole) + last[:end], is_final=True)
        assert (times(found), lost) == ([0, 1, 2, 3], 0), f"at {end}"


@of_each_part
def test_a_frame_before_others_is_passed_over_where_it_was_cut_in_the(
    part: str, path: Path
) -> None:
    first, second, cut, *behind = five()
    for end in offsets(part, cut):
        found, lost = read(path, b"".join([first, second, cut[:end], *behind]))
        assert (times(found), lost) == ([0, 1, 3, 4], 0), f"at {end}"


def test_frames_that_were_cut_short_one_behind_the_other_are_no_damage(path: Path) -> None:
    written = five()
    cut = [one[:-20] for one in written]
    found, lost = read(path, b"".join([*cut[:2], written[2], *cut[1:3], written[4], cut[0]]))
    assert (times(found), lost) == ([2, 4], 0)


@of_each_part
def test_damage_hides_no_other_frame_and_is_counted_in_the(part: str, path: Path) -> None:
    first, second, frame, *behind = five()
    for at in offsets(part, frame):
        found, lost = read(path, b"".join([first, second, flipped(frame, at), *behind]))
        assert times(found) == [0, 1, 3, 4], f"at {at}"
        assert 1 <= lost <= len(frame) // 40  # the damage may be in the very count


def test_a_batch_of_a_kind_that_nobody_knows_is_damage_and_hides_no_other(path: Path) -> None:
    unknown = b"".join(frames.make(Identity.of(MINE).encode(), Batch(b"?" * 200, 2, 200, 3), 1.0))
    found, lost = read(path, unknown + made("c", now=2.0))
    assert (times(found), lost) == ([2], 2)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(bytes(4096), id="a page of zeros"),
        pytest.param(b"\xf5\xff" * 100, id="half a mark, again and again"),
        pytest.param(frames.MARK * 100, id="marks and nothing else"),
        pytest.param(made("s2")[-50:], id="the second half of a frame"),
        pytest.param(made("s2")[:8] + b"\xff" * 4 + made("s2")[12:], id="a size of gigabytes"),
    ],
)
def test_what_no_append_has_written_hides_no_frame(path: Path, damage: bytes) -> None:
    first, second, _, *behind = five()
    found, _ = read(path, b"".join([first, second, damage, *behind]))
    assert times(found) == [0, 1, 3, 4]


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
