"""A disk that becomes full, or read-only, while a spool is in use."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from opentelemetry.sdk.trace.export import SpanExportResult

from disks import can_mount, fill_disk, make_read_only, small_disk
from refusal import Refusal
from spans import span
from spool import Settings, SpoolSpanExporter
from spool.store.store import Store
from standin import StandIn
from trials import Trial
from users import shut_down
from waits import wait_until

pytestmark = pytest.mark.once

needs_mounts = pytest.mark.skipif(not can_mount(), reason="only root mounts a small disk")

SUCCESS, FAILURE = SpanExportResult.SUCCESS, SpanExportResult.FAILURE


@needs_mounts
@pytest.mark.parametrize("is_there", [True, False], ids=["a spool", "no spool"])
def test_a_program_that_starts_on_a_full_disk_goes_on_and_its_spans_arrive(
    path: Path, settings: Settings, langfuse: StandIn, is_there: bool
) -> None:
    ballast = path.parent / "ballast"
    with small_disk(path.parent, 4 << 20):
        if is_there:
            store = Store(path)
            store.open()
            store.close()
        fill_disk(ballast)
        with shut_down(SpoolSpanExporter(settings=settings)) as exporter:
            assert exporter.export([span("held")]) is FAILURE
            langfuse.wait_for(lambda server: "held" in server.names())
            ballast.unlink()
            wait_until(lambda: exporter.export([span("later")]) is SUCCESS)
            langfuse.wait_for(lambda server: "later" in server.names())
            assert exporter.force_flush()
            ledger = exporter._pipeline.ledger()
            assert ledger.accepted == ledger.delivered + ledger.pending
    assert langfuse.names()["held"] == 1


@pytest.mark.trust
@pytest.mark.timeout(1200)
@needs_mounts
def test_a_full_disk_loses_nothing_and_nothing_is_sent_again_and_again(
    settings: Settings,
    path: Path,
    langfuse: StandIn,
    is_full: bool,
    report: Callable[[Trial], None],
) -> None:
    rounds = 30 if is_full else 1
    ballast = path.parent / "ballast"
    with small_disk(path.parent, 16 << 20):
        refusal = Refusal(settings, langfuse)
        for _ in range(rounds):
            langfuse.stop()
            fill_disk(ballast)
            refused = refusal.end_spans(300)
            assert FAILURE in refused
            assert refusal.exporter._pipeline.overflow
            langfuse.start()
            # What was spooled before, and what is in memory: sent, and not settled.
            wait_until(lambda: refusal.arrived() == len(refusal.results))
            requests = len(langfuse.requests)
            time.sleep(1)  # so long a drainer that sends again would send again
            assert len(langfuse.requests) == requests
            ballast.unlink()
            wait_until(lambda: not refusal.exporter._pipeline.overflow)
        refusal.recover()
        report(refusal.trial("a full disk", rounds))


@pytest.mark.trust
@needs_mounts
def test_a_disk_that_the_spool_itself_has_filled_is_drained_without_anybodys_help(
    settings: Settings, path: Path, langfuse: StandIn
) -> None:
    with small_disk(path.parent, 16 << 20):
        refusal = Refusal(settings, langfuse)
        langfuse.stop()
        while FAILURE not in refusal.results[-100:]:
            refusal.end_spans(100)
        langfuse.start()
        refusal.recover()
        store = Store(path)
        assert store.ledger().delivered == len(refusal.results)
        store.close()


@pytest.mark.trust
@pytest.mark.timeout(1200)
@needs_mounts
def test_a_disk_that_becomes_read_only_loses_nothing(
    settings: Settings,
    path: Path,
    langfuse: StandIn,
    is_full: bool,
    report: Callable[[Trial], None],
) -> None:
    rounds = 30 if is_full else 1
    with small_disk(path.parent, 8 << 20):
        refusal = Refusal(settings, langfuse)
        refusal.end_spans(20)
        for _ in range(rounds):
            wait_until(lambda: refusal.arrived() == len(refusal.results))
            make_read_only(path.parent, is_read_only=True)
            # What was open stays writable; a device that fails closes it, too.
            refusal.exporter._pipeline.store.close()
            assert refusal.end_spans(50) == [FAILURE] * 50
            wait_until(lambda: refusal.arrived() == len(refusal.results))
            make_read_only(path.parent, is_read_only=False)
            wait_until(lambda: not refusal.exporter._pipeline.overflow)
        refusal.recover()
        report(refusal.trial("a disk that becomes read-only", rounds))
