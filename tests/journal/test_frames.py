from __future__ import annotations

import gzip
import json
import struct
import zlib
from pathlib import Path

from frame_bytes import made, read
from spans import batch
from spool.journal import frames
from spool.journal.identity import Identity
from spool.otlp.batch import Batch, Codec, merge
from spool.settings.target import Target
from targets import MINE

COLLECTOR = Target.otlp("https://user:secret@collector.example/v1/traces?token=1", {})


def test_a_frame_has_each_of_its_parts_where_the_table_says() -> None:
    one = batch("a", "b")
    written = b"".join(frames.make(b"whose", one, 1.5))
    assert written[0:4] == b"\xf5\xffSP"
    assert written[4:8] == zlib.crc32(written[8:]).to_bytes(4, "little")
    assert written[8:12] == len(one.payload).to_bytes(4, "little")
    assert written[12:14] == len(b"whose").to_bytes(2, "little")
    assert written[14] == Codec.RAW
    assert written[15:19] == (2).to_bytes(4, "little")
    assert written[19:23] == one.raw_bytes.to_bytes(4, "little")
    assert written[23:31] == struct.pack("<d", 1.5)
    assert written[31:] == b"whose" + one.payload


def test_a_frame_tells_whose_it_is_without_secrets_and_when_it_came(path: Path) -> None:
    one = batch("a", "b")
    written = b"".join(frames.make(Identity.of(COLLECTOR).encode(), one, 1.5))
    (first, second), lost = read(path, written + made("c", now=2.5))
    assert (first.batch, first.created_at, second.created_at, lost) == (one, 1.5, 2.5, 0)
    endpoint = "https://collector.example/v1/traces"
    assert Identity.decode(first.identity) == (COLLECTOR.route, endpoint, None, 2)
    assert Identity.decode(second.identity) == (MINE.route, MINE.endpoint, MINE.public_key, 2)
    assert b"secret" not in written
    assert b"token" not in written


def test_a_frame_of_an_older_version_tells_whose_it_is(path: Path) -> None:
    older = json.dumps([MINE.route, MINE.endpoint, MINE.public_key]).encode()
    (frame,), lost = read(path, b"".join(frames.make(older, batch("a"), 1.0)))
    assert Identity.decode(frame.identity) == Identity.of(MINE)
    assert not lost


def test_a_packed_batch_is_read_as_it_was_also_one_of_an_older_version(path: Path) -> None:
    one = batch("a", "b")
    packed = merge([one], compress=True)
    gzipped = Batch(gzip.compress(one.payload), 2, one.raw_bytes, Codec.GZIP)
    of_each = [frames.make(Identity.of(MINE).encode(), each, 1.0) for each in (packed, gzipped)]
    found, lost = read(path, b"".join(part for parts in of_each for part in parts))
    assert ([frame.batch for frame in found], lost) == ([packed, gzipped], 0)
