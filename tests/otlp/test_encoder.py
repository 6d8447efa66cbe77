"""Our encoder against OpenTelemetry's: the same bytes, whatever a span holds."""

from __future__ import annotations

import contextlib
import enum
import gc
import http
import logging
import os
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans as official
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.span import TraceState

from spool.otlp import encoder
from spool.otlp.encoder import encode_spans

RESOURCE = Resource({"service.name": "tests"})
SCOPE = InstrumentationScope("scope", "1.0")
CONTEXT = SpanContext(1 << 100, 1 << 50, is_remote=False)


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    # OpenTelemetry logs each odd value, with a traceback.
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def made(**given: Any) -> ReadableSpan:
    """Make a span by hand, of the given parts."""
    usual: dict[str, Any] = {
        "name": "call",
        "context": CONTEXT,
        "resource": RESOURCE,
        "instrumentation_scope": SCOPE,
        "start_time": 1_700_000_000_000_000_000,
        "end_time": 1_700_000_000_000_000_001,
    }
    return ReadableSpan(**usual | given)


def official_bytes(spans: Sequence[ReadableSpan]) -> bytes:
    return bytes(official(spans).SerializeToString())


def is_written(part: dict[str, Any]) -> bool:
    """Say whether the installed release writes this part at all."""
    return official_bytes([made(**part)]) != official_bytes([made()])


NONE_IS_WRITTEN = is_written({"attributes": {"none": None}})
WHOLE_SCOPES_ARE_WRITTEN = is_written(
    {"instrumentation_scope": InstrumentationScope("scope", "1.0", "https://schema/1")}
)


def outcome(encode: Callable[[Sequence[ReadableSpan]], bytes], spans: list[ReadableSpan]) -> object:
    try:
        return encode(spans)
    except Exception as error:  # noqa: BLE001 - its type is what is compared
        return type(error)


@contextlib.contextmanager
def fall_backs() -> Iterator[list[int]]:
    """Collect the sizes of the calls that go through the official encoder."""
    calls: list[int] = []
    usual = encoder._encode_officially

    def encode_and_count(spans: Sequence[ReadableSpan]) -> bytes:
        calls.append(len(spans))
        return usual(spans)

    encoder._encode_officially = encode_and_count
    try:
        yield calls
    finally:
        encoder._encode_officially = usual


def assert_ours(spans: list[ReadableSpan]) -> None:
    """Assert that our own encoder gives the bytes of the official one."""
    with fall_backs() as calls:
        assert encode_spans(spans) == official_bytes(spans)
    assert not calls


def assert_falls_back(spans: list[ReadableSpan]) -> None:
    """Assert that the official encoder is asked, and what it does is what happens."""
    with fall_backs() as calls:
        assert outcome(encode_spans, spans) == outcome(official_bytes, spans)
    assert calls == [len(spans)]


# What the SDK produces

