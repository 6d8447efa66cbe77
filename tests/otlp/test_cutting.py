from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from spans import batch, names_in
from spool.errors import PayloadError
from spool.otlp.batch import Batch, Codec, join
from spool.otlp.cutting import cut, divide, pieces
from stored_batches import packed, packed_once

# A field that nobody knows yet, of each wire type: varint, fixed64, length-delimited, fixed32.
UNKNOWN = [b"\x80\x7d\x96\x01", b"\x81\x7d" + b"8" * 8, b"\x82\x7d\x03new", b"\x85\x7d" + b"4" * 4]

Placed = tuple[bytes, str, bytes, bytes, str, bytes, bytes]


def request_of(payload: bytes) -> ExportTraceServiceRequest:
    return ExportTraceServiceRequest.FromString(payload)


def placed_spans(payload: bytes) -> list[Placed]:
    """Give each span's bytes with all that stands around it."""
    return [
        (
            resource.resource.SerializeToString(),
            resource.schema_url,
            unknown_fields(resource),
            scope.scope.SerializeToString(),
            scope.schema_url,
            unknown_fields(scope),
            found.SerializeToString(),
        )
        for resource in request_of(payload).resource_spans
        for scope in resource.scope_spans
        for found in scope.spans
    ]


def unknown_fields(message: ResourceSpans | ScopeSpans) -> bytes:
    """What remains of a message without the fields that are known."""
    rest = type(message).FromString(message.SerializeToString())
    for name in ("resource", "scope_spans", "scope", "spans", "schema_url"):
        if name in rest.DESCRIPTOR.fields_by_name:
            rest.ClearField(name)  # type: ignore[arg-type]
    return rest.SerializeToString()


def batch_of(request: ExportTraceServiceRequest, extra: bytes = b"") -> Batch:
    payload = request.SerializeToString() + extra
    return Batch(payload, len(placed_spans(payload)), len(payload))


texts = st.text(max_size=8)
unknown = st.lists(st.sampled_from(UNKNOWN), max_size=2).map(b"".join)


@st.composite
def span_messages(draw: st.DrawFn) -> Span:
    made = Span(
        trace_id=draw(st.binary(min_size=16, max_size=16)),
        span_id=draw(st.binary(min_size=8, max_size=8)),
        name=draw(texts),
        start_time_unix_nano=draw(st.integers(0, 2**64 - 1)),
    )
    for key in draw(st.lists(texts, max_size=3)):
        made.attributes.add(key=key).value.string_value = draw(st.text(max_size=200))
    made.events.add(name=draw(texts))
    made.MergeFromString(draw(unknown))
    return made


@st.composite
def scope_messages(draw: st.DrawFn) -> ScopeSpans:
    scope = InstrumentationScope(name=draw(texts), version=draw(texts))
    spans = draw(st.lists(st.one_of(span_messages(), st.just(Span())), max_size=4))
    made = ScopeSpans(scope=scope, spans=spans, schema_url=draw(texts))
    made.MergeFromString(draw(unknown))
    return made


@st.composite
def resource_messages(draw: st.DrawFn) -> ResourceSpans:
    resource = Resource(dropped_attributes_count=draw(st.integers(0, 300)))
    resource.attributes.add(key="service.name").value.string_value = draw(texts)
    scopes = draw(st.lists(scope_messages(), max_size=3))
    made = ResourceSpans(resource=resource, scope_spans=scopes, schema_url=draw(texts))
    made.MergeFromString(draw(unknown))
    return made


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    resources = draw(st.lists(resource_messages(), min_size=1, max_size=3))
    return batch_of(ExportTraceServiceRequest(resource_spans=resources), draw(unknown))


@given(batches())
def test_a_batch_can_be_cut_anywhere_and_every_span_stays_as_and_where_it_is(whole: Batch) -> None:
    spans = placed_spans(whole.payload)
    for position in range(1, whole.spans):
        head, rest = cut(whole, position)
        assert placed_spans(head.payload) == spans[:position]
        assert placed_spans(rest.payload) == spans[position:]
        assert (head.spans, rest.spans) == (position, whole.spans - position)
        for half in (head, rest):
            assert (half.raw_bytes, half.codec) == (len(half.payload), Codec.RAW)
            scopes = [one.scope_spans for one in request_of(half.payload).resource_spans]
            assert all(scope.spans for scope in itertools.chain(*scopes))
            assert all(scopes)


@given(batches())
def test_unknown_fields_of_the_request_itself_stay_in_both_halves(whole: Batch) -> None:
    def unknown_of(payload: bytes) -> bytes:
        request = request_of(payload)
        request.ClearField("resource_spans")
        return bytes(request.SerializeToString())

    if whole.spans > 1:
        head, rest = cut(whole, 1)
        assert unknown_of(head.payload) == unknown_of(rest.payload) == unknown_of(whole.payload)


