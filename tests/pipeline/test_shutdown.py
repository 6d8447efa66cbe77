"""Programs of every length: what they ended is delivered before they end, or said to be kept.

Each is a real process, and the receiver a real one on loopback.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from opentelemetry.sdk.trace.export import SpanExportResult

import spool
import standin
from disks import no_room
from spans import span
from spool import Settings, SpoolSpanExporter
from spool.pipeline import registry
from spool.store.records import Ledger
from spool.store.store import Store
from standin import StandIn
from waits import wait_until


@pytest.fixture
def environment(path: Path, langfuse: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name spool and stand-in as a user would."""
    monkeypatch.setenv("SPOOL_PATH", str(path))
    monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", "pk-lf-test")
    monkeypatch.setenv("LANGFUSE_SECRET_KEY", "sk-lf-test")
    monkeypatch.setenv("LANGFUSE_HOST", langfuse.url)


def run(code: str, *options: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, and give what it said."""
    done = subprocess.run(
        [sys.executable, *options, "-c", code],
        env={**os.environ, **more},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


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


# Programs

BATCH = """
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from spool import SpoolSpanExporter
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(SpoolSpanExporter()))
tracer = provider.get_tracer("x")
"""
SIMPLE = BATCH.replace("(BatchSpanProcessor(", "(SimpleSpanProcessor(")


def ledger_of(path: Path) -> Ledger:
    store = Store(path)
    ledger = store.ledger()
    store.close()
    return ledger


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


def test_zero_code_instrumentation_of_a_short_program_delivers(
    environment: None, langfuse: StandIn
) -> None:
    instrument = Path(sys.executable).with_name("opentelemetry-instrument")
    if not instrument.exists():
        pytest.skip("opentelemetry-distro is not installed")
    code = "from opentelemetry import trace\ntrace.get_tracer('x').start_span('a').end()"
    subprocess.run(
        [instrument, sys.executable, "-c", code],
        env={
            **os.environ,
            "OTEL_TRACES_EXPORTER": "spool",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
        },
        check=True,
        timeout=120,
    )
    assert langfuse.names() == {"a": 1}


def test_the_langfuse_sdk_without_flush_delivers(environment: None, langfuse: StandIn) -> None:
    pytest.importorskip("langfuse", reason="langfuse is not installed")
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


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_of_multiprocessing_delivers_before_it_ends(
    environment: None, path: Path, langfuse: StandIn, tmp_path: Path, method: str
) -> None:
    program = tmp_path / "program.py"
    program.write_text(f"""
import multiprocessing
def work():
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from spool import SpoolSpanExporter
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(SpoolSpanExporter()))
    provider.get_tracer("x").start_span("a").end()
if __name__ == "__main__":
    child = multiprocessing.get_context({method!r}).Process(target=work)
    child.start()
    child.join()
    assert child.exitcode == 0
""")
    subprocess.run([sys.executable, program], check=True, timeout=120)
    assert langfuse.names() == {"a": 1}


@pytest.mark.parametrize("moment", ["at rest", "while a lock is held"])
def test_a_child_of_a_fork_that_runs_no_handlers_has_threads_of_its_own_and_never_hangs(
    environment: None, langfuse: StandIn, moment: str
) -> None:
    code = """
import ctypes, os, signal, sys, threading, time
exporter = provider._active_span_processor._span_processors[0].span_exporter
tracer.start_span("parent").end()
assert exporter.force_flush()
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
pid = ctypes.PyDLL(None).fork()  # as uWSGI does: no handler of Python runs
if pid == 0:
    tracer.start_span("child").end()
    is_sent = exporter._pipeline._pid == os.getpid() and exporter.force_flush(60_000)
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


# What only memory holds


def test_what_only_memory_holds_gets_a_last_request_though_its_route_is_in_trouble(
    settings: Settings, path: Path, langfuse: StandIn
) -> None:
    langfuse.behave(standin.too_many(600))
    exporter = SpoolSpanExporter(settings=settings)
    exporter.export([span("on disk")])
    langfuse.wait_for(lambda server: len(server.requests) == 1)
    wait_until(lambda: bool(exporter._pipeline.store.routes()[0].attempts))
    exporter._pipeline.store.is_cramped = True
    with no_room():
        assert exporter.export([span("held")]) is SpanExportResult.FAILURE
        langfuse.wait_for(lambda server: len(server.requests) == 2)  # from memory
        drainer = exporter._pipeline._threads.drainer
        assert drainer is not None
        wait_until(lambda: drainer.routes.is_in_trouble(exporter._target.route))
        langfuse.behave(standin.healthy)
        exporter.shutdown()
    assert langfuse.names() == {"held": 1}
    ledger = ledger_of(path)
    assert (ledger.pending, ledger.refused) == (1, 0)


# After the end


def test_spans_that_end_after_shutdown_are_counted_as_refused(
    settings: Settings, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exporter = SpoolSpanExporter(settings=settings)
    exporter.export([span("a")])
    exporter.shutdown()
    for _ in range(3):
        assert exporter.export([span("late")]) is SpanExportResult.FAILURE
    assert ledger_of(path).refused == 1  # at once, and then once a second
    registry._end_all()  # at exit at the latest
    assert ledger_of(path).refused == 3
    assert "shut down" in caplog.text
    assert exporter._pipeline not in registry._open_pipelines.values()


def test_late_spans_wait_for_nobody_and_raise_nothing(settings: Settings, path: Path) -> None:
    exporter = SpoolSpanExporter(settings=settings)
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
    settings: Settings, path: Path
) -> None:
    exporter = SpoolSpanExporter(settings=replace(settings, drain=False))
    exporter.export([span("a")])
    exporter._pipeline.store._refused = 5
    pid = os.fork()
    if pid == 0:
        exporter.export([span("b")])
        exporter.shutdown()
        os._exit(0)
    os.waitpid(pid, 0)
    exporter.shutdown()
    assert ledger_of(path).refused == 5
