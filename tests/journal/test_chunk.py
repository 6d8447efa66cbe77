from __future__ import annotations

from pathlib import Path

from frame_bytes import chunk_of, five, flipped, made, times
from spool.journal.identity import Identity
from targets import MINE, OTHERS


def test_a_chunk_is_as_large_as_was_asked_for_and_one_frame_at_the_least(path: Path) -> None:
    written = five()
    assert len(chunk_of(path, b"".join(written), len(written[0]) + len(written[1])).frames) == 2
    assert len(chunk_of(path, b"".join(written), 10).frames) == 1


def test_the_head_of_a_chunk_are_its_first_frames_up_to_a_size(path: Path) -> None:
    written = five()
    chunk = chunk_of(path, b"".join(written))
    assert (chunk.spans, chunk.at_most(chunk.raw_bytes, chunk.spans)) == (5, chunk)
    for head in (chunk.at_most(chunk.raw_bytes, 2), chunk.at_most(chunk.raw_bytes // 3, 5)):
        assert head is not None
        assert (times(list(head.frames)), head.start, head.end) == (
            [0, 1],
            0,
            len(written[0]) + len(written[1]),
        )
    assert chunk.at_most(10, 5) is None
    assert chunk.at_most(chunk.raw_bytes, 0) is None


def test_a_chunk_is_somebodys_if_all_of_it_is_and_can_be_read(path: Path) -> None:
    ours = made("a") + made("b")
    assert chunk_of(path, ours).identity == Identity.of(MINE).encode()
    assert chunk_of(path, ours + made("c", target=OTHERS)).identity is None
    assert chunk_of(path, flipped(made("a"), 50) + ours).identity is None
    assert chunk_of(path, made("a")[:50] + ours).identity == Identity.of(MINE).encode()


def test_a_chunk_is_divided_where_its_frames_end_though_it_begins_with_one_cut_short(
    path: Path,
) -> None:
    written, cut = five(), made("cut")[:50]
    chunk = chunk_of(path, cut + b"".join(written[:2]) + cut + b"".join(written[2:]))
    first = len(cut) + len(written[0])
    assert (chunk.start, chunk.end, chunk.spans) == (0, first + len(written[1]), 2)
    assert chunk.ends() == [(first, 1), (chunk.end, 1)]
    for part in (chunk.at_least(1), chunk.at_most(chunk.raw_bytes, 1)):
        assert part is not None
        assert (times(list(part.frames)), part.start, part.end) == ([0], 0, first)
        assert part.ends() == [(first, 1)]
