"""Only the disk may refuse an append: real processes, with much going on, on a healthy disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spool import intake
from spool.store import Store

# An endpoint where nobody listens; the program says what came of its exports.
PROGRAM = """
import collections, json, os, signal, sys, threading, time
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from spool import SpoolSpanExporter

class Counting(SpoolSpanExporter):
    results = collections.Counter()
    def export(self, spans):
        result = super().export(spans)
        self.results[result.name] += 1  # no call in between: as good as atomic
        return result

os.environ["LANGFUSE_PUBLIC_KEY"], os.environ["LANGFUSE_SECRET_KEY"] = "pk-lf-a", "sk-lf-a"
os.environ["LANGFUSE_HOST"] = "http://127.0.0.1:9"
exporter = Counting(path=sys.argv[1])
provider = TracerProvider(shutdown_on_exit=False)
provider.add_span_processor(SimpleSpanProcessor(exporter))
tracer = provider.get_tracer("a")

def end(count, name="of a thread"):
    for _ in range(count):
        tracer.start_span(name, attributes={"text": "x" * 2000}).end()

def burn():
    while True:
        sum(range(1000))

def run(threads, each, burning=0):
    for _ in range(burning):
        threading.Thread(target=burn, daemon=True).start()
    started = [threading.Thread(target=end, args=(each,)) for _ in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()

def said():
    print(json.dumps(exporter.results), flush=True)
"""


def results_of(code: str, path: Path, **environment: str) -> Any:
    """Run a program to its end, or until it kills itself; give the results of its exports."""
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM + code, str(path)],
        env={**os.environ, **environment}, stdout=subprocess.PIPE, timeout=150, check=False,
    )  # fmt: skip
    assert ran.returncode in (0, -signal.SIGKILL)
    return json.loads(ran.stdout)


def spans_on_disk(path: Path) -> int:
    store = Store(path)
    intake.take_in_all(store, compress=False, sending=0)
    ledger = store.ledger()
    assert ledger.damaged == ledger.refused == 0
    store.close()
    return ledger.pending


@pytest.mark.parametrize(("threads", "each", "burning"), [(8, 20, 1), (20, 20, 2)])
def test_threads_beside_busy_ones_are_never_refused_and_a_kill_loses_nothing(
    path: Path, threads: int, each: int, burning: int
) -> None:
    code = f"run({threads}, {each}, burning={burning}); said(); os.kill(os.getpid(), 9)"
    assert results_of(code, path) == {"SUCCESS": threads * each}
    assert spans_on_disk(path) == threads * each


def test_64_threads_that_wait_for_their_fsyncs_are_never_refused(path: Path) -> None:
    code = "run(64, 10); said(); os.kill(os.getpid(), 9)"
    assert results_of(code, path, SPOOL_SYNC_SECONDS="0") == {"SUCCESS": 640}
    assert spans_on_disk(path) == 640


@pytest.mark.parametrize(("a_second", "sync_seconds"), [(1000, "1"), (20, "1"), (50, "0")])
def test_a_signal_handler_that_ends_spans_deadlocks_with_nothing_and_loses_nothing(
    path: Path, a_second: int, sync_seconds: str
) -> None:
    code = """
every = 1 / float(os.environ["SIGNALS_A_SECOND"])
rung = 0
def ring(*_):
    global rung
    rung += 1
    end(1, "of the handler")

signal.signal(signal.SIGALRM, ring)
signal.setitimer(signal.ITIMER_REAL, every, every)
ended, until = 0, time.monotonic() + 5
while rung < 100 or time.monotonic() < until:
    end(1, "of the program")
    ended += 1
    if ended % 100 == 0:
        exporter.force_flush(10)
signal.setitimer(signal.ITIMER_REAL, 0)
assert sum(exporter.results.values()) == ended + rung
exporter.shutdown()
said()
"""
    environment = {"SPOOL_SYNC_SECONDS": sync_seconds, "SIGNALS_A_SECOND": str(a_second)}
    results = results_of(code, path, **environment)
    assert list(results) == ["SUCCESS"]
    assert spans_on_disk(path) == results["SUCCESS"]
