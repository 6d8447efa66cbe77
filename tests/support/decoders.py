"""How receivers unpack a gzip body: all of it, its first member, as Node does and as Go does."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import zlib
from collections.abc import Callable
from typing import Final

import pytest

Decoder = Callable[[bytes], bytes]


def first_member(body: bytes) -> bytes:
    """As rotel and older aiohttp do: the first member, and not a word about the rest."""
    member = zlib.decompressobj(zlib.MAX_WBITS | 16)
    content = member.decompress(body) + member.flush()
    assert member.eof, "the body is cut off"
    return content


def go(body: bytes) -> bytes:
    """As Go's compress/gzip reads: members up to the end, each with its checksum and its length.

    It wants method 8, a header of 10 bytes, and no garbage behind the last member.
    """
    content = b""
    while body:
        assert body.startswith(b"\x1f\x8b\x08"), "gzip: invalid header"
        assert not body[3] & ~0x1F, "gzip: unknown flags"
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        assert body[3] == 0, "this decoder knows no names and no extra fields"
        found = inflater.decompress(body[10:]) + inflater.flush()
        assert inflater.eof, "unexpected EOF"
        trailer, body = inflater.unused_data[:8], inflater.unused_data[8:]
        crc, length = (int.from_bytes(part, "little") for part in (trailer[:4], trailer[4:]))
        assert (crc, length) == (zlib.crc32(found), len(found) & 0xFFFFFFFF), (
            "gzip: invalid checksum"
        )
        content += found
    return content


def node(body: bytes) -> bytes:
    """As Node's zlib does, which Langfuse runs on."""
    if (path := shutil.which("node")) is None:
        pytest.skip("Node is not on this machine")
    script = """
        const {readFileSync, writeSync} = require("fs");
        const {gunzipSync} = require("zlib");
        const content = gunzipSync(readFileSync(0));
        for (let at = 0; at < content.length;) at += writeSync(1, content, at);"""
    ran = subprocess.run(
        [path, "-e", script], input=body, capture_output=True, timeout=60, check=True
    )
    return ran.stdout


DECODERS: Final[dict[str, Decoder]] = {
    "Python's gzip": gzip.decompress,
    "the first member only": first_member,
    "Go's rules": go,
    "Node's zlib": node,
}
