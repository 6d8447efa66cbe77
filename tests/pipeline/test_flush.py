"""`Pipeline.flush`, as `force_flush` calls it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

import standin
from journal_sending import send_from_journal
from manners import each_manner
from spans import span
from spool import Settings, SpoolSpanExporter
from spool.store import drainers
from standin import StandIn

pytestmark = pytest.mark.once


@each_manner
def test_force_flush_waits_for_what_was_accepted_before(
    exporter: SpoolSpanExporter, langfuse: StandIn
) -> None:
    for number in range(50):
        exporter.export([span(str(number))])
    assert exporter.force_flush(10_000)
    assert langfuse.accepted == 50


def test_force_flush_waits_for_what_is_being_sent_from_the_journal(
    exporter: SpoolSpanExporter, langfuse: StandIn
) -> None:
    send_from_journal(exporter, langfuse, standin.delay(0.3))
    assert exporter._pipeline.store.journal.is_claimed()
    assert exporter.force_flush(10_000)
    assert langfuse.names() == {"first": 1, "a": 1}


def test_force_flush_is_not_held_up_by_spans_that_end_meanwhile(
    settings: Settings, langfuse: StandIn
) -> None:
    exporter, is_over = SpoolSpanExporter(settings=settings), threading.Event()
    send_from_journal(exporter, langfuse, standin.delay(0.1))

    def go_on() -> None:
        while not is_over.wait(0.002):
            exporter.export([span("later")])

    other = threading.Thread(target=go_on)
    other.start()
    started = len(langfuse.requests)
    try:
        for _ in range(3):
            assert exporter.force_flush(10_000)
    finally:
        is_over.set()
        other.join()
    assert len(langfuse.requests) - started < 30
    exporter.shutdown()


def test_force_flush_gives_up_at_once_on_a_route_in_trouble(
    exporter: SpoolSpanExporter, langfuse: StandIn
) -> None:
    langfuse.behave(standin.too_many(60))
    exporter.export([span("a")])
    assert not exporter.force_flush(600_000)
    assert not exporter.force_flush(600_000)
    assert len(langfuse.requests) == 1


def test_force_flush_gives_up_at_once_where_nobody_drains(writer: SpoolSpanExporter) -> None:
    writer.export([span("a")])
    assert not writer.force_flush(600_000)


def test_force_flush_waits_for_another_process_that_drains(
    writer: SpoolSpanExporter, environment: None, langfuse: StandIn
) -> None:
    command = [sys.executable, "-m", "spool", "run"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as sidecar:
        assert sidecar.stderr is not None
        sidecar.stderr.readline()
        writer.export([span("a")])
        while not drainers.is_any(writer._pipeline.store):
            pass
        assert writer.force_flush(60_000)
        sidecar.send_signal(signal.SIGTERM)
    assert sidecar.returncode == 0
    assert langfuse.names()["a"] == 1
