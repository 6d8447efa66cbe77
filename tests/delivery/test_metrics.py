"""What is told of requests: OpenTelemetry's names, of each span once."""

from __future__ import annotations

import contextlib
import inspect
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

import standin
from drains import NAMES, Clock, drain_all
from meters import Meters
from spans import batch, span
from spool.delivery.drainer import Drainer
from spool.delivery.metrics import Instruments, RequestMetrics
from spool.settings.target import Target
from spool.store.store import Store
from spool.system import metering
from spool.system.log import LimitedWarning
from standin import StandIn

EXPORTED = "otel.sdk.exporter.span.exported"
INFLIGHT = "otel.sdk.exporter.span.inflight"
DURATION = "otel.sdk.exporter.operation.duration"


@pytest.fixture
def meters() -> Meters:
    return Meters()


@pytest.fixture
def observed(drainer: Drainer, meters: Meters) -> Drainer:
    """Drain twenty single spans; the meters are told of it."""
    return with_meters(drainer, meters)


def with_meters(drainer: Drainer, meters: Meters) -> Drainer:
    path = drainer.store.database.path
    drainer.client._metrics = RequestMetrics(path, instruments_of(meters))
    return drainer


def instruments_of(meters: Meters) -> Instruments:
    instruments = Instruments(lambda: True)
    meters.give(instruments.makers)
    return instruments


def told(meters: Meters, name: str) -> list[tuple[dict[str, Any], Any]]:
    """Give what a metric's values are, without whose they are."""
    component = ("otel.component.type", "otel.component.name", "server.address", "server.port")
    points = meters.points(name)
    return sorted(
        (
            ({k: v for k, v in attributes if k not in component}, value)
            for attributes, value in points.items()
        ),
        key=str,
    )


def test_spans_that_arrive_are_exported_by_a_component_to_a_server(
    observed: Drainer, meters: Meters, langfuse: StandIn
) -> None:
    drain_all(observed)
    (one,) = meters.points(EXPORTED)
    port = int(langfuse.url.rpartition(":")[2])
    whose = {"server.address": "127.0.0.1", "server.port": port}
    name = dict(one)["otel.component.name"]
    whose |= {"otel.component.type": "spool.SpoolSpanExporter", "otel.component.name": name}
    assert dict(one) == whose
    assert name.startswith("spool.SpoolSpanExporter/")
    assert meters.value(EXPORTED) == len(NAMES)
    assert meters.points(INFLIGHT) == {frozenset(whose.items()): 0}
    assert meters.points(DURATION) == {frozenset(whose.items()): len(langfuse.requests)}


def test_a_port_that_is_not_named_is_that_of_the_scheme(path: Path, meters: Meters) -> None:
    of_requests = RequestMetrics(path, instruments_of(meters))
    for endpoint in (
        "https://a.example/v1/traces",
        "http://b.example",
        "http://c.example:nonsense",
    ):
        of_requests.ended(Target(endpoint, endpoint, {}), 1, 0)
    servers = {
        (dict(one).get("server.address"), dict(one).get("server.port"))
        for one in meters.points(EXPORTED)
    }
    assert servers == {("a.example", 443), ("b.example", 80), ("c.example", None)}


def test_each_spool_of_a_process_is_a_component_of_its_own(path: Path, meters: Meters) -> None:
    instruments = instruments_of(meters)
    for spool in (path, path.with_name("other.db"), path):
        RequestMetrics(spool, instruments).ended(None, 1, 0)
    assert sorted(meters.points(EXPORTED).values()) == [1, 2]


FAILURES: dict[str, tuple[standin.Behaviour, dict[str, Any]]] = {
    "unavailable": (
        standin.unavailable(),
        {"error.type": "503", "http.response.status_code": 503},
    ),
    "wrong keys": (standin.status(401), {"error.type": "401", "http.response.status_code": 401}),
    "a captive portal": (
        standin.html_200(),
        {"error.type": "no_otlp_answer", "http.response.status_code": 200},
    ),
    "silence": (standin.mute(), {"error.type": "timeout"}),
}


@pytest.mark.parametrize(("behaviour", "error"), FAILURES.values(), ids=FAILURES)
def test_a_request_that_fails_has_its_error_and_its_spans_are_not_exported_yet(
    behaviour: standin.Behaviour,
    error: dict[str, Any],
    observed: Drainer,
    meters: Meters,
    langfuse: StandIn,
    clock: Clock,
) -> None:
    observed.client.timeout = 0.5
    langfuse.behave(behaviour)
    observed.send_due()
    assert told(meters, DURATION) == [(error, 1)]
    assert told(meters, INFLIGHT) == [({}, 0)]
    assert meters.points(EXPORTED) == {}
    langfuse.behave(None)
    clock.now += 1000
    drain_all(observed)
    assert told(meters, EXPORTED) == [({}, len(NAMES))]


def test_a_connection_that_is_refused_is_its_exception(
    observed: Drainer, meters: Meters, langfuse: StandIn
) -> None:
    langfuse.stop()
    observed.send_due()
    assert told(meters, DURATION) == [({"error.type": "ConnectionRefusedError"}, 1)]


def test_spans_that_become_dead_letters_are_exported_with_an_error_each_once(
    observed: Drainer, meters: Meters, langfuse: StandIn
) -> None:
    langfuse.behave(standin.poison("s7", 400))
    drain_all(observed)
    assert observed.store.ledger().dead == 1
    assert told(meters, EXPORTED) == [({"error.type": "rejected"}, 1), ({}, len(NAMES) - 1)]