int64 = st.integers(-(2**63), 2**63 - 1)
texts = st.text(max_size=20)
keys = st.text(min_size=1, max_size=8)
scalars = st.one_of(texts, st.booleans(), int64, st.floats(), st.binary(max_size=20))
flat = st.one_of(
    scalars,
    st.lists(texts, max_size=4),
    st.lists(int64, max_size=4),
    st.lists(st.floats(), max_size=4),
    st.lists(st.booleans(), max_size=4),
)
nested = st.recursive(
    st.none() | flat,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
values = nested if NONE_IS_WRITTEN else flat
attributes = st.dictionaries(keys, values, max_size=6)
times = st.integers(1, 2**64 - 1)
states = st.lists(
    st.tuples(st.from_regex(r"[a-z]{1,5}", fullmatch=True), st.sampled_from(["1", "a:b", "~"])),
    max_size=3,
).map(TraceState)
contexts = st.builds(
    SpanContext,
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.booleans(),
    st.sampled_from([TraceFlags(0), TraceFlags(1)]),
    states,
)
links = st.lists(st.builds(Link, contexts, attributes), max_size=4)
resources = st.builds(Resource, attributes, st.sampled_from([None, "", "https://schema/1"]))
limits = st.builds(
    SpanLimits,
    max_span_attributes=st.integers(0, 8),
    max_event_attributes=st.integers(0, 4),
    max_link_attributes=st.integers(0, 4),
    max_events=st.integers(0, 3),
    max_links=st.integers(0, 3),
    max_attribute_length=st.none() | st.integers(0, 10),
)


class Scope(NamedTuple):
    name: str
    version: str | None
    schema_url: str | None
    attributes: Mapping[str, Any] | None


whole_scopes = st.builds(
    Scope,
    st.sampled_from(["", "one", "two"]),
    st.sampled_from([None, "", "1.0"]),
    st.sampled_from([None, "https://schema/1"]),
    st.none() | attributes,
)
bare_scopes = st.builds(Scope, st.text(max_size=3), texts, st.none(), st.none())
scopes = whole_scopes if WHOLE_SCOPES_ARE_WRITTEN else bare_scopes


class Counting(IdGenerator):
    def __init__(self) -> None:
        self._last = 0

    def generate_span_id(self) -> int:
        self._last += 1
        return self._last

    generate_trace_id = generate_span_id


@st.composite
def sdk_spans(draw: st.DrawFn) -> list[ReadableSpan]:
    """Make spans as an application does, through one or several providers and scopes."""
    exporter = InMemorySpanExporter()
    tracers = []
    for _ in range(draw(st.integers(1, 3))):
        provider = TracerProvider(
            sampler=ALWAYS_ON,  # also below a parent that was not sampled
            resource=draw(resources),
            span_limits=draw(limits),
            id_generator=Counting(),
            shutdown_on_exit=False,
        )
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        tracers += [provider.get_tracer(*draw(scopes)) for _ in range(draw(st.integers(1, 2)))]
    for _ in range(draw(st.integers(0, 6))):
        run(draw, draw(st.sampled_from(tracers)))
    return list(exporter.get_finished_spans())


def run(draw: st.DrawFn, tracer: trace.Tracer) -> None:
    parent = draw(st.none() | contexts)
    span = tracer.start_span(
        draw(texts),
        parent and trace.set_span_in_context(trace.NonRecordingSpan(parent)),
        draw(st.sampled_from(SpanKind)),
        draw(attributes),
        draw(links),
        draw(times),
    )
    span.set_attributes(draw(attributes))
    for _ in range(draw(st.integers(0, 4))):
        span.add_event(draw(texts), draw(attributes), draw(times))
    if draw(st.booleans()):
        span.record_exception(ValueError(draw(texts)))
    span.set_status(draw(st.sampled_from(StatusCode)), draw(st.none() | texts))
    span.end(draw(times))


# Making such spans takes long, and a busy machine longer.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sdk_spans())
def test_what_the_sdk_makes_becomes_the_official_bytes(spans: list[ReadableSpan]) -> None:
    assert_ours(spans)
    for span in spans:
        assert_ours([span])


def test_no_spans_are_an_empty_request() -> None:
    assert_ours([])
    assert encode_spans([]) == b""


def test_children_of_local_and_remote_parents_say_so() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("tests")
    for is_remote in (False, True):
        parent = SpanContext(7, 8, is_remote, TraceFlags(1), TraceState([("vendor", "value")]))
        above = trace.set_span_in_context(trace.NonRecordingSpan(parent))
        with (
            tracer.start_as_current_span("child", above, links=[Link(parent)]),
            tracer.start_as_current_span("grandchild"),
        ):
            pass
    spans = list(exporter.get_finished_spans())
    assert_ours(spans)
    request = ExportTraceServiceRequest.FromString(encode_spans(spans))
    read = request.resource_spans[0].scope_spans[0].spans
    assert [span.flags for span in read] == [0x100, 0x100, 0x100, 0x300]
    assert {span.trace_state for span in read} == {"vendor=value"}
    assert [len(span.links) for span in read] == [0, 1, 0, 1]


# What is made by hand, or wrong


class Text(str):
    __slots__ = ()

    def encode(self, *_: Any) -> bytes:
        return b"not this"


class Number(int):
    def __index__(self) -> int:
        return 9

    def __int__(self) -> int:
        return 9


class Real(float):
    def __float__(self) -> float:
        return 9.0


class Raw(bytes):
    pass


class Colour(str, enum.Enum):
    RED = "red"


class Named(NamedTuple):
    one: int


SUBCLASSES = [Text("text"), Number(5), Real(1.5), Colour.RED, http.HTTPStatus.OK]
ODD = [
    2**63,
    -(2**63) - 1,
    10**30,
    Raw(b"raw"),
    bytearray(b"array"),
    memoryview(b"view"),
    range(3),
    Named(1),
    OrderedDict(a=1),
    MappingProxyType({"a": 1}),
    {1: "a number as key"},
    {Colour.RED: 1},
    {None: None},
    {1, 2},
    object(),
    Decimal(1),
    1j,
    print,
    {"a": [2**64]},
]
odd_values = st.recursive(
    st.sampled_from(ODD + SUBCLASSES) | nested,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
odd_keys = st.one_of(texts, st.sampled_from([Text("key"), Colour.RED, 1, None, b"key"]))
odd_attributes = st.none() | st.dictionaries(odd_keys, odd_values, max_size=3)
odd_times = st.sampled_from([None, 0, 1, -1, 2**64 - 1, 2**64, True, 1.0, 1.5, "1", Number(5)])
odd_texts = st.sampled_from([None, "", "text", Text("text"), Colour.RED, b"raw", 0, 7])
odd_ids = st.sampled_from([0, 1, 2**64 - 1, 2**64, 2**128 - 1, 2**128, -1, Number(5), True])
odd_contexts = st.one_of(
    st.none(),
    st.builds(SpanContext, odd_ids, odd_ids, st.sampled_from([False, True, None])),
    contexts,
)
odd_events = st.lists(st.builds(Event, odd_texts, odd_attributes, odd_times), max_size=2)
odd_links = st.lists(st.builds(Link, odd_contexts, odd_attributes), max_size=2)
odd_statuses = st.sampled_from(
    [
        None,
        Status(),
        Status(StatusCode.OK),
        Status(StatusCode.ERROR, "why"),
        Status(StatusCode.ERROR, ""),
        Status(StatusCode.ERROR, Text("why")),
        Status(None),  # type: ignore[arg-type]
        StatusCode.ERROR,
    ]
)
odd_spans = st.builds(
    made,
    name=odd_texts,
    context=odd_contexts,
    parent=odd_contexts,
    attributes=odd_attributes,
    events=odd_events,
    links=odd_links,
    kind=st.sampled_from([*SpanKind, None, 1]),
    status=odd_statuses,
    start_time=odd_times,
    end_time=odd_times,
)


def part(name: str, parts: st.SearchStrategy[Any]) -> st.SearchStrategy[ReadableSpan]:
    return parts.map(lambda value: made(**{name: value}))


# One odd part in a good span says more than a span of which nothing is right.
slightly_odd_spans = st.one_of(
    part("name", odd_texts),
    part("context", odd_contexts),
    part("parent", odd_contexts),
    part("attributes", odd_attributes),
    part("events", odd_events),
    part("links", odd_links),
    part("kind", st.sampled_from([*SpanKind, None, 1])),
    part("status", odd_statuses),
    part("start_time", odd_times),
    part("end_time", odd_times),
)


@settings(max_examples=500, deadline=None)
@given(st.lists(slightly_odd_spans | odd_spans, min_size=1, max_size=3))
def test_odd_spans_become_or_raise_what_they_officially_do(spans: list[ReadableSpan]) -> None:
    assert outcome(encode_spans, spans) == outcome(official_bytes, spans)


@pytest.mark.parametrize("value", ODD, ids=repr)
def test_a_value_that_we_do_not_know_goes_through_the_official_encoder(value: object) -> None:
    assert_falls_back([made(attributes={"odd": value, "good": 1})])


@pytest.mark.parametrize("value", SUBCLASSES, ids=repr)
def test_subclasses_of_plain_values_are_written_as_what_they_hold(value: object) -> None:
    assert_ours([made(attributes={"plain": value, "deep": [value, {"in": value}]})])


@pytest.mark.parametrize("value", [None, [None], {"in": None}], ids=repr)
def test_none_is_written_as_the_installed_release_does(value: object) -> None:
    (assert_ours if NONE_IS_WRITTEN else assert_falls_back)([made(attributes={"none": value})])


@pytest.mark.parametrize("value", ["", 0, False, 0.0, -0.0, b"", (), [], {}], ids=repr)
def test_an_empty_value_is_a_value(value: object) -> None:
    assert_ours([made(attributes={"empty": value, "deep": [value, {"in": value}]})])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 5e-324])
