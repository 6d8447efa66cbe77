from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import standin
from drains import (
    NAMES,
    Clock,
    NewDrainer,
    assert_nothing_lost,
    drain_all,
    route_of,
)
from manners import each_manner
from spans import batch
from spool.delivery.drainer import Drainer
from spool.errors import SpoolFileError
from spool.journal import directory
from spool.settings.settings import Settings
from spool.settings.target import Target
from spool.store import operations, route_waits
from spool.store.drainers import seen
from spool.store.records import Route
from spool.store.store import Store
from standin import StandIn
from targets import MINE, OTHERS
from waits import wait_until


def test_while_another_process_has_the_turn_nothing_is_sent(
    drainer: Drainer, store: Store, langfuse: StandIn, peer: Store
) -> None:
    with peer.drain_lock.take(60) as is_had:
        assert is_had
        assert not drainer.send_due()
    assert langfuse.requests == []
    drain_all(drainer)
    assert_nothing_lost(store, langfuse)


def test_the_turn_of_a_killed_drainer_is_free_at_once(
    drainer: Drainer, store: Store, path: Path, langfuse: StandIn
) -> None:
    with process_with_the_turn(path) as other:
        assert not drainer.send_due()
        other.kill()
    drain_all(drainer)
    assert_nothing_lost(store, langfuse)


