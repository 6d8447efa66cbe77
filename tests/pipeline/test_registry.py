from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from opentelemetry.sdk.trace.export import SpanExportResult

from spans import span
from spool import Settings, SpoolFileError, SpoolSpanExporter
from spool.pipeline import registry
from spool.settings.target import Target
from spool.store.store import Store
from standin import StandIn

OTHER = Target.langfuse("pk-lf-other", "sk-lf-other", "http://127.0.0.1:9")


def test_exporters_of_one_file_share_one_store_and_one_drainer(
    settings: Settings, langfuse: StandIn
) -> None:
    exporters = [SpoolSpanExporter(settings=settings) for _ in range(20)]
    for number, exporter in enumerate(exporters):
        exporter.export([span(str(number))])
    names = [thread.name for thread in threading.enumerate() if thread.name.startswith("spool-")]
    assert sorted(names) == ["spool-drainer", "spool-maintenance"]
    for exporter in exporters[1:]:
        exporter.shutdown()
    assert exporters[0].force_flush(10_000)
    exporters[0].shutdown()
    assert len(langfuse.names()) == 20


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


def test_a_further_exporters_endpoint_is_the_one_that_is_remembered(
    settings: Settings, store: Store, langfuse: StandIn
) -> None:
    for host in ("http://127.0.0.1:9", langfuse.url):
        second = replace(settings, target=Target.langfuse("pk-lf-2", "sk-lf-2", host))
        for exporter in [SpoolSpanExporter(settings=one) for one in (settings, second)]:
            exporter.shutdown()
    (remembered,) = [route for route in store.routes() if route.name == "pk-lf-2"]
    assert remembered.endpoint == second.require_target().endpoint