def test_every_float_keeps_its_bits(value: float) -> None:
    assert_ours([made(attributes={"float": value, "deep": (value,)})])


@pytest.mark.parametrize(
    "value", [number + near for number in (0, 2**7, 2**11, 2**14, 2**21) for near in (-1, 0, 1)]
)
def test_numbers_and_sizes_around_the_lengths_of_a_varint(value: int) -> None:
    assert_ours([made(attributes={"number": value, "minus": -value, "edge": 2**63 - 1})])
    for less in range(24):
        text = "x" * (value - less)
        assert_ours([made(name=text, attributes={"text": text, "deep": [text], "b": b"x" * value})])


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 3000])
def test_keys_of_any_length(size: int) -> None:
    assert_ours([made(attributes={"k" * size: 1}), made(attributes={"k" * size: "again"})])


def test_what_is_nested_too_deeply_is_left_to_the_official_encoder() -> None:
    def nest(depth: int) -> object:
        return 1 if depth == 0 else [nest(depth - 1)] if depth % 2 else {"in": nest(depth - 1)}

    assert_ours([made(attributes={"deep": nest(12)})])
    for depth in (13, 40, 60):
        assert_falls_back([made(attributes={"deep": nest(depth)})])


def test_a_value_that_holds_itself_does_not_reach_the_stack_s_end() -> None:
    value: list[object] = []
    value.append(value)
    assert_falls_back([made(attributes={"endless": value})])