@given(batches())
def test_repeated_halving_ends_with_every_span_alone(whole: Batch) -> None:
    def halve(batch: Batch) -> list[Batch]:
        if batch.spans <= 1:
            return [batch]
        head, rest = cut(batch, batch.spans // 2)
        return halve(head) + halve(rest)

    alone = [placed_spans(one.payload) for one in halve(whole)]
    assert all(len(found) <= 1 for found in alone)
    assert list(itertools.chain(*alone)) == placed_spans(whole.payload)


def test_the_raw_bytes_of_a_span_are_kept_even_where_no_encoder_would_write_them_so() -> None:
    # Its fields in reverse order, a length in two bytes where one would do, a field given twice.
    odd = b"\x2a\x83\x00odd" + b"\x12\x08" + b"s" * 8 + b"\x0a\x10" + b"t" * 16 + b"\x2a\x03odd"
    other = Span(name="other").SerializeToString()
    spans = b"".join(b"\x12" + bytes([len(one)]) + one for one in (odd, other, odd))
    scope = b"\x12" + bytes([len(spans)]) + spans
    payload = b"\x0a" + bytes([len(scope)]) + scope
    assert len(payload) < 128 + 2
    head, rest = cut(Batch(payload, 3, len(payload)), 1)
    assert odd in head.payload
    assert odd in rest.payload
    assert head.payload.count(b"t" * 16) == rest.payload.count(b"t" * 16) == 1


def test_a_packed_batch_is_cut_as_well() -> None:
    made = batch("a", "b", "c")
    assert cut(packed(made), 2) == cut(packed_once(made), 2) == cut(made, 2)


def test_the_halves_of_a_large_batch_have_right_lengths() -> None:
    made = batch(*(str(number) for number in range(40)), size=1000)
    head, rest = cut(made, 20)
    assert placed_spans(head.payload) + placed_spans(rest.payload) == placed_spans(made.payload)
    assert head.raw_bytes > 16384  # a length of three bytes


def test_no_part_has_more_spans_than_are_asked_for() -> None:
    parts = divide(batch(*"abcdefg"), 2)
    assert [part.spans for part in parts] == [1, 2, 2, 2]
    assert names_in(join(parts, compress=False)) == list("abcdefg")


# Damage


def test_a_payload_that_is_cut_off_anywhere_is_an_error_of_ours() -> None:
    made = batch("a", "b")
    assert request_of(made.payload).ByteSize() == len(made.payload)
    for length in range(1, len(made.payload)):
        with pytest.raises(PayloadError):
            cut(Batch(made.payload[:length], 2, length), 1)


def test_a_payload_with_less_spans_than_it_says_is_an_error_of_ours() -> None:
    made = batch("a", "b")
    with pytest.raises(PayloadError, match="less spans than it says"):
        divide(Batch(made.payload, 5, made.raw_bytes), 1)


@pytest.mark.parametrize("wire_type", [3, 4, 6, 7])
def test_a_wire_type_that_otlp_has_not_is_an_error_of_ours(wire_type: int) -> None:
    with pytest.raises(PayloadError, match=f"wire type {wire_type}"):
        cut(Batch(bytes([1 << 3 | wire_type]) + b"\x00" * 8, 2, 9), 1)


@given(st.binary(max_size=200))
def test_any_other_bytes_are_cut_or_an_error_of_ours(payload: bytes) -> None:
    try:
        head, rest = cut(Batch(payload, 2, len(payload)), 1)
    except PayloadError:
        return
    assert head.spans + rest.spans == 2


@given(st.data())
def test_a_flipped_byte_is_cut_or_an_error_of_ours(data: st.DataObject) -> None:
    payload = bytearray(batch("a", "b", size=20).payload)
    position = data.draw(st.integers(0, len(payload) - 1))
    payload[position] ^= data.draw(st.integers(1, 255))
    try:
        head, rest = cut(Batch(bytes(payload), 2, len(payload)), 1)
    except PayloadError:
        return
    assert head.spans + rest.spans == 2


def test_pieces_are_small_whole_and_in_order() -> None:
    whole = batch(*(f"s{number}" for number in range(100)), size=1000)
    cut_up = pieces(whole, 10_000)
    assert all(piece.raw_bytes <= 10_000 for piece in cut_up)
    assert sum(piece.spans for piece in cut_up) == 100
    assert names_in(join(cut_up, compress=False)) == [f"s{number}" for number in range(100)]


def test_what_fits_and_a_single_span_stay_as_they_are() -> None:
    one = batch("large", size=100_000)
    assert pieces(one, 1000) == [one]
    assert pieces(one, 1 << 20) == [one]
