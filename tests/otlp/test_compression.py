from __future__ import annotations

import os
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoders import DECODERS, Decoder
from spool.errors import PayloadError
from spool.otlp import compression
from spool.otlp.compression import ZLIB, Deflated, concatenate, gzip_member, inflate

ISAL = compression._fastest()

CONTENTS = [
    b"",
    b"one",
    b"a long text that repeats itself, and itself, and itself. " * 2000,
    random.Random(7).randbytes(200_000),  # cannot be compressed
    bytes(300_000),
    os.fsencode("späte Wörter " * 99),
]


@pytest.fixture(params=["isal", "zlib"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Compress with one of the two."""
    use(request.param, monkeypatch)
    return str(request.param)


def use(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "isal" and ISAL is ZLIB:
        pytest.skip("isal is not installed: there is no wheel for every machine")
    monkeypatch.setattr(compression, "_library", {"isal": ISAL, "zlib": ZLIB}[name])


@pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS)
def test_payloads_of_either_library_make_one_member_that_every_receiver_reads_whole(
    library: str, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [compression.deflate(content) for content in CONTENTS]
    joined = concatenate([*parts, concatenate(reversed(parts))])
    body = gzip_member(joined)
    whole = b"".join([*CONTENTS, *reversed(CONTENTS)])
    assert decoder(body) == inflate(joined) == whole
    assert body.count(parts[2].payload[4:]) == 2  # the blocks as they were


@pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS)
def test_payloads_of_both_libraries_stand_in_one_member(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = []
    for number, content in enumerate(CONTENTS):
        use(["isal", "zlib"][number % 2], monkeypatch)
        parts.append(compression.deflate(content))
    bodies = {}
    for name in ("isal", "zlib"):
        use(name, monkeypatch)
        bodies[name] = gzip_member(concatenate(parts))
        assert [inflate(part) for part in parts] == CONTENTS
    assert bodies["isal"] == bodies["zlib"]
    assert decoder(bodies["isal"]) == b"".join(CONTENTS)


@given(st.lists(st.binary(max_size=300), max_size=6))
def test_whatever_stands_behind_each_other_is_read_as_it_was(contents: list[bytes]) -> None:
    joined = concatenate(map(compression.deflate, contents))
    body = gzip_member(joined)
    whole = b"".join(contents)
    for decoder in ("Python's gzip", "the first member only", "Go's rules"):
        assert DECODERS[decoder](body) == whole
    assert joined.length == len(whole)


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_checksums_combine_to_that_of_both(first: bytes, second: bytes) -> None:
    of_both = zlib.crc32(second, zlib.crc32(first))
    for library in (ISAL, ZLIB):
        parts = (library.crc32(first), library.crc32(second), len(second))
        assert library.crc32_combine(*parts) == of_both


def test_a_checksum_is_moved_over_large_contents_as_well() -> None:
    zeros = bytes(200 << 20)
    moved = ZLIB.crc32_combine(zlib.crc32(b"head"), zlib.crc32(zeros), len(zeros))
    assert moved == zlib.crc32(zeros, zlib.crc32(b"head"))


@pytest.mark.parametrize(
    "damage", ["cut by one", "cut", "too short", "checksum", "block", "longer"]
)
def test_a_damaged_payload_is_an_error_of_ours(library: str, damage: str) -> None:
    payload, length = compression.deflate(b"a text with many different words " * 9)
    damaged = {
        "cut by one": payload[:-1],
        "cut": payload[:20],
        "too short": payload[:3],
        "checksum": bytes([payload[0] ^ 1]) + payload[1:],
        "block": payload[:8] + b"\xff\xff\xff\xff" + payload[12:],
        "longer": payload + b"trailing",
    }[damage]
    with pytest.raises(PayloadError, match="not deflated"):
        inflate(Deflated(damaged, length))


def test_a_payload_of_another_length_is_an_error_of_ours(library: str) -> None:
    payload, length = compression.deflate(b"words " * 999)
    for wrong in (length - 1, length + 1, 0):
        with pytest.raises(PayloadError, match="not deflated"):
            inflate(Deflated(payload, wrong))