def test_one_span_that_we_do_not_know_takes_its_call_along_and_no_other() -> None:
    good, odd = made(), made(attributes={"odd": object()})
    with fall_backs() as calls:
        for spans in ([good], [good, odd, good], [good]):
            assert encode_spans(spans) == official_bytes(spans)
    assert calls == [3]


def dropped(count: Any) -> BoundedAttributes:
    attributes = BoundedAttributes(attributes={"kept": 1})
    attributes.dropped = count
    return attributes


@pytest.mark.parametrize("count", [0, 1, 127, 128, 300, 2**32 - 1])
def test_what_was_dropped_is_counted(count: int) -> None:
    some = dropped(count)
    events, links = [Event("event", some, 1)], [Link(CONTEXT, some)]
    assert_ours([made(attributes=some, events=events, links=links)])


@pytest.mark.parametrize(
    "odd",
    [
        *({name: None} for name in ("context", "start_time", "end_time", "kind", "status")),
        *({"start_time": time} for time in (0, -1, 2**64, True, 1.0, "1", Number(5))),
        *({"name": name} for name in (Text("text"), b"raw", 7)),
        {"context": SpanContext(2**128, 1, is_remote=False)},
        {"parent": SpanContext(1, -1, is_remote=False)},
        {"events": [Event("event", timestamp=0)]},
        {"links": [Link(None)]},  # type: ignore[arg-type]
        *({"attributes": dropped(count)} for count in (-1, 2**32, True, 1.0)),
    ],
    ids=repr,
)
def test_a_part_of_a_span_that_we_do_not_know_is_left_to_the_official_encoder(
    odd: dict[str, Any],
) -> None:
    assert_falls_back([made(**odd)])


def test_what_the_official_encoder_raises_is_raised() -> None:
    with pytest.raises(TypeError):
        encode_spans([made(name=7)])


def test_what_ends_the_program_is_not_caught() -> None:
    class Interrupted(Mapping[str, Any]):
        def __getitem__(self, key: str) -> Any:
            raise KeyboardInterrupt

        def __iter__(self) -> Iterator[str]:
            raise KeyboardInterrupt

        def __len__(self) -> int:
            return 1

        def copy(self) -> dict[str, Any]:
            raise KeyboardInterrupt

    with fall_backs() as calls, pytest.raises(KeyboardInterrupt):
        encode_spans([made(attributes=Interrupted())])
    assert not calls


# Resources and scopes


class OwnResource(Resource):
    @property
    def attributes(self) -> Any:
        return {"own": True}


class OwnScope(InstrumentationScope):
    @property
    def name(self) -> str:
        return "own"


