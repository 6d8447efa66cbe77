"""Only the disk may refuse an append: real processes, with much going on, on a healthy disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from spool.store import takeover
from spool.store.store import Store
from trials import Trial

OFTEN: Final = 20

# An endpoint where nobody listens; the program says what came of its exports.
PROGRAM = """
import collections, json, os, signal, sys, threading, time
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from spool import SpoolSpanExporter

class Counting(SpoolSpanExporter):
    results = collections.Counter(SUCCESS=0)  # else its first use is a call in between
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


def on_disk(name: str, path: Path, results: dict[str, int]) -> Trial:
    """Say what of the spans that were exported with these results is in the spool."""
    assert list(results) == ["SUCCESS"]
    ended = results["SUCCESS"]
    store = Store(path)
    takeover.take_over_all(store, compress=False, sending=0)
    ledger = store.ledger()
    store.close()
    assert ledger.damaged == 0
    lost = ended - ledger.pending
    return Trial(name, 1, ended, ledger.accepted, ledger.refused, ledger.in_memory, lost, 0)


@pytest.mark.parametrize(("threads", "each", "burning"), [(8, 20, 1), (20, 20, 2)])
def test_threads_beside_busy_ones_are_never_refused_and_a_kill_loses_nothing(
    tmp_path: Path,
    threads: int,
    each: int,
    burning: int,
    report: Callable[[Trial], None],
    *,
    is_full: bool,
) -> None:
    code = f"run({threads}, {each}, burning={burning}); said(); os.kill(os.getpid(), 9)"
    for number in range(OFTEN if is_full else 1):
        path = tmp_path / str(number) / "spool.db"
        results = results_of(code, path)
        assert results == {"SUCCESS": threads * each}
        report(on_disk("kill -9 of threads beside CPU-bound ones", path, results))


def test_64_threads_that_wait_for_their_fsyncs_are_never_refused(
    tmp_path: Path, report: Callable[[Trial], None], *, is_full: bool
) -> None:
    code = "run(64, 10); said(); os.kill(os.getpid(), 9)"
    for number in range(OFTEN if is_full else 1):
        path = tmp_path / str(number) / "spool.db"
        results = results_of(code, path, SPOOL_SYNC_SECONDS="0")
        assert results == {"SUCCESS": 640}
        report(on_disk("kill -9 of 64 threads with SPOOL_SYNC_SECONDS=0", path, results))


@pytest.mark.parametrize(("a_second", "sync_seconds"), [(1000, "1"), (20, "1"), (50, "0")])
def test_a_signal_handler_that_ends_spans_deadlocks_with_nothing_and_loses_nothing(
    path: Path, a_second: int, sync_seconds: str, report: Callable[[Trial], None]
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
    report(on_disk("signal handlers that end spans", path, results))
