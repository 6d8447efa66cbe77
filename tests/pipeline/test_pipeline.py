from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from opentelemetry.sdk.trace.export import SpanExportResult

from spans import span
from spool import Settings, SpoolFileError, SpoolSpanExporter
from spool.delivery.drainer import Drainer
from spool.otlp.batch import Batch
from spool.pipeline import registry
from spool.settings.target import Target
from spool.store import takeover
from spool.store.maintenance_thread import MaintenanceThread
from spool.store.store import Store
from standin import StandIn
from waits import wait_until

OTHER = Target.langfuse("pk-lf-other", "sk-lf-other", "http://127.0.0.1:9")


@pytest.fixture
def exporters() -> Iterator[list[SpoolSpanExporter]]:
    """Shut down at the end what a test has put in."""
    made: list[SpoolSpanExporter] = []
    yield made
    for exporter in made:
        exporter.shutdown()


@pytest.mark.parametrize("has_begun", [True, False])
def test_who_wants_a_drainer_gets_one_though_the_first_exporter_wants_none(
    settings: Settings, langfuse: StandIn, exporters: list[SpoolSpanExporter], has_begun: bool
) -> None:
    exporters.append(SpoolSpanExporter(settings=replace(settings, drain=False)))
    if has_begun:
        exporters[0].export([span("a")])
    exporters.append(SpoolSpanExporter(settings=settings))
    if not has_begun:
        exporters[0].export([span("a")])
    langfuse.wait_for(lambda server: server.names() == {"a": 1})


def test_settings_that_differ_are_said_once_with_both_values(
    settings: Settings, exporters: list[SpoolSpanExporter], caplog: pytest.LogCaptureFixture
) -> None:
    exporters.append(SpoolSpanExporter(settings=settings))
    differing = replace(
        settings,
        sync_seconds=7.5,
        backoff_seconds=(2, 30),
        drain=False,
        proxies={"https": "http://user:hunter2@proxy"},
        target=OTHER,
    )
    exporters.extend(SpoolSpanExporter(settings=differing) for _ in range(2))
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3, lines
    said = " ".join(lines)
    assert "sync_seconds: 1 of the first one counts, 7.5 of a further one does not" in said
    assert "backoff_seconds: 0.01..0.05 of the first one counts, 2..30 of a further one" in said
    assert "proxies" in said
    assert "hunter2" not in said


def test_joining_an_open_spool_waits_for_nobody_and_writes_nothing(
    settings: Settings, path: Path, exporters: list[SpoolSpanExporter]
) -> None:
    exporters.append(SpoolSpanExporter(settings=replace(settings, drain=False)))
    other = Store(path)
    with other.database.writing(), exporters[0]._pipeline.store.drain_lock.take(1.0) as is_had:
        assert is_had
        joined = threading.Thread(
            target=lambda: exporters.append(
                SpoolSpanExporter(settings=replace(settings, target=OTHER, drain=False))
            )
        )
        started = time.monotonic()
        joined.start()
        joined.join()
        assert time.monotonic() - started < 4  # else it is 5 s
        assert exporters[1].export([span("a")]) is SpanExportResult.SUCCESS
    other.close()


def test_opening_a_spool_whose_mutex_is_held_waits_only_briefly(
    settings: Settings, path: Path, exporters: list[SpoolSpanExporter]
) -> None:
    other = Store(path)
    other.open()
    with other.database.writing():
        started = time.monotonic()
        exporters.append(SpoolSpanExporter(settings=replace(settings, drain=False)))
        assert time.monotonic() - started < 4  # else it is 5 s
        assert exporters[0].export([span("a")]) is SpanExportResult.SUCCESS
    other.close()


def test_an_exporter_that_cannot_be_made_leaves_nothing_open(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a spool at all")
    settings = Settings(path=tmp_path / "file", target=OTHER)
    for _ in range(2):
        with pytest.raises(SpoolFileError):
            SpoolSpanExporter(settings=settings)
    assert not registry._open_pipelines


@pytest.mark.parametrize("one", [MaintenanceThread, Drainer])
def test_an_exception_out_of_a_signal_handler_while_the_threads_start_costs_no_thread(
    settings: Settings,
    langfuse: StandIn,
    exporters: list[SpoolSpanExporter],
    monkeypatch: pytest.MonkeyPatch,
    one: type[MaintenanceThread | Drainer],
) -> None:
    class Interruption(BaseException):
        """As Celery's time limit, or Ctrl-C."""

    start: Callable[..., None] = one.start

    def start_and_be_interrupted(self: MaintenanceThread | Drainer, **options: bool) -> None:
        start(self, **options)
        raise Interruption

    before = set(threading.enumerate())
    with monkeypatch.context() as patch:
        patch.setattr(one, "start", start_and_be_interrupted)
        with pytest.raises(Interruption):
            SpoolSpanExporter(settings=settings)
        patch.setattr(one, "start", none_is_to_be_had)
        exporters.append(SpoolSpanExporter(settings=settings))
        patch.setattr(one, "start", start_and_be_interrupted)
        with pytest.raises(Interruption):
            exporters[0].export([span("a")])
    exporters[0].export([span("b")])
    langfuse.wait_for(lambda server: server.names() == {"a": 1, "b": 1})
    exporters[0].shutdown()
    wait_until(lambda: not [t for t in threading.enumerate() if _is_new_of_ours(t, before)])


def none_is_to_be_had(_self: MaintenanceThread | Drainer, **_options: bool) -> None:
    raise RuntimeError("can't start new thread")


def test_a_span_that_ends_beside_a_shutdown_is_spooled_and_leaves_no_thread_behind(
    settings: Settings, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(threading.enumerate())
    exporter = SpoolSpanExporter(settings=settings)
    accept, has_begun, is_shut_down = Store.accept, threading.Event(), threading.Event()

    def accept_late(store: Store, target: Target, batch: Batch, now: float) -> None:
        has_begun.set()
        is_shut_down.wait(60)
        accept(store, target, batch, now)

    monkeypatch.setattr(Store, "accept", accept_late)
    ender = threading.Thread(target=exporter.export, args=([span("a")],))
    ender.start()
    has_begun.wait(60)
    exporter.shutdown()
    is_shut_down.set()
    ender.join()
    wait_until(lambda: not [t for t in threading.enumerate() if _is_new_of_ours(t, before)])
    store = Store(path)
    takeover.take_over_all(store, compress=False, sending=0)
    assert store.ledger().pending == 1
    store.close()


def _is_new_of_ours(thread: threading.Thread, before: set[threading.Thread]) -> bool:
    return thread not in before and thread.name.startswith("spool-")
