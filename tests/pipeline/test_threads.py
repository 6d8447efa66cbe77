from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from opentelemetry.sdk.trace.export import SpanExportResult

from programs import SIMPLE
from spans import span
from spool import Settings, SpoolSpanExporter
from spool.delivery.drainer import Drainer
from spool.otlp.batch import Batch
from spool.settings.target import Target
from spool.store import takeover
from spool.store.maintenance_thread import MaintenanceThread
from spool.store.store import Store
from standin import StandIn
from waits import wait_until


def test_where_no_thread_can_be_started_a_span_is_spooled_once_and_sent_later(
    exporter: SpoolSpanExporter, langfuse: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:

    def exhausted(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", exhausted)
        assert exporter.export([span("a"), span("b")]) is SpanExportResult.SUCCESS
    assert exporter.export([span("c")]) is SpanExportResult.SUCCESS
    assert exporter.force_flush(10_000)
    assert exporter._pipeline.ledger().accepted == 3
    assert set(langfuse.span_ids().values()) == {1}


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


def test_a_forked_child_spools_and_drains_by_itself(
    exporter: SpoolSpanExporter, langfuse: StandIn
) -> None:
    exporter.export([span("parent")])
    assert exporter.force_flush(10_000)
    pid = os.fork()
    if pid == 0:
        is_fine = exporter.export([span("child")]) is SpanExportResult.SUCCESS
        os._exit(0 if is_fine and exporter.force_flush(10_000) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    exporter.export([span("parent again")])
    assert exporter.force_flush(10_000)
    assert langfuse.names() == {"parent": 1, "child": 1, "parent again": 1}


def test_a_child_in_a_new_namespace_of_processes_spools_and_drains_though_its_number_is_its_parents(
    exporter: SpoolSpanExporter, langfuse: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)
    exporter.export([span("parent")])
    assert exporter.force_flush(10_000)
    if (pid := os.fork()) == 0:
        is_fine = exporter.export([span("child")]) is SpanExportResult.SUCCESS
        os._exit(0 if is_fine and exporter.force_flush(10_000) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert langfuse.names() == {"parent": 1, "child": 1}


@pytest.mark.parametrize("moment", ["at rest", "while a lock is held"])
def test_a_child_of_a_fork_that_runs_no_handlers_has_threads_of_its_own_and_never_hangs(
    environment: None, langfuse: StandIn, moment: str
) -> None:
    code = """
import ctypes, os, signal, sys, threading, time
from spool.system import forks
from spool.system.event import SignalSafeEvent as Event
exporter = provider._active_span_processor._span_processors[0].span_exporter
tracer.start_span("parent").end()
assert exporter.force_flush()
# A thread that waits for Python's own lock just then makes Python itself hang in the child.
parent, wait, parked = os.getpid(), Event.wait, set()
def park(event, timeout=None):
    if os.getpid() != parent:
        return wait(event, timeout)
    parked.add(threading.get_ident())
    time.sleep(1000)
Event.wait = park
ours = exporter._pipeline._threads._running
while len(parked) < len(ours):
    for one in ours:
        one.wake()
    time.sleep(0.01)
if sys.argv[1] == "while a lock is held":
    from spool.pipeline import registry
    is_held = threading.Event()
    def hold():
        used = exporter._pipeline
        with registry._lock.get(), used._threads._lock, used.overflow._lock:
            is_held.set()
            time.sleep(1000)
    threading.Thread(target=hold, daemon=True).start()
    is_held.wait()
time.sleep(0.1)
pid = ctypes.PyDLL(None).fork()  # as uWSGI does: no handler of Python runs
if pid == 0:
    tracer.start_span("child").end()
    is_sent = exporter._pipeline._process == forks.own_id() and exporter.force_flush(60_000)
    exporter.shutdown()
    os._exit(0 if is_sent else 1)
for _ in range(6000):
    ended, status = os.waitpid(pid, os.WNOHANG)
    if ended:
        os._exit(os.waitstatus_to_exitcode(status))
    time.sleep(0.01)
os.kill(pid, signal.SIGKILL)
os._exit(9)
"""
    done = subprocess.run(
        [sys.executable, "-c", SIMPLE + code, moment],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert langfuse.names() == {"parent": 1, "child": 1}
