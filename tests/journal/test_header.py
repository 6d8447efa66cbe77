from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest

from frame_bytes import flipped, made
from spool.journal import header

OURS, ANOTHERS = b"o" * 16, b"a" * 16


def begins_at(path: Path, content: bytes, salt: bytes) -> int:
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    try:
        return header.begins_at(fd, salt)
    finally:
        os.close(fd)


def test_a_header_has_each_of_its_parts_where_the_table_says() -> None:
    written = header.make(OURS, 40, 1000)
    assert written[0:4] == b"\xf5\xffSN"
    assert written[4:8] == zlib.crc32(written[8:]).to_bytes(4, "little")
    assert written[8:24] == OURS
    assert written[24:32] == (40).to_bytes(8, "little")
    assert written[32:] == (1000).to_bytes(8, "little")
    assert header.make(bytes(16), 40, 40) == header.NEW
    assert header.SIZE == len(written) == 40


@pytest.mark.parametrize(
    ("salt", "offset"),
    [
        pytest.param(OURS, 40, id="the database that took them, from where on it did"),
        pytest.param(ANOTHERS, 1000, id="another one, behind what was taken"),
    ],
)
def test_a_header_tells_a_database_where_its_frames_begin(
    path: Path, salt: bytes, offset: int
) -> None:
    assert begins_at(path, header.make(OURS, 40, 1000) + made("a"), salt) == offset


@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param(flipped(header.make(OURS, 90, 1000), at), id=f"{what} flipped")
        for what, at in (
            ("mark", 0), ("checksum", 4), ("salt", 8), ("beginning", 24), ("end", 32),
        )
    ]
    + [
        pytest.param(b"", id="nothing written"),
        pytest.param(header.NEW[:20], id="header cut"),
        pytest.param(bytes(header.SIZE), id="zeros"),
    ],
)  # fmt: skip
def test_a_header_that_is_damaged_tells_nothing_and_hides_no_frame(
    path: Path, damaged: bytes
) -> None:
    assert begins_at(path, damaged, OURS) == header.SIZE


def test_a_file_of_an_older_version_begins_with_its_first_frame(path: Path) -> None:
    assert begins_at(path, made("a"), OURS) == 0