def test_spans_that_are_rejected_in_part_count_as_failed(
    observed: Drainer, meters: Meters, langfuse: StandIn
) -> None:
    langfuse.behave(standin.sequence([standin.partial_success(1, "too old"), None]))
    drain_all(observed)
    assert told(meters, EXPORTED) == [({"error.type": "rejected"}, 1), ({}, len(NAMES) - 1)]
    rejected = {"error.type": "rejected", "http.response.status_code": 200}
    assert (rejected, 1) in told(meters, DURATION)


def test_what_goes_out_of_the_journal_is_told_too(fresh: Drainer, meters: Meters) -> None:
    drain_all(with_meters(fresh, meters))
    assert told(meters, EXPORTED) == [({}, 3)]


def test_a_request_under_way_is_in_flight(
    observed: Drainer, meters: Meters, langfuse: StandIn
) -> None:
    with a_request_under_way(observed, langfuse):
        assert meters.value(INFLIGHT) >= 1
    assert meters.value(INFLIGHT) == 0


def test_a_meter_provider_that_comes_while_a_request_is_under_way_counts_it_rightly(
    drainer: Drainer, meters: Meters, langfuse: StandIn
) -> None:
    instruments = Instruments(lambda: True)
    drainer.client._metrics = RequestMetrics(drainer.store.database.path, instruments)
    with a_request_under_way(drainer, langfuse):
        meters.give(instruments.makers)
        assert meters.value(INFLIGHT) >= 1
    assert meters.value(INFLIGHT) == 0


@contextlib.contextmanager
def a_request_under_way(drainer: Drainer, langfuse: StandIn) -> Iterator[None]:
    is_asked, may_answer = threading.Event(), threading.Event()
    langfuse.behave(standin.reset_when(is_asked, may_answer))
    sending = threading.Thread(target=drainer.send_due)
    sending.start()
    assert is_asked.wait(60)
    try:
        yield
    finally:
        may_answer.set()
        sending.join()


# What a MeterProvider may do


def fail(*_: object, **__: object) -> None:
    raise RuntimeError("no")


def test_a_meter_provider_that_raises_hinders_no_delivery_and_no_other_instrument(
    drainer: Drainer,
    store: Store,
    langfuse: StandIn,
    meters: Meters,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with_meters(drainer, meters)
    monkeypatch.setattr(drainer.client._metrics._instruments._duration, "record", fail)
    monkeypatch.setattr(metering, "trouble", LimitedWarning("the MeterProvider raises"))
    drain_all(drainer)
    assert (store.ledger().delivered, set(langfuse.names().values())) == (len(NAMES), {1})
    assert caplog.messages == []
    assert meters.value(EXPORTED) == len(NAMES)
    assert caplog.messages == ["langfuse-spool: the MeterProvider raises: no"]


def test_who_sends_tells_no_meter_provider(
    observed: Drainer, meters: Meters, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_by = []
    duration = observed.client._metrics._instruments._duration
    assert duration is not None
    record = duration.record

    def note(*told: Any) -> None:
        told_by.append(threading.current_thread())
        record(*told)

    monkeypatch.setattr(duration, "record", note)
    sending = threading.Thread(target=drain_all, args=[observed])
    sending.start()
    sending.join()
    assert told_by == []
    assert meters.value(DURATION) == len(told_by) > 0
    assert set(told_by) == {threading.current_thread()}


def test_where_no_meter_provider_is_set_no_durations_are_kept(drainer: Drainer) -> None:
    instruments = Instruments()
    drainer.client._metrics = RequestMetrics(drainer.store.database.path, instruments)
    drain_all(drainer)
    assert not instruments._own.get().durations


def test_the_child_of_a_fork_has_exported_nothing_yet(observed: Drainer, meters: Meters) -> None:
    drain_all(observed)
    child = os.fork()
    if child == 0:
        os._exit(meters.value(EXPORTED) or 0)
    assert os.waitpid(child, 0)[1] == 0
    assert meters.value(EXPORTED) == len(NAMES)


# Beside OpenTelemetry's own exporter


@pytest.mark.skipif(
    "meter_provider" not in inspect.signature(OTLPSpanExporter.__init__).parameters,
    reason="this OpenTelemetry's exporter tells no metrics",
)
def test_names_kinds_units_and_attributes_are_those_of_the_stock_exporter(
    observed: Drainer,
    meters: Meters,
    langfuse: StandIn,
    target: Target,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "true")
    theirs = Meters()
    options: dict[str, Any] = {"meter_provider": theirs.provider}
    stock = OTLPSpanExporter(target.endpoint, headers=dict(target.headers), **options)
    stock.export([span("theirs")])
    drain_all(observed)
    langfuse.stop()
    stock.export([span("lost")])
    observed.store.append(target, batch("kept"), 1.0)
    observed.send_due()
    assert {name: kind_of(one) for name, one in meters.metrics().items()} == {
        name: kind_of(one) for name, one in theirs.metrics().items()
    }
    keys_of_theirs, keys_of_ours = (
        {k for p in m.points(DURATION) for k, _ in p} for m in (theirs, meters)
    )
    assert keys_of_ours == keys_of_theirs


def kind_of(metric: Any) -> tuple[object, ...]:
    is_monotonic = getattr(metric.data, "is_monotonic", None)
    return metric.unit, metric.description, type(metric.data).__name__, is_monotonic
