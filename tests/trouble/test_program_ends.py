"""Programs that end in every way: what they ended is delivered before, or kept.

Each is a real process, and the receiver a real one on loopback.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import spool
import standin
from langfuse_scenarios import needs_langfuse
from ledgers import ledger_of
from programs import BATCH, SIMPLE, run
from spans import span
from spool import SpoolSpanExporter
from spool.store.records import Ledger
from spool.store.store import Store
from standin import StandIn


@pytest.fixture
def zipped(tmp_path: Path) -> str:
    """Give a beginning that imports the package out of a zip, without any metadata of it."""
    archive, site = tmp_path / "app.zip", tmp_path / "site"
    source = Path(spool.__file__).parent
    with zipfile.ZipFile(archive, "w") as written:
        for module in source.rglob("*.py"):
            written.write(module, module.relative_to(source.parent))
    site.mkdir()
    for installed in Path(sysconfig.get_path("purelib")).iterdir():
        if not installed.name.startswith(("langfuse_spool", "__editable__")):
            (site / installed.name).symlink_to(installed)
    return f"import sys; sys.path[:0] = [{str(archive)!r}, {str(site)!r}]\n"


def test_a_program_in_a_zip_without_metadata_delivers(
    environment: None, langfuse: StandIn, zipped: str
) -> None:
    code = """
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
import spool
assert ".zip" in spool.__file__
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spool.SpoolSpanExporter()))
provider.get_tracer("x").start_span("zipped").end()
"""
    run(zipped + code, "-I", "-S")
    assert langfuse.names() == {"zipped": 1}


@pytest.mark.parametrize("program", [BATCH, SIMPLE], ids=["batch", "simple"])
def test_a_short_program_delivers_before_it_ends(
    environment: None, path: Path, langfuse: StandIn, program: str
) -> None:
    run(program + "[tracer.start_span(f's{number}').end() for number in range(5)]")
    assert langfuse.names() == {f"s{number}": 1 for number in range(5)}
    assert ledger_of(path) == Ledger(accepted=5, delivered=5)


@pytest.mark.parametrize("program", [BATCH, SIMPLE], ids=["batch", "simple"])
def test_a_short_program_delivers_what_an_earlier_outage_has_left(
    environment: None, path: Path, langfuse: StandIn, program: str
) -> None:
    once = program + "tracer.start_span('a').end()"
    langfuse.stop()
    run(once, SPOOL_BACKOFF_SECONDS="0.001..0.001")
    assert ledger_of(path) == Ledger(accepted=1, pending=1)
    langfuse.start()
    run(once)
    assert langfuse.names() == {"a": 2}
    assert ledger_of(path) == Ledger(accepted=2, delivered=2)


def test_a_short_program_asks_an_endpoint_that_is_known_to_be_down_only_when_it_is_due(
    environment: None, path: Path, langfuse: StandIn
) -> None:
    langfuse.behave(standin.too_many(600))
    for _ in range(3):
        run(BATCH + "tracer.start_span('a').end()")
    assert len(langfuse.requests) == 1
    assert ledger_of(path) == Ledger(accepted=3, pending=3)


def test_where_no_thread_can_be_started_the_exit_delivers(
    environment: None, langfuse: StandIn
) -> None:
    code = """
import threading
start = threading.Thread.start
def exhausted(thread):
    if thread.name.startswith("spool"):
        raise RuntimeError("can't start new thread")
    start(thread)
threading.Thread.start = exhausted
"""
    said = run(code + SIMPLE + "tracer.start_span('a').end()").stderr
    assert "cannot be started" in said
    assert langfuse.names() == {"a": 1}


def test_a_provider_that_nobody_shuts_down_delivers_too(
    environment: None, langfuse: StandIn
) -> None:
    program = SIMPLE.replace("TracerProvider()", "TracerProvider(shutdown_on_exit=False)")
    run(program + "tracer.start_span('a').end()")
    assert langfuse.names() == {"a": 1}


@needs_langfuse
def test_the_langfuse_sdk_without_flush_delivers(environment: None, langfuse: StandIn) -> None:
    run("""
from langfuse import Langfuse
from spool import SpoolSpanExporter
Langfuse(span_exporter=SpoolSpanExporter()).start_observation(name="a").end()
""")
    assert langfuse.names() == {"a": 1}


def test_threads_that_work_on_when_the_main_thread_has_returned_are_drained_synced_and_limited(
    environment: None, path: Path, langfuse: StandIn
) -> None:
    code = """
import os, threading, time
from spool.store import ingest
from spool.store.limits import Limits
done = set()
def noting(name, work):
    def noted(*args):
        result = work(*args)
        done.add(name)
        return result
    return noted
ingest.sync = noting("synced", ingest.sync)
Limits.limit_size = noting("limited", Limits.limit_size)
exporter = provider._active_span_processor._span_processors[0].span_exporter
def work():
    threading.main_thread().join()
    tracer.start_span("a").end()
    store, end = exporter._pipeline.store, time.monotonic() + 60
    while time.monotonic() < end and not (len(done) == 2 and store.ledger().delivered):
        time.sleep(0.01)
    os.write(1, f"{store.ledger().delivered} {sorted(done)}".encode())
threading.Thread(target=work).start()
"""
    assert run(SIMPLE + code).stdout == "1 ['limited', 'synced']"


def test_a_span_that_ends_in_atexit_is_still_spooled(environment: None, path: Path) -> None:
    run("""
import atexit
from spool import SpoolSpanExporter
from spans import provider_of
provider = provider_of(SpoolSpanExporter())
atexit.register(lambda: provider.get_tracer("x").start_span("last words").end())
""")
    store = Store(path)
    assert store.ledger().accepted == 1
    store.close()


def test_spans_of_a_process_that_was_killed_are_sent_by_the_next(
    environment: None, langfuse: StandIn
) -> None:
    code = """
import os, signal
from spool import SpoolSpanExporter
from spans import provider_of
tracer = provider_of(SpoolSpanExporter(drain=False)).get_tracer("x")
for number in range(100):
    tracer.start_span(str(number)).end()
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    assert killed.returncode == -signal.SIGKILL
    exporter = SpoolSpanExporter()
    exporter.export([span("next")])
    assert exporter.force_flush(10_000)
    assert langfuse.accepted == 101
    exporter.shutdown()
