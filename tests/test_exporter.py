from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult

import standin
from disks import no_room
from manners import each_manner
from spans import provider_of, span
from spool import Settings, SettingsError, SpoolFileError, SpoolSpanExporter
from spool.delivery.http.classification import Outcome
from spool.journal.overflow import Overflow
from spool.otlp.batch import Batch, Codec
from spool.settings.target import Target
from spool.store import presence
from spool.store.records import Ledger
from spool.store.store import Store
from standin import StandIn
from waits import wait_until


def run(code: str, *arguments: str) -> str:
    """Run a program as a process of its own; give what it prints."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_success_means_that_the_span_is_in_the_file(settings: Settings, path: Path) -> None:
    exporter = SpoolSpanExporter(settings=replace(settings, drain=False))
    assert exporter.export([span("a"), span("b")]) is SpanExportResult.SUCCESS
    other = Store(path)
    assert other.ledger().pending == 2
    other.close()
    exporter.shutdown()


def test_everything_can_come_from_the_environment(environment: None, langfuse: StandIn) -> None:
    exporter = SpoolSpanExporter()
    exporter.export([span("a")])
    assert exporter.force_flush(10_000)
    assert langfuse.names()["a"] == 1
    exporter.shutdown()


def test_endpoint_and_headers_can_be_given(path: Path) -> None:
    with StandIn(keys={"pk-lf-x": "sk-lf-x"}) as langfuse:
        headers = Target.langfuse("pk-lf-x", "sk-lf-x").headers
        exporter = SpoolSpanExporter(path=path, endpoint=langfuse.endpoint, headers=headers)
        exporter.export([span("a")])
        assert exporter.force_flush(10_000)
        assert langfuse.names()["a"] == 1
        exporter.shutdown()


def test_two_programs_with_one_endpoint_and_two_keys_never_send_each_others_spans(
    path: Path, langfuse: StandIn
) -> None:
    langfuse.behave(standin.status(200, body=b"{}"))
    url = f"{langfuse.url}/v1/traces"
    targets = {key: Target.otlp(url, {"x-api-key": key}) for key in ("key-of-a", "key-of-b")}
    for key, target in targets.items():
        writer = SpoolSpanExporter(settings=Settings(path=path, target=target, drain=False))
        writer.export([span(f"of {key}")])
        writer.shutdown()
    exporter = SpoolSpanExporter(settings=Settings(path=path, target=targets["key-of-b"]))
    exporter.export([span("of key-of-b")])
    assert exporter.force_flush(30_000)
    exporter.shutdown()
    sent = {
        (request.headers["x-api-key"], one.name)
        for request in langfuse.requests
        for one in standin.spans_of(standin.parse(request))
    }
    assert sent == {("key-of-b", "of key-of-b")}
    store = Store(path)
    assert store.ledger().pending == 1
    store.close()


def test_two_exporters_with_one_endpoint_and_two_keys_send_each_their_own_spans(
    path: Path, langfuse: StandIn
) -> None:
    langfuse.behave(standin.status(200, body=b"{}"))
    exporters = {
        key: SpoolSpanExporter(
            path=path, endpoint=f"{langfuse.url}/v1/traces", headers={"x-api-key": key}
        )
        for key in ("key-of-a", "key-of-b")
    }
    for _ in range(3):
        for key, exporter in exporters.items():
            exporter.export([span(f"of {key}")])
    for exporter in exporters.values():
        assert exporter.force_flush(30_000)
        exporter.shutdown()
    sent = [
        (request.headers["x-api-key"], one.name)
        for request in langfuse.requests
        for one in standin.spans_of(standin.parse(request))
    ]
    assert sorted(sent) == 3 * [("key-of-a", "of key-of-a")] + 3 * [("key-of-b", "of key-of-b")]


def test_missing_credentials_are_told_where_the_exporter_is_made(path: Path) -> None:
    with pytest.raises(
        SettingsError, match="LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY must be set"
    ):
        SpoolSpanExporter(path=path)


def test_a_path_that_cannot_be_used_is_told_where_the_exporter_is_made(
    environment: None, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a spool at all")
    with pytest.raises(SpoolFileError, match=f"{tmp_path}/file"):
        SpoolSpanExporter(path=tmp_path / "file")


def test_exporting_nothing_writes_nothing(settings: Settings) -> None:
    exporter = SpoolSpanExporter(settings=settings)
    assert exporter.export([]) is SpanExportResult.SUCCESS
    exporter.shutdown()


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
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = SpoolSpanExporter(settings=replace(settings, drain=False))
    monkeypatch.setattr(Overflow, "oldest", lambda *_: [])  # nobody moves what is held
    with no_room():
        assert exporter.export([span("a")]) is SpanExportResult.FAILURE
    assert exporter.export([span("b")]) is SpanExportResult.SUCCESS
    assert exporter._pipeline.overflow.spans == 1
    monkeypatch.undo()
    exporter.shutdown()


def test_what_is_held_in_memory_is_sent_from_there_while_the_disk_does_not_work(
    settings: Settings, path: Path, langfuse: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = SpoolSpanExporter(settings=settings)
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
    settings: Settings, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exporter = SpoolSpanExporter(settings=replace(settings, drain=False))
    exporter._pipeline.overflow = Overflow(max_bytes=0)
    other = Store(path)
    with no_room():
        assert exporter.export([span("a"), span("b")]) is SpanExportResult.FAILURE
    assert "spans were refused" in caplog.text
    exporter.shutdown()
    assert other.ledger().refused == 2
    other.close()


def test_one_span_that_cannot_be_encoded_does_not_take_the_others_along(
    settings: Settings, path: Path
) -> None:
    exporter = SpoolSpanExporter(settings=replace(settings, drain=False))
    bad = span(7)  # type: ignore[arg-type]  # a name that is no text
    assert exporter.export([span("a"), bad, span("b")]) is SpanExportResult.FAILURE
    exporter.shutdown()
    other = Store(path)
    assert (other.ledger().accepted, other.ledger().refused) == (2, 1)
    other.close()


@each_manner
def test_force_flush_waits_for_what_was_accepted_before(
    settings: Settings, langfuse: StandIn
) -> None:
    exporter = SpoolSpanExporter(settings=settings)
    for number in range(50):
        exporter.export([span(str(number))])
    assert exporter.force_flush(10_000)
    assert langfuse.accepted == 50
    exporter.shutdown()


def send_straight(
    exporter: SpoolSpanExporter, langfuse: StandIn, behaviour: standin.Behaviour
) -> None:
    """End span "a" while the line is well, and wait until the drainer is sending it."""
    exporter.export([span("first")])
    assert exporter.force_flush(10_000)
    wait_until(lambda: exporter._pipeline.store.journal.served_until > time.monotonic())
    langfuse.behave(behaviour)
    exporter.export([span("a")])
    langfuse.wait_for(lambda server: len(server.requests) == 2)


def test_force_flush_waits_for_what_is_being_sent_straight_from_the_journal(
    settings: Settings, langfuse: StandIn
) -> None:
    exporter = SpoolSpanExporter(settings=settings)
    send_straight(exporter, langfuse, standin.delay(0.3))
    assert exporter._pipeline.store.journal.is_claimed()
    assert exporter.force_flush(10_000)
    assert langfuse.names() == {"first": 1, "a": 1}
    exporter.shutdown()


def test_shutdown_waits_for_what_is_being_sent_straight_from_the_journal(
    settings: Settings, path: Path, langfuse: StandIn
) -> None:
    exporter = SpoolSpanExporter(settings=settings)
    send_straight(exporter, langfuse, standin.delay(0.3))
    exporter.export([span("b")])
    exporter.shutdown()
    assert langfuse.names() == {"first": 1, "a": 1, "b": 1}
    other = Store(path)
    assert other.ledger() == Ledger(accepted=3, delivered=3)
    other.close()


def test_force_flush_is_not_held_up_by_spans_that_end_meanwhile(
    settings: Settings, langfuse: StandIn
) -> None:
    exporter, is_over = SpoolSpanExporter(settings=settings), threading.Event()
    send_straight(exporter, langfuse, standin.delay(0.1))

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


def test_what_is_being_sent_when_the_process_ends_stays_in_its_journal(
    settings: Settings, path: Path, langfuse: StandIn
) -> None:
    exporter = SpoolSpanExporter(settings=replace(settings, shutdown_seconds=0.1))
    send_straight(exporter, langfuse, standin.mute())
    exporter.shutdown()
    other = Store(path)
    assert other.ledger() == Ledger(accepted=2, delivered=1, pending=1)
    other.close()


def test_force_flush_gives_up_at_once_on_a_route_in_trouble(
    settings: Settings, langfuse: StandIn
) -> None:
    langfuse.behave(standin.too_many(60))
    exporter = SpoolSpanExporter(settings=settings)
    exporter.export([span("a")])
    assert not exporter.force_flush(600_000)
    assert not exporter.force_flush(600_000)
    assert len(langfuse.requests) == 1
    exporter.shutdown()


def test_force_flush_gives_up_at_once_where_nobody_drains(settings: Settings) -> None:
    exporter = SpoolSpanExporter(settings=replace(settings, drain=False))
    exporter.export([span("a")])
    assert not exporter.force_flush(600_000)
    exporter.shutdown()


def test_force_flush_waits_for_another_process_that_drains(
    settings: Settings, environment: None, langfuse: StandIn
) -> None:
    exporter = SpoolSpanExporter(settings=replace(settings, drain=False))
    command = [sys.executable, "-m", "spool", "run"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as sidecar:
        assert sidecar.stderr is not None
        sidecar.stderr.readline()
        exporter.export([span("a")])
        while not presence.drainer(exporter._pipeline.store)[0]:
            pass
        assert exporter.force_flush(60_000)
        sidecar.send_signal(signal.SIGTERM)
    assert sidecar.returncode == 0
    assert langfuse.names()["a"] == 1
    exporter.shutdown()


def test_shutdown_can_be_called_twice_and_exports_fail_after_it(settings: Settings) -> None:
    exporter = SpoolSpanExporter(settings=settings)
    exporter.shutdown()
    exporter.shutdown()
    assert exporter.export([span("a")]) is SpanExportResult.FAILURE
    assert not exporter.force_flush()


@each_manner
def test_shutdown_delivers_what_a_healthy_endpoint_takes(
    settings: Settings, langfuse: StandIn
) -> None:
    exporter = SpoolSpanExporter(settings=settings)
    exporter.export([span("a")])
    exporter.shutdown()
    assert langfuse.names()["a"] == 1


def test_exporters_of_one_file_share_one_store_and_one_drainer(
    settings: Settings, path: Path, langfuse: StandIn
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


def test_no_secret_is_in_any_file_of_the_spool(settings: Settings, path: Path) -> None:
    with StandIn(keys={}) as langfuse:
        langfuse.behave(standin.status(401, body=b'{"message": "sk-lf-very-secret is not known"}'))
        target = Target.langfuse("pk-lf-test", "sk-lf-very-secret", langfuse.url)
        exporter = SpoolSpanExporter(settings=replace(settings, target=target))
        exporter.export([span("a")])
        langfuse.wait_for(lambda server: len(server.requests) == 1)
        exporter.force_flush(5000)
        secrets = ["sk-lf-very-secret", target.headers["authorization"].removeprefix("Basic ")]
        contents = b"".join(file.read_bytes() for file in path.parent.iterdir())
        exporter.shutdown()
        contents += b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert b"*** is not known" in contents
    for secret in secrets:
        assert secret.encode() not in contents


def test_a_forked_child_spools_and_drains_by_itself(settings: Settings, langfuse: StandIn) -> None:
    exporter = SpoolSpanExporter(settings=settings)
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
    exporter.shutdown()


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
    with pytest.raises(subprocess.CalledProcessError):
        run(code)
    exporter = SpoolSpanExporter()
    exporter.export([span("next")])
    assert exporter.force_flush(10_000)
    assert langfuse.accepted == 101
    exporter.shutdown()


@each_manner
def test_it_serves_a_batch_span_processor_too(settings: Settings, langfuse: StandIn) -> None:
    exporter = SpoolSpanExporter(settings=settings)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracer = provider.get_tracer("x")
    for number in range(1000):
        tracer.start_span(str(number)).end()
    provider.force_flush()
    assert exporter.force_flush(10_000)
    assert langfuse.accepted == 1000
    provider.shutdown()


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


def test_zero_code_instrumentation_finds_the_exporter_by_name() -> None:
    from importlib.metadata import entry_points

    (entry,) = entry_points(group="opentelemetry_traces_exporter", name="spool")
    assert entry.load() is SpoolSpanExporter


def test_its_own_requests_are_hidden_from_instrumentation(
    settings: Settings, langfuse: StandIn
) -> None:
    from opentelemetry import context

    seen: list[object] = []
    exporter = SpoolSpanExporter(settings=settings)
    provider = provider_of(exporter)
    provider.get_tracer("x").start_span("a").end()
    drainer = exporter._pipeline._threads.drainer
    assert drainer is not None
    post = drainer.client.post

    def spying(target: Target, batches: Sequence[Batch], timeout: float) -> Outcome:
        seen.append(context.get_value("suppress_instrumentation"))
        return post(target, batches, timeout)

    drainer.client.post = spying  # type: ignore[method-assign]  # to look from within its thread
    provider.get_tracer("x").start_span("b").end()
    assert exporter.force_flush(30_000)
    assert seen[0] is True
    provider.shutdown()


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


def test_a_process_forks_and_shuts_down_after_its_directory_is_gone(
    settings: Settings, path: Path
) -> None:
    exporter = SpoolSpanExporter(settings=settings)
    exporter.export([span("a")])
    path.parent.rename(path.parent.with_name("gone"))
    path.parent.touch()  # nothing can be made there
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    # It is appended to the file that is open, unless maintenance has noticed and left that.
    is_spooled = exporter.export([span("b")]) is SpanExportResult.SUCCESS
    exporter.shutdown()
    moved = Store(path.parent.with_name("gone") / path.name)
    assert moved.ledger().accepted == 1 + is_spooled
    moved.close()
    names = {thread.name for thread in threading.enumerate()}
    assert "spool-maintenance" not in names


def test_a_log_handler_that_ends_spans_does_not_recur_without_end(
    settings: Settings, path: Path
) -> None:
    exporter = SpoolSpanExporter(settings=replace(settings, drain=False))
    calls: list[logging.LogRecord] = []

    class Spanning(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            calls.append(record)
            exporter.export([span("from the log")])

    handler = Spanning()
    logging.getLogger("spool").addHandler(handler)
    other = Store(path)
    try:
        with no_room():
            exporter.export([span("a")])
    finally:
        logging.getLogger("spool").removeHandler(handler)
    assert len(calls) == 1
    exporter.shutdown()
    other.close()


def test_where_no_thread_can_be_started_a_span_is_spooled_once_and_sent_later(
    settings: Settings, langfuse: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = SpoolSpanExporter(settings=settings)

    def exhausted(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", exhausted)
        assert exporter.export([span("a"), span("b")]) is SpanExportResult.SUCCESS
    assert exporter.export([span("c")]) is SpanExportResult.SUCCESS
    assert exporter.force_flush(10_000)
    assert exporter._pipeline.ledger().accepted == 3
    assert set(langfuse.span_ids().values()) == {1}
    exporter.shutdown()


def test_an_exception_out_of_a_signal_handler_does_not_spoil_the_locks(
    settings: Settings,
) -> None:
    exporter = SpoolSpanExporter(settings=replace(settings, drain=False))
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
                    exporter.export([one])
                is_armed = False
            except Interruption:
                is_armed = False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    wait_until(lambda: not exporter._pipeline.overflow)
    assert exporter.export([one]) is SpanExportResult.SUCCESS
    exporter.shutdown()


@pytest.mark.parametrize("is_written", [False, True])
def test_an_exception_out_of_a_signal_handler_in_the_middle_of_an_export_loses_no_span(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, *, is_written: bool
) -> None:
    exporter = SpoolSpanExporter(settings=replace(settings, drain=False))
    store = exporter._pipeline.store
    accept = store.accept
    tries = []

    def accept_and_be_interrupted(target: Target, batch: Batch, now: float) -> None:
        tries.append(now)
        if is_written or len(tries) > 1:
            accept(target, batch, now)
        if len(tries) == 1:
            raise TimeoutError("a soft limit of the application's")

    monkeypatch.setattr(store, "accept", accept_and_be_interrupted)
    assert exporter.export([span("a")]) is SpanExportResult.SUCCESS
    exporter.shutdown()
    assert store.ledger().refused == 0
    assert store.ledger().accepted == 1 + is_written
