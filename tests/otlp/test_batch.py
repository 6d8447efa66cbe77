from __future__ import annotations

import gzip
import itertools

import pytest
from freezegun import freeze_time
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

from decoders import first_member
from spans import batch, names_in, span
from spool.errors import PayloadError
from spool.otlp.batch import Batch, Codec, encode, join, merge, unpack
from stored_batches import packed, packed_once

# Encoding


def test_spans_are_encoded_as_the_official_exporter_does() -> None:
    spans = [span("one"), span("two", size=5000)]
    made = encode(spans)
    assert made.payload == encode_spans(spans).SerializeToString()
    assert (made.spans, made.raw_bytes, made.codec) == (2, len(made.payload), Codec.RAW)


# Joining


def test_raw_batches_join_to_one_request_with_all_spans() -> None:
    made = [batch("a"), batch("b", "c"), batch("d")]
    body = join(made, compress=False)
    assert body == b"".join(one.payload for one in made)
    assert names_in(body) == ["a", "b", "c", "d"]


STORED = {Codec.RAW: lambda one: one, Codec.GZIP: packed_once, Codec.DEFLATE: packed}


@pytest.mark.parametrize("kinds", list(itertools.product(Codec, repeat=4)))
def test_batches_join_in_order_to_one_member_in_whatever_mixture(kinds: tuple[Codec, ...]) -> None:
    made = [batch(str(number), size=300) for number in range(len(kinds))]
    stored = [STORED[kind](one) for one, kind in zip(made, kinds, strict=True)]
    assert [one.codec for one in stored] == list(kinds)
    raw = b"".join(one.payload for one in made)
    assert join(stored, compress=False) == raw
    body = join(stored, compress=True)
    assert first_member(body) == gzip.decompress(body) == raw
    assert all(one.payload[4:] in body for one in stored if one.codec == Codec.DEFLATE)
    merged = merge(stored, compress=True)
    assert (merged.spans, merged.raw_bytes, merged.codec) == (len(kinds), len(raw), Codec.DEFLATE)
    assert unpack(merged) == raw


def test_what_is_packed_is_packed_further_without_compressing_it_again() -> None:
    small = [packed(batch(str(number))) for number in range(3)]
    merged = merge([merge(small[:2], compress=True), small[2]], compress=True)
    assert merged.payload[4:] == b"".join(one.payload[4:] for one in small)


def test_the_same_batches_always_join_to_the_same_bytes() -> None:
    made = [batch("a"), packed(batch("b"))]
    with freeze_time("2026-01-01"):
        first = join(made, compress=True)
    with freeze_time("2027-01-01"):
        assert join(iter(made), compress=True) == first


def test_nothing_joins_to_nothing() -> None:
    assert join([], compress=False) == gzip.decompress(join([], compress=True)) == b""


def test_a_batch_unpacks_to_the_request_that_was_written() -> None:
    made = batch("a")
    assert unpack(made) == unpack(packed(made)) == unpack(packed_once(made)) == made.payload


@pytest.mark.parametrize(
    "damaged",
    [
        lambda payload: payload[:-1],
        lambda payload: payload[:-8],
        lambda payload: payload[:5],
        lambda payload: payload[:0] + b"not gzip at all",
        lambda payload: payload[:-6] + bytes([payload[-6] ^ 1]) + payload[-5:],
        lambda payload: payload[:20] + b"\xff\xff\xff\xff" + payload[24:],
        lambda payload: payload + b"trailing",
    ],
    ids=["cut by one", "without trailer", "only a header", "text", "crc", "deflate", "trailing"],
)
def test_a_damaged_gzip_payload_is_an_error_of_ours(damaged: object) -> None:
    assert callable(damaged)
    made = packed_once(batch("a"))
    broken = Batch(damaged(made.payload), made.spans, made.raw_bytes, Codec.GZIP)
    with pytest.raises(PayloadError, match="not gzip"):
        unpack(broken)
    with pytest.raises(PayloadError, match="not gzip"):
        join([batch("b"), broken], compress=False)


def test_a_payload_of_a_kind_that_nobody_knows_is_an_error_of_ours() -> None:
    unknown = Batch(b"what came later", 1, 15, 3)
    with pytest.raises(PayloadError, match=r"unknown kind \(3\)"):
        join([batch("a"), unknown], compress=True)