# Equal and not identical, equal in another order, equal by Python only (1 == 1.0 == True), unlike.
POOL = [
    RESOURCE,
    Resource({"service.name": "tests"}),
    Resource({"a": 1, "b": "2"}),
    Resource({"b": "2", "a": 1}),
    Resource({"a": True, "b": "2"}),
    Resource({"a": 1.0, "b": "2"}),
    Resource({"a": 1}, "https://schema/1"),
    Resource({}),
]
SCOPES = [
    None,
    SCOPE,
    InstrumentationScope("scope", "1.0"),
    InstrumentationScope("scope"),
    InstrumentationScope(""),
]
WHOLE_SCOPES = [
    InstrumentationScope("scope", "1.0", "https://schema/1"),
    InstrumentationScope("scope", attributes={"a": 1}),
    InstrumentationScope("scope", attributes={"a": True}),
    InstrumentationScope("scope", attributes={"a": 1.0, "b": ("x", "y")}),
]
members = st.builds(
    lambda name, resource, scope: made(name=name, resource=resource, instrumentation_scope=scope),
    texts,
    st.sampled_from(POOL),
    st.sampled_from(SCOPES + (WHOLE_SCOPES if WHOLE_SCOPES_ARE_WRITTEN else [])),
)


@settings(deadline=None)
@given(st.lists(members, max_size=12))
def test_spans_are_grouped_by_what_equals_in_the_order_of_arrival(
    spans: list[ReadableSpan],
) -> None:
    assert_ours(spans)


@pytest.mark.parametrize("scope", WHOLE_SCOPES, ids=repr)
def test_scopes_are_written_as_the_installed_release_does(scope: InstrumentationScope) -> None:
    spans = [made(instrumentation_scope=scope)]
    (assert_ours if WHOLE_SCOPES_ARE_WRITTEN else assert_falls_back)(spans)


@pytest.mark.parametrize(
    "odd",
    [
        {"resource": OwnResource({})},
        {"resource": Resource({}, 7)},  # type: ignore[arg-type]
        {"instrumentation_scope": OwnScope("scope")},
        {"instrumentation_scope": InstrumentationScope(7)},  # type: ignore[arg-type]
        {"instrumentation_scope": "scope"},
    ],
    ids=repr,
)
def test_resources_and_scopes_of_another_kind_are_left_to_the_official_encoder(
    odd: dict[str, Any],
) -> None:
    for _ in range(2):
        assert_falls_back([made(**odd)])


def test_a_resource_or_scope_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    resource, scope = Resource({"a": 1}), InstrumentationScope("once")
    spans = [made(resource=resource, instrumentation_scope=scope)]
    first = encode_spans(spans)
    monkeypatch.setattr(encoder._resource, "_encode", None)
    monkeypatch.setattr(encoder._scope, "_encode", None)
    with fall_backs() as calls:
        assert encode_spans(spans) == first
    assert not calls


def test_spans_of_one_resource_do_not_hash_it(monkeypatch: pytest.MonkeyPatch) -> None:
    spans = [made(), made(name="other")]
    expected = official_bytes(spans)
    monkeypatch.setattr(Resource, "__hash__", None)  # it writes JSON, each time
    with fall_backs() as calls:
        assert encode_spans(spans) == expected
    assert not calls


def test_one_resource_is_never_taken_for_another_that_had_its_place_in_memory() -> None:
    for number in range(3 * encoder._MAX_THINGS):
        resource = Resource({"number": number})
        scope = InstrumentationScope(f"scope {number}")
        assert_ours([made(resource=resource, instrumentation_scope=scope)])
        del resource, scope
        if number % 64 == 0:
            gc.collect()
    assert len(encoder._resource._known) <= encoder._MAX_THINGS
    assert len(encoder._scope._known) <= encoder._MAX_THINGS


def test_any_number_of_keys_is_encoded_and_a_bounded_number_is_kept() -> None:
    for number in range(0, 3 * encoder._MAX_KEYS, 1000):
        keys = {f"key {number + more}": more for more in range(1000)}
        assert_ours([made(attributes=keys)])
    assert 0 < len(encoder._keys) <= encoder._MAX_KEYS


def test_a_long_key_is_not_kept() -> None:
    key = "long" * encoder._MAX_KEY_LENGTH
    assert_ours([made(attributes={key: 1})])
    assert key not in encoder._keys


# Threads and forks, and what is imported