@contextlib.contextmanager
def process_with_the_turn(path: Path) -> Iterator[subprocess.Popen[str]]:
    code = (
        "import time; from pathlib import Path; from spool.store.store import Store\n"
        f"with Store(Path({str(path)!r})).drain_lock.take(60): "
        "print('had', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "had\n"
        try:
            yield other
        finally:
            other.kill()


def test_a_peer_that_is_stopped_in_its_turn_does_not_keep_spans_here_for_ever(
    drainer: Drainer,
    store: Store,
    settings: Settings,
    path: Path,
    langfuse: StandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("spool.system.drain_lock._BESIDE_SENDING", 0.05 - settings.timeout_seconds)
    with process_with_the_turn(path) as other:
        other.send_signal(signal.SIGSTOP)
        assert not drainer.send_due()  # it may only be slow
        time.sleep(0.1)
        drain_all(drainer)
        assert_nothing_lost(store, langfuse)


def test_a_route_that_nobody_else_sends_gets_its_turn_between_another_processs_requests(
    drainer: Drainer, path: Path, langfuse: StandIn
) -> None:
    other, is_over = Store(path), threading.Event()

    def send_for_ever() -> None:
        while not is_over.is_set():
            with other.drain_lock.take(60):
                time.sleep(1.2)

    thread = threading.Thread(target=send_for_ever)
    thread.start()
    try:
        drainer.start()
        langfuse.wait_for(lambda server: len(server.names()) == 20)
    finally:
        is_over.set()
        thread.join()
        drainer.stop(10)
        other.close()


def test_what_comes_rouses_a_drainer_that_rests(
    store: Store,
    settings: Settings,
    target: Target,
    langfuse: StandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store.register(target)
    drainer, wait, is_resting = Drainer(store, settings), store.come.wait, threading.Event()
    drainer.routes.add(target)

    def wait_for_ever(_: float) -> bool:
        is_resting.set()
        return wait()

    monkeypatch.setattr(store.come, "wait", wait_for_ever)
    drainer.start()
    try:
        assert is_resting.wait(30)
        store.accept(target, batch("comes"), 1.0)
        langfuse.wait_for(lambda server: server.accepted == 1, timeout=30)
    finally:
        drainer.stop(30)


@pytest.mark.once
def test_one_that_rests_reads_no_route_however_many_wait(
    store: Store, settings: Settings, langfuse: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    drainer = Drainer(store, settings)
    for number in range(400):
        theirs = Target.langfuse(f"pk-lf-{number}", f"sk-lf-{number}", langfuse.url)
        store.append(theirs, batch("waits"), time.time())
        drainer.routes.add(theirs)
    with store.database.transaction() as connection:
        connection.execute(
            "UPDATE route SET attempts = 9, waited_at = ?, wait_seconds = 3600", (time.time(),)
        )
    pauses: list[float] = []
    reads: list[int] = []  # after how many pauses
    wait, waiting, is_over = store.come.wait, store.waiting, threading.Event()

    def pass_at_once(pause: float) -> bool:
        pauses.append(pause)
        if len(pauses) < 1000:
            return False
        is_over.set()
        return wait(pause)

    def read() -> list[Route]:
        reads.append(len(pauses))
        return waiting()

    monkeypatch.setattr(store.come, "wait", pass_at_once)
    monkeypatch.setattr(store, "waiting", read)
    drainer.start()
    try:
        assert is_over.wait(60)
    finally:
        drainer.stop(30)
    assert max(number for number in reads if number < 1000) < 10
    assert set(pauses[10:1000]) == {2.0}  # seconds, so rarely it looks
    assert langfuse.requests == []


@each_manner
def test_an_adopted_backlog_is_sent_with_the_current_credentials(
    drainer: Drainer, store: Store, target: Target, clock: Clock, langfuse: StandIn
) -> None:
    theirs = Target.langfuse("pk-lf-theirs", "sk-lf-theirs", langfuse.url)
    store.append(theirs, batch("theirs"), clock.now)
    stranded = next(route for route in store.routes() if route.name == "pk-lf-theirs")
    operations.adopt(store, stranded, target, sending=2)
    drain_all(drainer)
    assert langfuse.names()["theirs"] == 1


def test_what_is_being_sent_is_not_adopted_meanwhile(
    drainer: Drainer, store: Store, target: Target, path: Path, clock: Clock, langfuse: StandIn
) -> None:
    langfuse.keys["pk-lf-new"] = "sk-lf-new"
    new = Target.langfuse("pk-lf-new", "sk-lf-new", langfuse.url)
    is_sending = threading.Event()

    def slowly(exchange: standin.Exchange) -> None:
        is_sending.set()
        time.sleep(0.3)
        exchange.answer(exchange.judge())

    langfuse.behave(slowly)
    sender = threading.Thread(target=drainer.send_due)
    sender.start()
    assert is_sending.wait(60)
    assert operations.adopt(Store(path), route_of(store), new, sending=60) == 0
    sender.join()
    assert_nothing_lost(store, langfuse)


# Trouble of its own


@pytest.mark.parametrize("trouble", [SpoolFileError("gone"), ValueError("a defect")])
def test_no_trouble_ends_the_drainer(
    drainer: Drainer,
    store: Store,
    langfuse: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    trouble: Exception,
) -> None:
    def fail() -> list[Route]:
        raise trouble

    with monkeypatch.context() as patch:
        patch.setattr(store, "routes", fail)
        drainer.start()
        time.sleep(0.1)
    drainer.wake()
    langfuse.wait_for(lambda server: len(server.names()) == 20)
    drainer.stop(10)


@each_manner
def test_one_routes_outage_does_not_keep_another_from_going_out(
    drainer: Drainer, store: Store, clock: Clock, langfuse: StandIn
) -> None:
    with StandIn(keys={"pk-lf-other": "sk-lf-other"}) as other:
        other.behave(standin.unavailable())
        theirs = Target.langfuse("pk-lf-other", "sk-lf-other", other.url)
        store.append(theirs, batch("theirs"), clock.now)
        drainer.routes.add(theirs)
        drain_all(drainer)
    assert len(langfuse.names()) == 20
    assert store.ledger().pending == 1


# Its end


def test_it_ends_when_the_request_of_a_route_in_trouble_is_settled_and_begins_no_other(
    drainer: Drainer, store: Store, target: Target, clock: Clock, langfuse: StandIn
) -> None:
    langfuse.keys = {**langfuse.keys, "pk-lf-other": "sk-lf-other"}
    theirs = Target.langfuse("pk-lf-other", "sk-lf-other", langfuse.url)
    store.append(theirs, batch("theirs"), clock.now)
    drainer.routes.add(theirs)
    for route in store.routes():
        route_waits.wait(store.database, route, 0.0, clock.now, "503")
    may_answer = threading.Event()

    def wait_and_answer(exchange: standin.Exchange) -> None:
        exchange.read()
        assert may_answer.wait(60)
        standin.healthy(exchange)

    langfuse.behave(wait_and_answer)
    drainer.start()
    langfuse.wait_for(lambda server: len(server.requests) == 1)
    stopping = threading.Thread(target=drainer.stop, args=(60,))
    stopping.start()
    wait_until(lambda: not drainer._thread.is_alive())
    assert stopping.is_alive()  # it waits for the thread beside that one
    may_answer.set()
    stopping.join()
    assert len(langfuse.requests) == 1
    assert store.ledger().delivered == langfuse.accepted > 0


# Journals


@each_manner
def test_it_takes_over_what_a_dead_process_left(
    target: Target, path: Path, langfuse: StandIn, clock: Clock, new_drainer: NewDrainer
) -> None:
    dead = Store(path)
    dead.open()
    dead.accept(target, batch("left"), clock.now)
    dead.close()  # as its death does
    drain_all(new_drainer())
    assert set(langfuse.names()) == {"left"}
    assert directory.paths(path) == []


@each_manner
def test_a_journal_that_cannot_be_read_keeps_nothing_else_back(
    drainer: Drainer,
    langfuse: StandIn,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unreadable(_: Path) -> list[Path]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(directory, "paths", unreadable)
    drain_all(drainer)
    assert set(langfuse.names()) == set(NAMES)
    assert "journals of other processes" in caplog.text


def test_a_route_that_waits_rouses_nobody_before_its_time(
    store: Store, target: Target, clock: Clock, langfuse: StandIn, new_drainer: NewDrainer
) -> None:
    drainer = new_drainer(backoff_seconds=(30, 60))
    store.append(target, batch("span"), 1.0)
    langfuse.behave(standin.server_error())
    for _ in range(4):
        clock.now += 61
        drainer.send_due()
    route_waits.wait(store.database, route_of(store), 20, clock.now, "500")
    assert len(langfuse.requests) == 4
    assert 19 < drainer._next_due() <= 20


def test_others_see_which_routes_a_drainer_can_send_and_none_of_its_secrets(
    drainer: Drainer, settings: Settings, store: Store, other: Store, tmp_path: Path
) -> None:
    waiting = replace(MINE, endpoint=settings.require_target().endpoint)
    for target in (waiting, OTHERS):
        store.append(target, batch("a"), 1.0)
    credentials = tmp_path / "credentials"
    credentials.touch(0o600)
    credentials.write_text("pk-lf-mine: sk-lf-mine\npk-lf-nothing-waits: sk-lf-nothing-waits\n")
    informed = Drainer(store, replace(settings, credentials_file=credentials))
    informed.routes.add(settings.require_target())
    informed.start()
    try:
        wait_until(lambda: [one.can_send("pk-lf-mine") for one in seen(other)] == [True])
        (one,) = seen(other)
        assert sorted(one.routes or ()) == ["pk-lf-mine", "pk-lf-test"]
        (file,) = store.database.path.parent.glob("*.drainer-*")
        assert b"sk-lf" not in file.read_bytes()
        assert b"authorization" not in file.read_bytes()
    finally:
        informed.stop(60)
    assert seen(other) == ()
