"""What is told of spools: what `status` says, by one process of all, and only when it is asked."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export import SpanExportResult

import standin
from drains import evict
from meters import Meters, labels
from spans import batch, span
from spool import SpoolSpanExporter
from spool.pipeline import observation
from spool.pipeline.observation import Observed, Reading
from spool.settings.target import Target
from spool.store.store import Store
from standin import StandIn
from users import spool
from waits import wait_until

pytestmark = pytest.mark.once

LIMIT = 1 << 30
OF_SPOOL = {
    "spool.span.pending": ("{span}", False),
    "spool.span.dead": ("{span}", False),
    "spool.span.evicted": ("{span}", False),
    "spool.usage": ("By", False),
    "spool.limit": ("By", False),
    "spool.span.oldest_age": ("s", None),
}


def asking(store: Store, meters: Meters) -> Observed:
    """Tell a meter of a spool, as another process would."""
    observed = Observed()
    observed.begin(store, LIMIT)
    meters.give(observed.makers)
    return observed


@pytest.fixture
def meters() -> Meters:
    return Meters()


@pytest.fixture
def known(store: Store, target: Target) -> Store:
    """Hold three spans, one of them in the journal, a dead letter, and the trace of an eviction."""
    for name in ("evicted", "dead", "a", "b"):
        store.append(target, batch(name), 1_700_000_000.0)
    evict(store, 1)
    take = store.take(store.routes()[0].id, max_bytes=1, max_spans=1)
    assert take is not None
    store.settle(take, 2.0, dead=1, reason="400 no")
    store.accept(target, batch("c"), 1_700_000_100.0)
    return store


def test_a_spool_is_told_of_as_status_does(
    known: Store, meters: Meters, environment: None, path: Path
) -> None:
    asking(known, meters)
    said = json.loads(spool("status", "--json", code=1).stdout)
    found = meters.metrics()
    kinds = {n: (m.unit, getattr(m.data, "is_monotonic", None)) for n, m in found.items()}
    assert kinds == OF_SPOOL
    values = {name: only(metric) for name, metric in found.items()}
    assert values["spool.span.pending"] == said["pending"]["spans"] == 3
    assert values["spool.span.dead"] == said["ledger"]["dead"] == 1
    assert values["spool.span.evicted"] == said["ledger"]["evicted"] == 1
    assert values["spool.limit"] == said["max_bytes"]
    assert 0 < values["spool.usage"] < LIMIT
    assert values["spool.span.oldest_age"] >= said["pending"]["oldest_seconds"]
    assert meters.points("spool.span.pending") == {labels(spool__path=str(path)): 3}


def only(metric: Any) -> float:
    (point,) = metric.data.data_points
    value: float = point.value
    return value


def test_the_oldest_of_none_is_not_old(store: Store, target: Target, meters: Meters) -> None:
    store.register(target)
    asking(store, meters)
    assert meters.value("spool.span.oldest_age") == 0


def test_what_is_only_in_a_journal_has_its_age(
    store: Store, target: Target, meters: Meters
) -> None:
    store.register(target)
    store.accept(target, batch("a"), 1_700_000_000.0)
    asking(store, meters)
    assert meters.value("spool.span.oldest_age") > 1e6


# Who tells, and when


def test_of_several_processes_one_tells_until_its_end(known: Store, other: Store) -> None:
    first, second = Meters(), Meters()
    observed = asking(known, first)
    asking(other, second)
    assert first.value("spool.span.pending") == 3
    assert second.metrics() == {}
    observed.end(known)
    known.close()
    assert second.value("spool.span.pending") == 3
    assert first.metrics() == {}


def test_what_is_left_in_the_end_is_told_to_each_reader_for_a_moment_and_kept_from_nobody(
    known: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Meters(), Meters()
    observed = asking(known, first)
    asking(other, second)
    observed.end(known)
    known.close()
    further = InMemoryMetricReader()
    provider = MeterProvider([further], shutdown_on_exit=False)
    for make in observed.makers:
        make(provider.get_meter("tests"))
    assert set(first.metrics()) == set(OF_SPOOL)
    assert further.get_metrics_data() is not None
    monkeypatch.setattr(observation, "_AFTER_SECONDS", -1.0)
    assert first.metrics() == {}
    assert second.value("spool.span.pending") == 3


def test_the_end_of_one_that_came_before_ends_no_other(known: Store, meters: Meters) -> None:
    before = Store(known.database.path)
    observed = asking(before, Meters())
    observed.begin(known, LIMIT)
    meters.give(observed.makers)
    observed.end(before)
    assert observed._spools[known.database.path].ended_at is None


def test_what_is_past_is_forgotten(
    known: Store, meters: Meters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    observed = asking(known, meters)
    observed.end(known)
    monkeypatch.setattr(observation, "_AFTER_SECONDS", -1.0)
    another = Store(tmp_path / "another.db")
    observed.begin(another, LIMIT)
    assert list(observed._spools) == [another.database.path]


def test_a_collection_during_the_shutdown_ends_no_delivery(
    environment: None, langfuse: StandIn, meters: Meters, monkeypatch: pytest.MonkeyPatch
) -> None:
    observed = Observed()
    monkeypatch.setattr("spool.pipeline.pipeline.observed", observed)
    meters.give(observed.makers)
    is_asked, may_answer = threading.Event(), threading.Event()
    langfuse.behave(standin.reset_when(is_asked, may_answer))
    exporter = SpoolSpanExporter()
    exporter.export([span("a")])
    assert is_asked.wait(60)
    ending = threading.Thread(target=exporter.shutdown)
    ending.start()
    store = exporter._pipeline.store
    wait_until(lambda: exporter._pipeline._threads.is_closed)
    with monkeypatch.context() as patched:
        patched.setattr(store, "close", lambda: pytest.fail("it is in use"))
        assert meters.value("spool.span.pending") == 1
    may_answer.set()
    ending.join()


def test_the_child_of_a_fork_does_not_tell_what_its_parent_tells(
    known: Store, meters: Meters
) -> None:
    asking(known, meters)
    assert meters.value("spool.span.pending") == 3
    child = os.fork()
    if child == 0:
        os._exit(len(meters.metrics()))
    assert os.waitpid(child, 0)[1] == 0
    assert meters.value("spool.span.pending") == 3


def test_a_spool_is_read_once_for_all_that_is_asked_at_one_time(
    known: Store, meters: Meters, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking(known, meters)
    read, readings = Reading.of, []

    def count(store: Store, limit: int) -> Reading:
        readings.append(read(store, limit))
        return readings[-1]

    monkeypatch.setattr(observation.Reading, "of", count)
    assert set(meters.metrics()) == set(OF_SPOOL)
    assert len(readings) == 1
    meters.metrics()
    assert len(readings) == 2


def test_nothing_is_read_before_it_is_asked_and_no_thread_is_begun(
    exporter: SpoolSpanExporter, path: Path
) -> None:
    exporter.export([span("a")])
    assert exporter.force_flush()
    assert not path.with_name("spool.db.reporter").exists()
    ours = {one.name for one in threading.enumerate() if one.name.startswith("spool-")}
    assert ours <= {"spool-drainer", "spool-maintenance", "spool-prober"}


def test_a_spool_that_is_not_there_yet_is_not_told_of(store: Store, meters: Meters) -> None:
    asking(store, meters)
    assert meters.metrics() == {}
    assert not store.database.path.exists()


def test_what_cannot_be_read_is_not_told_and_raises_nothing(
    known: Store, meters: Meters, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asking(known, meters)
    known.close()
    path.write_bytes(b"something else" * 1000)
    assert meters.metrics() == {}
    assert {record.name for record in caplog.records} == {"spool"}


def test_a_collection_beside_the_end_leaves_nothing_open(
    known: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Meters(), Meters()
    observed = asking(known, first)
    read = Reading.of

    def end_meanwhile(store: Store, limit: int) -> Reading:
        observed.end(store)
        store.close()
        return read(store, limit)

    monkeypatch.setattr(observation.Reading, "of", end_meanwhile)
    first.metrics()
    monkeypatch.undo()
    asking(other, second)
    assert second.value("spool.span.pending") == 3


# What a process refuses


def test_refused_spans_are_told_by_what_was_against_them(
    exporter: SpoolSpanExporter, meters: Meters, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    observed = Observed()
    monkeypatch.setattr("spool.pipeline.pipeline.observed", observed)
    meters.give(observed.makers)
    exporter._pipeline.store.is_full = True
    assert exporter.export([span("a")]) is SpanExportResult.FAILURE
    exporter._pipeline.store.is_full = False
    broken: Any = object()
    assert exporter.export([broken]) is SpanExportResult.FAILURE
    exporter.shutdown()
    assert exporter.export([span("a"), span("b")]) is SpanExportResult.FAILURE
    where = str(path)
    assert meters.points("spool.span.refused") == {
        labels(spool__path=where, error__type="SpoolFullError"): 1,
        labels(spool__path=where, error__type="AttributeError"): 1,
        labels(spool__path=where, error__type="already_shutdown"): 2,
    }
    assert meters.metrics()["spool.span.refused"].data.is_monotonic


def test_the_child_of_a_fork_has_refused_nothing_yet(store: Store, meters: Meters) -> None:
    observed = asking(store, meters)
    observed.refuse(store, 3, "its end")
    child = os.fork()
    if child == 0:
        os._exit(meters.value("spool.span.refused") or 0)
    assert os.waitpid(child, 0)[1] == 0
    assert meters.value("spool.span.refused") == 3