def calls_of_many_kinds() -> list[list[ReadableSpan]]:
    return [
        [
            made(
                name=f"span {number}",
                resource=Resource({"number": number % 7}),
                instrumentation_scope=InstrumentationScope(f"scope {number % 5}"),
                attributes={f"key {number} {more}": "x" * more for more in range(10)},
            )
        ]
        for number in range(40)
    ]


def test_many_threads_encode_at_once_while_the_caches_overflow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encoder, "_MAX_THINGS", 3)
    monkeypatch.setattr(encoder, "_MAX_KEYS", 20)
    calls = calls_of_many_kinds()
    expected = [official_bytes(spans) for spans in calls]
    failures: list[object] = []

    def encode_all() -> None:
        for _ in range(10):
            got = [encode_spans(spans) for spans in calls]
            if got != expected:
                failures.append(got)

    threads = [threading.Thread(target=encode_all) for _ in range(8)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with fall_backs() as fallen:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not failures
    assert not fallen


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_that_was_forked_while_threads_encode_encodes_too() -> None:
    calls = calls_of_many_kinds()
    expected = [official_bytes(spans) for spans in calls]
    ended = threading.Event()

    def encode_on() -> None:
        while not ended.is_set():
            for spans in calls:
                encode_spans(spans)

    threads = [threading.Thread(target=encode_on) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            child = os.fork()
            if child == 0:
                os._exit([encode_spans(spans) for spans in calls] != expected)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        ended.set()
        for thread in threads:
            thread.join()


LONE, PAIR = "cut \ud83d", "\ud83d\ude00"
MENDED, JOINED = "cut \ufffd", "\U0001f600"


def spans_with(text: str) -> dict[str, ReadableSpan]:
    """Make spans that have a text in one place each."""
    return {
        "name": made(name=text),
        "event": made(events=[Event(text, timestamp=1)]),
        "status": made(status=Status(StatusCode.ERROR, text)),
        "attribute": made(attributes={"key": text}),
        "key": made(attributes={text: "value"}),
        "list": made(attributes={"key": [text, "a"]}),
        "dict": made(attributes={"key": {text: text}}),
        "event attribute": made(events=[Event("e", {"key": text}, 1)]),
        "link attribute": made(links=[Link(CONTEXT, {"key": text})]),
        "resource": made(resource=Resource({"key": text}, f"https://{text}")),
        "scope": made(instrumentation_scope=InstrumentationScope(text, text)),
    }


@pytest.mark.parametrize("place", spans_with(""))
def test_text_that_is_no_unicode_is_mended_wherever_it_stands(place: str) -> None:
    for text, mended in ((LONE, MENDED), (PAIR, JOINED)):
        assert encode_spans([spans_with(text)[place]]) == encode_spans([spans_with(mended)[place]])
    ExportTraceServiceRequest.FromString(encode_spans([spans_with(LONE)[place]]))


@pytest.mark.parametrize("place", ["name", "event", "status"])
def test_text_that_is_no_unicode_is_mended_beside_what_only_the_official_encoder_knows(
    place: str,
) -> None:
    odd = made(attributes={"odd": 10**30})
    spans, mended = [odd, spans_with(LONE)[place]], [odd, spans_with(MENDED)[place]]
    assert encode_spans(spans) == official_bytes(mended)


ALONE = """
import sys
import spool
from spool.otlp.encoder import encode_spans

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext

def encode(value):
    context = SpanContext(1, 2, False)
    span = ReadableSpan("n", context, attributes={"k": value}, start_time=1, end_time=2)
    encode_spans([span])

def is_loaded(name):
    return any(module == name or module.startswith(name + ".") for module in sys.modules)

NAMES = [
    "google.protobuf", "requests", "opentelemetry.proto", "opentelemetry.exporter",
    "sqlite_utils", "tenacity", "click",
]
encode("known")
print([name for name in NAMES if is_loaded(name)])
encode(10**30)
print([name for name in NAMES if is_loaded(name)])
"""


def test_protobuf_and_the_official_exporter_are_imported_only_to_fall_back() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", ALONE],
        capture_output=True,
        text=True,
        check=True,
    )
    before, after = ran.stdout.splitlines()
    assert before == "[]"
    assert "google.protobuf" in after
    assert "opentelemetry.exporter" in after
