from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import standin
from spans import batch
from spool.commands.open_spool import OpenSpool
from spool.commands.sidecar import Sidecar
from spool.delivery.http.classification import Outcome, Verdict
from spool.settings.target import Target
from spool.store import drainers
from spool.store.drainers import Presence, SeenDrainer
from spool.store.records import Route
from spool.store.store import Store
from spool.system import service_manager
from standin import Exchange, StandIn
from targets import OTHERS
from users import invoke, spool, status
from waits import wait_until

pytestmark = pytest.mark.once


class Running:
    """A `run`, and what it has logged."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = process.pid
        self.log = ""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log += line

    def wait_for(self, words: str, times: int = 1) -> None:
        wait_until(lambda: len(re.findall(words, self.log)) >= times)

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(120) == 0


@contextlib.contextmanager
def running(*options: str, **more: str) -> Iterator[Running]:
    with subprocess.Popen(
        [sys.executable, "-m", "spool", "run", *options],
        stderr=subprocess.PIPE, text=True, env={**os.environ, **more},
    ) as process:  # fmt: skip
        found = Running(process)
        try:
            yield found
        finally:
            process.kill()
    assert "Traceback" not in found.log
    assert "sk-lf" not in found.log


def test_a_second_one_stands_by_and_says_when_it_drains(store: Store) -> None:
    with running() as first:
        first.wait_for("INFO draining")
        wait_until(lambda: len(drainers.seen(store)) == 1)
        with running() as second:
            second.wait_for(f"standing by: pid {first.pid} drains")
            assert status()["drainer"]["running"]
            first.process.kill()
            second.wait_for(f"pid {first.pid} drains no longer")
            second.wait_for("INFO draining")
            assert status()["drainer"] == {"running": True, "pid": second.pid}
            second.process.send_signal(signal.SIGSTOP)
            wait_until(lambda: status()["drainer"] == {"running": False, "pid": None})
            second.process.send_signal(signal.SIGCONT)
            wait_until(lambda: bool(status()["drainer"]["running"]))
            second.end()
    (left,) = store.database.path.parent.glob("*.drainer-*")  # whom nobody could ask to end
    assert f"-{first.pid}-" in left.name
    spool("drain")
    assert not left.exists()


def test_its_log_says_when_a_route_goes_down_and_when_it_works_again(
    filled: Store, langfuse: StandIn
) -> None:
    langfuse.behave(standin.status(503))
    with running() as sidecar:
        sidecar.wait_for(
            r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d WARNING route pk-lf-test waits: "
        )
        langfuse.behave(None)
        sidecar.wait_for(r"WARNING route pk-lf-test works again: after [\d.]+ (s|min), 10 spans")
        assert sidecar.log.count("pk-lf-test waits") == 1
        assert "sent 10 spans" not in sidecar.log
        sidecar.end()


def test_that_a_route_works_again_is_said_where_another_process_has_found_that(
    filled: Store,
    langfuse: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000")  # it looks often
    own = OpenSpool(None, "run")
    sidecar = Sidecar(own)
    (route,) = filled.routes()
    own.drainer.routes.wait(route, Outcome(Verdict.WAIT, "503"))
    assert "route pk-lf-test waits" in caplog.text
    sidecar.start()
    filled.append(Target.langfuse("pk-lf-new", "-", langfuse.url), batch("a"), 1.0)
    wait_until(lambda: "route pk-lf-new: its spans wait" in caplog.text)  # it has looked
    assert "works again" not in caplog.text
    invoke("drain", code=1)
    wait_until(lambda: "route pk-lf-test works again" in caplog.text)
    sidecar.stop(60)


def test_it_is_quiet_or_says_each_request_where_it_is_told_to(
    filled: Store, langfuse: StandIn
) -> None:
    with running("-v") as sidecar:
        sidecar.wait_for(r"DEBUG sent 10 spans \(\d+ bytes\) in \d+\.\d+ s to http://127")
        sidecar.end()
    with running("-q") as sidecar:
        wait_until(lambda: len(drainers.seen(filled)) == 1)
        sidecar.end()
        assert sidecar.log == ""


def test_a_secret_that_is_missing_is_said_and_read_on_sighup(
    filled: Store, langfuse: StandIn, tmp_path: Path
) -> None:
    theirs = Target.langfuse("pk-lf-theirs", "-", langfuse.url)
    filled.append(theirs, batch("theirs"), 1.0)
    filled.close()
    credentials = tmp_path / "credentials"
    credentials.touch(0o600)
    with running(SPOOL_CREDENTIALS_FILE=str(credentials)) as sidecar:
        sidecar.wait_for("WARNING route pk-lf-theirs: its spans wait: its secret is not known here")
        credentials.write_text("nonsense\n")
        sidecar.process.send_signal(signal.SIGHUP)
        sidecar.wait_for(
            "WARNING SPOOL_CREDENTIALS_FILE=.*line 1 must be .*; the secrets read before"
        )
        credentials.write_text("pk-lf-theirs: sk-lf-test\n")
        sidecar.process.send_signal(signal.SIGHUP)
        sidecar.wait_for("SPOOL_CREDENTIALS_FILE has secrets of 1 public key")
        langfuse.wait_for(lambda server: server.names()["theirs"] == 1)
        sidecar.wait_for("INFO route pk-lf-theirs: nothing of it lacks a secret any more")
        sidecar.end()


def test_the_first_sighup_tells_what_has_changed_since_it_began(
    store: Store, path: Path, tmp_path: Path
) -> None:
    credentials = tmp_path / "credentials"
    credentials.touch(0o600)
    credentials.write_text("pk-lf-theirs: sk-lf-theirs\n")
    with running(SPOOL_CREDENTIALS_FILE=str(credentials)) as sidecar:
        sidecar.wait_for("INFO draining")
        sidecar.process.send_signal(signal.SIGHUP)
        sidecar.wait_for("has secrets of 1 public key: nothing has changed")
        sidecar.end()


def test_what_another_process_has_the_secret_of_is_not_said_to_be_missing(
    store: Store, target: Target, langfuse: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    langfuse.behave(standin.status(503))
    theirs = Target.langfuse("pk-lf-theirs", "-", langfuse.url)
    for one in (target, theirs):
        store.append(one, batch("a"), 1.0)
    keys = {"LANGFUSE_PUBLIC_KEY": "pk-lf-theirs", "LANGFUSE_SECRET_KEY": "sk-lf-theirs"}

    def states() -> dict[str, str]:
        return {route["route"]: route["state"] for route in status()["routes"]}

    with running() as first:
        wait_until(lambda: states() == {"pk-lf-test": "waiting", "pk-lf-theirs": "no-secret"})
        with running(**keys) as second:
            wait_until(lambda: states() == {"pk-lf-test": "waiting", "pk-lf-theirs": "waiting"})
            monkeypatch.delenv("LANGFUSE_PUBLIC_KEY")
            monkeypatch.delenv("LANGFUSE_SECRET_KEY")
            assert set(states().values()) == {"waiting"}  # by whom drains, not by who asks
            second.process.kill()
            wait_until(lambda: states()["pk-lf-theirs"] == "no-secret")
        first.end()


def test_without_any_secret_it_is_an_error(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY"):
        monkeypatch.delenv(name)
    said = spool("run", code=2).stderr
    assert "LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY must be set" in said
    assert "SPOOL_CREDENTIALS_FILE" in said
    assert not path.parent.exists()


def test_a_path_in_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    said = spool("--path", str(tmp_path / "mistyped" / "spool.db"), "run", code=2).stderr
    assert said == (
        f"spool: --path {tmp_path}/mistyped/spool.db: there is no directory {tmp_path}/mistyped; "
        "correct the path, or make it\n"
    )
    assert not (tmp_path / "mistyped").exists()


def test_a_second_sigterm_ends_it_at_once(filled: Store, langfuse: StandIn) -> None:
    langfuse.behave(hang)
    with running(SPOOL_TIMEOUT_SECONDS="60") as sidecar:
        langfuse.wait_for(lambda server: len(server.requests) > 0)
        sidecar.process.send_signal(signal.SIGTERM)
        sidecar.wait_for("INFO ending")
        wait_until(lambda: _blocked(sidecar.pid) == 0)
        sidecar.process.send_signal(signal.SIGTERM)
        assert sidecar.process.wait(120) in (-signal.SIGTERM, 0)
    assert filled.ledger().pending == 10


def hang(exchange: Exchange) -> None:
    exchange.read()
    exchange.hang()


def _blocked(pid: int) -> int:
    """Tell which signals the main thread of a process blocks."""
    (mask,) = re.findall(r"SigBlk:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return int(mask, 16) & (1 << signal.SIGTERM - 1)


@pytest.mark.parametrize("is_abstract", [True, False], ids=["abstract", "file"])
def test_systemd_is_told_that_it_is_ready_that_it_moves_and_that_it_stops(
    store: Store, target: Target, tmp_path: Path, *, is_abstract: bool
) -> None:
    store.register(target)
    name = f"spool-test-{os.getpid()}" if is_abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}" if is_abstract else name)
        manager.settimeout(120)
        asked = {
            "NOTIFY_SOCKET": f"@{name}" if is_abstract else name, "WATCHDOG_USEC": "300000",
        }  # fmt: skip
        with running(**asked) as sidecar:
            assert manager.recv(1000).decode() == f"STATUS=draining {store.database.path}"
            assert manager.recv(1000) == b"READY=1"
            assert [manager.recv(1000) for _ in range(3)] == [b"WATCHDOG=1"] * 3
            sidecar.process.send_signal(signal.SIGTERM)
            while (said := manager.recv(1000)) == b"WATCHDOG=1":
                pass
            assert said == b"STOPPING=1"
            assert sidecar.process.wait(120) == 0


def test_what_others_have_is_said_missing_only_here(store: Store, target: Target) -> None:
    store.append(target, batch("a"), 1.0)
    store.append(OTHERS, batch("a"), 1.0)
    with running() as sidecar:
        sidecar.wait_for("route pk-lf-others: its spans wait")
        assert "route pk-lf-test: its spans wait" not in sidecar.log
        sidecar.end()


def test_systemd_hears_nothing_while_the_drainer_does_not_move(
    path: Path, tmp_path: Path, environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    moving = iter([False, False, True])
    asked: list[bool] = []

    def is_moving(_: Presence) -> bool:
        asked.append(next(moving, True))
        return asked[-1]

    monkeypatch.setattr(Presence, "is_moving", is_moving)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "30000")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(120)
        sidecar = Sidecar(OpenSpool(None, "run"))
        sidecar.start()
        assert manager.recv(1000) == b"WATCHDOG=1"
        sidecar.stop(60)
    assert asked[:3] == [False, False, True]


def test_what_many_routes_lack_is_one_line_and_looked_at_only_when_something_has_changed(
    store: Store,
    langfuse: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    looks: list[None] = []
    reads: list[None] = []
    see, read = drainers.seen, Store.waiting

    def seen(one: Store) -> tuple[SeenDrainer, ...]:
        looks.append(None)
        return see(one)

    def waiting(one: Store) -> list[Route]:
        reads.append(None)
        return read(one)

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(drainers, "seen", seen)
    monkeypatch.setattr(Store, "waiting", waiting)
    monkeypatch.setenv("WATCHDOG_USEC", "30000")  # it looks often
    for number in range(20):
        store.append(Target.langfuse(f"pk-lf-{number}", "-", langfuse.url), batch("a"), 1.0)
    sidecar = Sidecar(OpenSpool(None, "run"))
    sidecar.start()
    wait_until(lambda: len(looks) > 20)
    assert len(reads) < 3, "only now and then, unless something has changed"
    store.append(Target.langfuse("pk-lf-new", "-", langfuse.url), batch("a"), 1.0)
    wait_until(lambda: "route pk-lf-new: its spans wait" in caplog.text)
    sidecar.stop(60)
    (many,) = [one for one in caplog.messages if "their spans wait" in one]
    assert many.startswith(
        "langfuse-spool: 20 routes: their spans wait: pk-lf-0, pk-lf-1, pk-lf-2, …; of pk-lf-0: "
        "its secret is not known here; "
    )


def test_what_waits_of_many_routes_and_that_all_secrets_came_is_one_line_each(
    store: Store,
    langfuse: StandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    names = [f"pk-lf-{number}" for number in range(11)]
    for name in names:
        store.append(Target.langfuse(name, "-", langfuse.url), batch("a"), 1.0)
    credentials = tmp_path / "credentials"
    credentials.touch(0o600)
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("SPOOL_CREDENTIALS_FILE", str(credentials))
    monkeypatch.setenv("WATCHDOG_USEC", "30000")  # it looks often
    monkeypatch.setattr("spool.commands.sidecar._AN_HOUR", 0)
    sidecar = Sidecar(OpenSpool(None, "run"))
    sidecar.start()
    wait_until(lambda: "11 routes: their spans wait: " in caplog.text)
    new = tmp_path / "new"
    new.touch(0o600)
    new.write_text("".join(f"{name}: - {langfuse.url}\n" for name in names))
    new.rename(credentials)
    wait_until(lambda: "a secret any more" in caplog.text)
    sidecar.stop(60)
    said = "11 routes: nothing of them (pk-lf-0, pk-lf-1, pk-lf-2, …) lacks a secret any more"
    assert [one for one in caplog.messages if "any more" in one] == [f"langfuse-spool: {said}"]
    assert re.search(r": 11 routes: 11 spans \(.*\) waiting, the oldest for ", caplog.text)
    assert " route pk-lf-0: " not in caplog.text


def test_a_watchdog_of_another_process_is_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    assert service_manager.watchdog_seconds() == 30
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert service_manager.watchdog_seconds() is None
