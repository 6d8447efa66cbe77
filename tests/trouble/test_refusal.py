"""What happens when the disk or the mutex refuses: nothing that the application would notice."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from opentelemetry.sdk.trace.export import SpanExportResult

import standin
from disks import can_mount, fill_disk, no_room, small_disk
from spans import batch, span
from spool import Settings, SpoolSpanExporter
from spool.journal.overflow import Held, Overflow
from spool.pipeline.pipeline import Pipeline
from spool.store import takeover
from spool.store.maintenance import Maintenance
from spool.store.store import Store
from spool.system.spool_files import beside
from standin import StandIn
from trials import Trial
from users import SHORT_WAITS, environment_of
from waits import wait_until
from witness import Witness
from writer import Nursery

pytestmark = pytest.mark.once

needs_mounts = pytest.mark.skipif(not can_mount(), reason="only root mounts a small disk")

SUCCESS, FAILURE = SpanExportResult.SUCCESS, SpanExportResult.FAILURE


# Found by chaos


@pytest.fixture
def exporter(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[SpoolSpanExporter]:
    """Spool without background threads, so that a test moves every batch itself."""
    monkeypatch.setattr(Pipeline, "start_threads", lambda _: None)
    exporter = SpoolSpanExporter(settings=settings)
    yield exporter
    exporter.shutdown()


def test_a_full_memory_is_no_reason_to_refuse_while_the_disk_works(
    exporter: SpoolSpanExporter, path: Path
) -> None:
    exporter._pipeline.overflow = Overflow(max_bytes=1000)
    other = Store(path)
    with no_room():
        assert [exporter.export([span(size=600)]) for _ in range(2)] == [FAILURE, FAILURE]
    assert exporter._pipeline.overflow.spans == 1
    assert exporter.export([span(size=600)]) is SUCCESS
    assert other.ledger().accepted == 1
    other.close()


def test_nobody_waits_for_the_mutex(exporter: SpoolSpanExporter, path: Path) -> None:
    other = Store(path)
    with other.database.writing():
        assert [exporter.export([span()]) for _ in range(5)] == [SUCCESS] * 5
        exporter.shutdown()  # nor at the end: others move what is in the journal
    assert other.ledger().pending == 5
    assert other.pending() == []
    takeover.take_over(other, compress=True, sending=10.0)
    assert [row.batch.spans for row in other.pending()] == [5]
    other.close()


def test_many_batches_in_memory_become_few_rows(store: Store, settings: Settings) -> None:
    overflow = Overflow()
    target = settings.require_target()
    for number in range(500):
        overflow.add(target, batch(f"s{number}"), float(number))
    Maintenance(store, settings, overflow).save()
    assert not overflow
    assert store.ledger().accepted == store.ledger().pending == 500
    assert len(store.pending()) == 1


def test_two_who_save_the_same_memory_write_everything_once(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    overflow = Overflow()
    for number in range(20):
        overflow.add(settings.require_target(), batch(f"s{number}", size=200_000), float(number))
    record = store.record

    def slowly(held: Held, patience: float) -> None:
        time.sleep(0.005)
        record(held, patience)

    monkeypatch.setattr(store, "record", slowly)
    keepers = [Maintenance(store, settings, overflow) for _ in range(2)]
    threads = [threading.Thread(target=maintenance.save) for maintenance in keepers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not overflow
    assert store.ledger().accepted == 20


def test_what_is_in_memory_does_not_keep_a_full_spool_from_noticing_room(
    store: Store, settings: Settings
) -> None:
    settings = replace(settings, when_full="drop-newest")
    target, overflow = settings.require_target(), Overflow()
    store.append(target, batch("old"), now=1.0)
    store.is_full = True
    overflow.add(target, batch("held"), 2.0)
    Maintenance(store, settings, overflow).keep()
    assert not overflow
    assert store.ledger().pending == 2


def test_what_shutdown_cannot_save_is_counted_as_refused(
    exporter: SpoolSpanExporter, path: Path, langfuse: StandIn
) -> None:
    langfuse.behave(standin.unavailable())
    exporter.export([span()])
    exporter._pipeline.overflow.add(exporter._target, batch("held"), 1.0)
    exporter._pipeline.store.is_full = True
    exporter.shutdown()
    store = Store(path)
    assert (store.ledger().accepted, store.ledger().refused) == (1, 1)
    store.close()


def test_what_was_sent_from_memory_is_not_counted_as_refused_at_shutdown(
    exporter: SpoolSpanExporter, path: Path, langfuse: StandIn
) -> None:
    langfuse.behave(standin.unavailable())
    exporter.export([span()])
    overflow = exporter._pipeline.overflow
    overflow.add(exporter._target, batch("sent"), 1.0)
    overflow.add(exporter._target, batch("held"), 1.0)
    overflow.deliver(overflow.take(exporter._target.route, 1)[:1])
    assert (overflow.spans, overflow.unsent_spans) == (2, 1)
    exporter._pipeline.store.is_full = True
    exporter.shutdown()
    store = Store(path)
    assert store.ledger().refused == 1
    store.close()


# Disks, mounts, limits and peers


class Refusal:
    """An exporter whose file is refused for a while, and what a receiver got meanwhile."""

    def __init__(self, settings: Settings, langfuse: StandIn) -> None:
        self.langfuse = langfuse
        self.path = settings.path
        self.exporter = SpoolSpanExporter(
            settings=replace(settings, sync_seconds=0.1, shutdown_seconds=10)
        )
        self.results: list[SpanExportResult] = []
        self.longest = 0.0

    def end_spans(self, count: int) -> list[SpanExportResult]:
        """End so many spans, and note what was said and how long the longest took."""
        results = []
        for _ in range(count):
            one = span(f"s{len(self.results)}", size=1000)
            started = time.monotonic()
            results.append(self.exporter.export([one]))
            self.longest = max(self.longest, time.monotonic() - started)
            self.results.append(results[-1])
        return results

    def arrived(self) -> int:
        return len(self.langfuse.names())

    def recover(self) -> None:
        """Wait until the file takes spans again, and all has arrived."""
        wait_until(lambda: self.end_spans(1) == [SUCCESS])
        assert self.end_spans(20) == [SUCCESS] * 20
        wait_until(lambda: self.arrived() == len(self.results))
        wait_until(lambda: not self.exporter._pipeline.store.ledger().pending)
        self.exporter.shutdown()

    def trouble(self, name: str, tried: int) -> Trial:
        store, names = Store(self.path), self.langfuse.names()
        ledger = store.ledger()
        store.close()
        print(f"the longest export() took {1000 * self.longest:.1f} ms")
        assert (ledger.pending, ledger.refused) == (0, 0), ledger
        assert ledger.delivered == len(self.results), ledger
        return Trial(
            name=name,
            tried=tried,
            ended=len(self.results),
            accepted=ledger.accepted,
            refused=ledger.refused,
            in_memory=ledger.in_memory,
            lost=len(self.results) - len(names),
            duplicates=sum(names.values()) - len(names),
        )


@contextlib.contextmanager
def shut_down(exporter: SpoolSpanExporter) -> Iterator[SpoolSpanExporter]:
    try:
        yield exporter
    finally:
        exporter.shutdown()


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
    rounds = 30 if is_full else 2
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
        report(refusal.trouble("a full disk", rounds))


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
    rounds = 30 if is_full else 2
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
        report(refusal.trouble("a disk that becomes read-only", rounds))


def make_read_only(directory: Path, *, is_read_only: bool) -> None:
    """Bind the directory onto itself, read-only, or take that away again."""
    aside = directory.with_name("read-only")  # where nobody has a file open
    aside.mkdir(exist_ok=True)
    if is_read_only:
        subprocess.run(["mount", "--bind", directory, aside], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", aside], check=True)
        subprocess.run(["mount", "--bind", aside, directory], check=True)
    else:
        for mounted in (directory, aside):  # lazily: a reader may be in there
            subprocess.run(["umount", "-l", mounted], check=True)


HOLDER = """
import fcntl, os, signal, sys
fd = os.open(sys.argv[1], os.O_RDWR)
fcntl.flock(fd, fcntl.LOCK_EX)
print("held", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
"""


@pytest.mark.trust
@pytest.mark.timeout(1200)
def test_a_stopped_peer_that_holds_the_mutex_costs_nobody_a_wait(
    settings: Settings,
    path: Path,
    langfuse: StandIn,
    is_full: bool,
    report: Callable[[Trial], None],
) -> None:
    rounds = 10 if is_full else 1
    refusal = Refusal(settings, langfuse)
    refusal.end_spans(20)
    for number in range(rounds):
        command = [sys.executable, "-c", HOLDER, str(beside(path, ".lock"))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as peer:
            assert peer.stdout is not None
            assert peer.stdout.readline() == "held\n"
            assert refusal.end_spans(500) == [SUCCESS] * 500
            peer.send_signal(signal.SIGCONT if number % 2 else signal.SIGKILL)
        wait_until(lambda: refusal.arrived() == len(refusal.results))
    refusal.recover()
    report(refusal.trouble("a stopped peer that holds the mutex", rounds))


@pytest.mark.trust
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("limit", ["RLIMIT_FSIZE", "RLIMIT_NOFILE"])
def test_a_process_at_its_limit_goes_on(
    limit: str,
    path: Path,
    tmp_path: Path,
    is_full: bool,
    report: Callable[[Trial], None],
) -> None:
    rounds = 10 if is_full else 1
    values = {"RLIMIT_FSIZE": 300_000, "RLIMIT_NOFILE": 13}
    with (
        Witness() as langfuse,
        Nursery(tmp_path / "trails", environment_of(path, langfuse.url, **SHORT_WAITS)) as nursery,
    ):
        for _ in range(rounds):
            started = [
                nursery.start(count=300, limits={limit: values[limit]} if number % 2 else {})
                for number in range(4)
            ]
            for pid in started:
                assert nursery.wait(pid) == 0, nursery.errors()
        assert "Traceback" not in nursery.errors(), nursery.errors()
        by_hand = nursery.start(command=("drain",))
        assert nursery.wait(by_hand) == 0, nursery.errors()
        trail, arrived = nursery.trail(), langfuse.span_ids()
    assert len(trail.spooled | trail.failed) == 4 * 300 * rounds
    store = Store(path)
    ledger = store.ledger()
    store.close()
    report(
        Trial(
            name=f"{limit} in every second process",
            tried=rounds,
            ended=len(trail.spooled | trail.failed),
            accepted=ledger.accepted,
            refused=ledger.refused,
            # What a limited process still held at its end, when it could not even count it.
            in_memory=len(trail.spooled | trail.failed) - ledger.accepted - ledger.refused,
            lost=len(trail.spooled - set(arrived)),
            duplicates=sum(arrived.values()) - len(arrived),
        )
    )


# Disks that refuse from the start


@contextlib.contextmanager
def refusing_disk(trouble: str, path: Path, *, is_there: bool) -> Iterator[None]:
    """Mount a disk that takes nothing new, with a spool on it that holds one span, or none."""
    directory = path.parent
    with small_disk(directory, 4 << 20):
        if is_there:
            command = [sys.executable, "-c", WRITER]
            with subprocess.Popen(command, env={**os.environ, "SPOOL_PATH": str(path)}) as writer:
                pass
            assert writer.returncode == -signal.SIGKILL  # its WAL and its journal stay
            beside(path, "-shm").unlink()
        if trouble == "read-only":
            subprocess.run(["mount", "-o", "remount,ro", directory], check=True)
        elif trouble == "no inodes":
            used = 1 + len(list(directory.iterdir()))
            options = f"remount,nr_inodes={used}"
            subprocess.run(["mount", "-o", options, directory], check=True)
        else:
            fill_disk(directory / "ballast")
        yield


WRITER = """
import os, signal
from spans import batch
from spool.settings.target import Target
from spool.store.store import Store
from pathlib import Path
store = Store(Path(os.environ["SPOOL_PATH"]))
target = Target.langfuse("pk-lf-test", "sk-lf-test", os.environ["LANGFUSE_HOST"])
store.append(target, batch("a row"), 1.0)
store.accept(target, batch("in the journal"), 2.0)
store.drain_lock.prepare()
os.kill(os.getpid(), signal.SIGKILL)
"""
WORDS = {
    "read-only": "Read-only file system",
    "no inodes": "no inodes are left",
    "full": "make room there",
}


@pytest.fixture
def environment(path: Path, langfuse: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name spool and stand-in as a user would."""
    for name, value in environment_of(path, langfuse.url, **SHORT_WAITS).items():
        monkeypatch.setenv(name, value)


@needs_mounts
@pytest.mark.parametrize("is_there", [True, False], ids=["a spool", "no spool"])
@pytest.mark.parametrize("trouble", WORDS)
def test_a_program_that_starts_on_a_disk_that_refuses_goes_on_and_its_spans_are_sent(
    environment: None,
    settings: Settings,
    path: Path,
    langfuse: StandIn,
    caplog: pytest.LogCaptureFixture,
    trouble: str,
    is_there: bool,
) -> None:
    with refusing_disk(trouble, path, is_there=is_there):
        with shut_down(SpoolSpanExporter(settings=settings)) as exporter:
            assert exporter.export([span("held")]) is FAILURE
            langfuse.wait_for(lambda server: "held" in server.names())
            if is_there:  # it can be read, and what was sent is not sent again
                langfuse.wait_for(lambda server: "a row" in server.names())
        assert WORDS[trouble] in caplog.text
    assert langfuse.names()["held"] == 1


@needs_mounts
@pytest.mark.parametrize("trouble", WORDS)
def test_a_spool_on_a_disk_that_refuses_can_be_read(
    environment: None, path: Path, trouble: str
) -> None:
    with refusing_disk(trouble, path, is_there=True):
        before = {file.name: file.stat().st_size for file in path.parent.iterdir()}
        command = [sys.executable, "-m", "spool", "--path", str(path)]
        status = subprocess.run([*command, "status", "--json"], capture_output=True, check=False)
        peek = subprocess.run([*command, "peek", "--json"], capture_output=True, check=False)
        after = {file.name: file.stat().st_size for file in path.parent.iterdir()}
    assert status.stdout, status.stderr
    assert json.loads(status.stdout)["pending"]["spans"] == 2
    assert {shown["name"] for shown in json.loads(peek.stdout)} == {"a row", "in the journal"}
    assert after.items() >= before.items()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.EDQUOT, "raise the quota"),
        (errno.EROFS, "mount it for writing"),
        (errno.EMFILE, "raise the limit of open files"),
        (errno.EIO, "see to the disk"),
    ],
)
def test_what_the_disk_has_against_us_is_said_and_no_error_of_the_constructor(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    code: int,
    words: str,
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("spool.system.spool_files.create", refuse)
    with shut_down(SpoolSpanExporter(settings=replace(settings, drain=False))):
        assert words in caplog.text
        assert os.strerror(code) in caplog.text


@needs_mounts
@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_a_drain_on_a_disk_that_takes_nothing_sends_what_it_can_and_says_so(
    environment: None, path: Path, langfuse: StandIn, trouble: str
) -> None:
    command = [sys.executable, "-m", "spool", "--path", str(path), "drain", "--json"]
    with refusing_disk(trouble, path, is_there=True):
        drained = subprocess.run(command, capture_output=True, text=True, check=False)
        assert drained.stdout, drained.stderr
        result = json.loads(drained.stdout)
        assert (drained.returncode, result["delivered"], result["pending"]) == (1, 2, 2)
        assert langfuse.names() == {"a row": 1, "in the journal": 1}
        assert "not settled" in drained.stderr
        assert WORDS[trouble] in drained.stderr
        if trouble == "full":
            (path.parent / "ballast").unlink()
        else:
            subprocess.run(["mount", "-o", "remount,rw", path.parent], check=True)
        again = subprocess.run(command, capture_output=True, text=True, check=True)
        assert json.loads(again.stdout)["pending"] == 0
