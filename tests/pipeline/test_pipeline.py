from __future__ import annotations

import logging
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from opentelemetry.sdk.trace.export import SpanExportResult

from disks import no_room
from ledgers import ledger_of
from spans import span
from spool import Settings, SpoolFileError, SpoolSpanExporter
from spool.journal.overflow import Overflow
from spool.otlp.batch import Codec
from spool.pipeline import registry
from spool.store.store import Store
from standin import StandIn
from waits import wait_until


def test_several_spans_become_one_compressed_row_and_single_ones_stay_raw(
    settings: Settings, path: Path
) -> None:
    exporter = SpoolSpanExporter(settings=replace(settings, drain=False))
    exporter.export([span("a")])
    exporter.export([span("b")])
    exporter.shutdown()
    exporter = SpoolSpanExporter(settings=replace(settings, drain=False))
    exporter.export([span("c")])
    exporter.shutdown()
    exporter = SpoolSpanExporter(settings=replace(settings, drain=False, compression="none"))
    exporter.export([span("d"), span("e")])  # as a BatchSpanProcessor does
    exporter.shutdown()
    store = Store(path)
    codecs = [row.batch.codec for row in store.pending()]
    store.close()
    assert codecs == [Codec.DEFLATE, Codec.RAW, Codec.RAW]


def test_what_the_disk_refuses_is_held_in_memory_and_written_when_it_works_again(
    settings: Settings, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exporter = SpoolSpanExporter(settings=replace(settings, drain=False, sync_seconds=0.1))
    other = Store(path)
    with no_room():
        assert exporter.export([span("a"), span("b")]) is SpanExportResult.FAILURE
        assert exporter.export([span("c")]) is SpanExportResult.FAILURE
        assert exporter._pipeline.overflow.spans == 3
    assert "held in memory" in caplog.text
    wait_until(lambda: not exporter._pipeline.overflow)
    assert exporter._pipeline.ledger() == replace(other.ledger(), in_memory=0)
    assert (other.ledger().accepted, other.ledger().refused) == (3, 0)
    assert exporter.export([span("d")]) is SpanExportResult.SUCCESS
    exporter.shutdown()
    other.close()


def test_after_a_refusal_the_file_is_tried_again_at_once(
    writer: SpoolSpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Overflow, "oldest", lambda *_: [])  # nobody moves what is held
    with no_room():
        assert writer.export([span("a")]) is SpanExportResult.FAILURE
    assert writer.export([span("b")]) is SpanExportResult.SUCCESS
    assert writer._pipeline.overflow.spans == 1
    monkeypatch.undo()


def test_what_is_held_in_memory_is_sent_from_there_while_the_disk_does_not_work(
    exporter: SpoolSpanExporter, path: Path, langfuse: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = exporter._pipeline.store

    def broken(*_: object, **__: object) -> None:
        raise SpoolFileError("the disk does not answer")

    for name in ("accept", "routes", "record"):
        monkeypatch.setattr(store, name, broken)
    for number in range(5):
        assert exporter.export([span(str(number))]) is SpanExportResult.FAILURE
    langfuse.wait_for(lambda server: server.accepted == 5)
    assert exporter._pipeline.overflow.spans == 5
    monkeypatch.undo()
    exporter.shutdown()
    other = Store(path)
    ledger = other.ledger()
    assert (ledger.accepted, ledger.delivered, ledger.pending) == (5, 5, 0)
    assert langfuse.accepted == 5
    other.close()


def test_what_neither_disk_nor_memory_takes_is_a_failure_counted_and_said_and_never_raised(
    writer: SpoolSpanExporter, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer._pipeline.overflow = Overflow(max_bytes=0)
    other = Store(path)
    with no_room():
        assert writer.export([span("a"), span("b")]) is SpanExportResult.FAILURE
    assert "spans were refused" in caplog.text
    writer.shutdown()
    assert other.ledger().refused == 2
    other.close()


def test_a_log_handler_that_ends_spans_does_not_recur_without_end(
    writer: SpoolSpanExporter, path: Path
) -> None:
    calls: list[logging.LogRecord] = []

    class Spanning(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            calls.append(record)
            writer.export([span("from the log")])

    handler = Spanning()
    logging.getLogger("spool").addHandler(handler)
    other = Store(path)
    try:
        with no_room():
            writer.export([span("a")])
    finally:
        logging.getLogger("spool").removeHandler(handler)
    assert len(calls) == 1
    writer.shutdown()
    other.close()


def test_an_exception_out_of_a_signal_handler_does_not_spoil_the_locks(
    writer: SpoolSpanExporter,
) -> None:
    one = span("a")

    class Interruption(BaseException):
        """As Celery's time limit, or Ctrl-C."""

    is_armed = False

    def interrupt(*_: object) -> None:
        if is_armed:
            raise Interruption

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for number in range(300):
            try:
                is_armed = True
                signal.setitimer(signal.ITIMER_REAL, 0.0001 + number * 0.000005)
                for _ in range(20):
                    writer.export([one])
                is_armed = False
            except Interruption:
                is_armed = False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    wait_until(lambda: not writer._pipeline.overflow)
    assert writer.export([one]) is SpanExportResult.SUCCESS


def test_spans_that_end_after_shutdown_are_counted_as_refused(
    exporter: SpoolSpanExporter,
    path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("spool.pipeline.pipeline._COUNT_SECONDS", 3600)  # longer than the test
    exporter.export([span("a")])
    exporter.shutdown()
    for _ in range(3):
        assert exporter.export([span("late")]) is SpanExportResult.FAILURE
    assert ledger_of(path).refused == 1  # at once, and then once an interval
    registry._end_all()  # at exit at the latest
    assert ledger_of(path).refused == 3
    assert "shut down" in caplog.text
    assert exporter._pipeline not in registry._open_pipelines.values()


def test_late_spans_wait_for_nobody_and_raise_nothing(
    exporter: SpoolSpanExporter, path: Path
) -> None:
    exporter.export([span("a")])
    exporter.shutdown()
    other = Store(path)
    with other.database.writing():
        started = time.monotonic()
        assert exporter.export([span("late")]) is SpanExportResult.FAILURE
        assert time.monotonic() - started < 5
    registry._end_all()
    assert other.ledger().refused == 1
    other.close()


def test_spans_after_the_shutdown_of_one_of_two_exporters_are_counted_by_the_other(
    settings: Settings, path: Path
) -> None:
    exporters = [SpoolSpanExporter(settings=settings) for _ in range(2)]
    exporters[0].shutdown()
    exporters[0].export([span("late"), span("later")])
    exporters[1].export([span("a")])
    exporters[1].shutdown()
    assert ledger_of(path).refused == 2


def test_a_forked_child_does_not_count_what_its_parent_has_refused(
    writer: SpoolSpanExporter, path: Path
) -> None:
    writer.export([span("a")])
    writer._pipeline.store.refuse(5)
    pid = os.fork()
    if pid == 0:
        writer.export([span("b")])
        writer.shutdown()
        os._exit(0)
    os.waitpid(pid, 0)
    writer.shutdown()
    assert ledger_of(path).refused == 5
