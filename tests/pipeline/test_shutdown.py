from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from opentelemetry.sdk.trace.export import SpanExportResult

import standin
from disks import no_room
from journal_sending import send_from_journal
from ledgers import ledger_of
from manners import each_manner
from spans import span
from spool import Settings, SpoolSpanExporter
from spool.store.records import Ledger
from spool.store.store import Store
from standin import StandIn
from waits import wait_until


@each_manner
def test_shutdown_delivers_what_a_healthy_endpoint_takes(
    exporter: SpoolSpanExporter, langfuse: StandIn
) -> None:
    exporter.export([span("a")])
    exporter.shutdown()
    assert langfuse.names()["a"] == 1


def test_shutdown_waits_for_what_is_being_sent_from_the_journal(
    exporter: SpoolSpanExporter, path: Path, langfuse: StandIn
) -> None:
    send_from_journal(exporter, langfuse, standin.delay(0.3))
    exporter.export([span("b")])
    exporter.shutdown()
    assert langfuse.names() == {"first": 1, "a": 1, "b": 1}
    assert ledger_of(path) == Ledger(accepted=3, delivered=3)


def test_what_is_being_sent_when_the_process_ends_stays_in_its_journal(
    settings: Settings, path: Path, langfuse: StandIn
) -> None:
    exporter = SpoolSpanExporter(settings=replace(settings, shutdown_seconds=0.1))
    send_from_journal(exporter, langfuse, standin.mute())
    exporter.shutdown()
    assert ledger_of(path) == Ledger(accepted=2, delivered=1, pending=1)


def test_shutdown_does_not_wait_for_the_request_in_flight(
    settings: Settings, langfuse: StandIn
) -> None:
    langfuse.behave(standin.mute())
    patient = replace(settings, timeout_seconds=100, shutdown_seconds=0.1)
    exporter = SpoolSpanExporter(settings=patient)
    exporter.export([span("a")])
    langfuse.wait_for(lambda server: len(server.requests) == 1)
    started = time.monotonic()
    exporter.shutdown()
    assert time.monotonic() - started < 50


def exchange(one: Path, other: Path) -> None:
    """Let two names change places (renameat2(2), RENAME_EXCHANGE)."""
    here, flags = -100, 2
    assert ctypes.CDLL(None).renameat2(here, bytes(one), here, bytes(other), flags) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux's")
def test_a_process_forks_and_shuts_down_after_its_directory_is_gone(
    exporter: SpoolSpanExporter, path: Path
) -> None:
    exporter.export([span("a")])
    gone = path.parent.with_name("gone")
    gone.touch()
    exchange(path.parent, gone)  # at once: nothing can be made there at any time
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    # It is appended to the file that is open, unless maintenance has noticed and left that.
    is_spooled = exporter.export([span("b")]) is SpanExportResult.SUCCESS
    exporter.shutdown()
    moved = Store(gone / path.name)
    assert moved.ledger().accepted == 1 + is_spooled
    moved.close()
    wait_until(lambda: "spool-maintenance" not in {one.name for one in threading.enumerate()})


def test_what_only_memory_holds_gets_a_last_request_though_its_route_is_in_trouble(
    exporter: SpoolSpanExporter, path: Path, langfuse: StandIn
) -> None:
    langfuse.behave(standin.too_many(600))
    exporter.export([span("on disk")])
    langfuse.wait_for(lambda server: len(server.requests) == 1)
    wait_until(lambda: bool(exporter._pipeline.store.routes()[0].attempts))
    exporter._pipeline.store.is_cramped = True
    with no_room():
        assert exporter.export([span("held")]) is SpanExportResult.FAILURE
        langfuse.wait_for(lambda server: len(server.requests) == 2)  # from memory
        drainer = exporter._pipeline._threads.drainer
        assert drainer is not None
        wait_until(lambda: drainer.routes.has_unwritten_wait(exporter._target.route))
        langfuse.behave(standin.healthy)
        exporter.shutdown()
    assert langfuse.names() == {"held": 1}
    ledger = ledger_of(path)
    assert (ledger.pending, ledger.refused) == (1, 0)
