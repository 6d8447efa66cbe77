from __future__ import annotations

import json
import os
import sys

import pytest

import standin
from spool.settings.target import Target
from spool.store import route_waits
from spool.store.store import Store
from standin import StandIn
from users import spool


def test_drain_delivers_all_and_says_so(filled: Store, langfuse: StandIn) -> None:
    assert spool("drain").stdout.startswith("delivered 10 spans in 1 requests")
    assert langfuse.accepted == 10


def test_drain_prints_the_public_json(filled: Store) -> None:
    result = json.loads(spool("drain", "--json").stdout)
    assert set(result) == {"delivered", "requests", "pending", "dead", "seconds"}
    assert (result["delivered"], result["pending"], result["dead"]) == (10, 0, 0)


def test_drain_with_the_endpoint_down_leaves_all_and_exits_with_1(
    filled: Store, langfuse: StandIn
) -> None:
    langfuse.stop()
    done = spool("drain", code=1)
    assert "delivered 0 spans" in done.stdout
    assert "10 spans wait" in done.stderr
    assert "nobody listens" in done.stderr


def test_drain_tries_on_until_its_timeout(filled: Store, langfuse: StandIn) -> None:
    langfuse.behave(standin.sequence([standin.unavailable()] * 8 + [None]))
    assert "delivered 10 spans" in spool("drain", "--timeout", "60").stdout


def test_a_program_that_names_no_host_does_not_take_a_backlog_elsewhere(
    filled: Store, langfuse: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.register(Target.langfuse("pk-lf-test", "sk-lf-test"))
    filled.close()
    monkeypatch.delenv("LANGFUSE_HOST")
    assert "delivered 10 spans" in spool("drain").stdout
    assert langfuse.accepted == 10


def test_drain_ignores_a_backoff_that_is_running(
    filled: Store, store: Store, langfuse: StandIn
) -> None:
    route_waits.wait(store.database, store.routes()[0], 3600, now=1e12, reason="503")
    store.close()
    assert "delivered 10 spans" in spool("drain").stdout


def test_drain_tries_a_held_route_once(filled: Store, langfuse: StandIn) -> None:
    langfuse.behave(standin.status(401, body=b"no such key"))
    assert "401 no such key" in spool("drain", code=1).stderr
    assert len(langfuse.requests) == 1


def test_drain_exits_with_1_for_dead_letters_that_it_made(filled: Store, langfuse: StandIn) -> None:
    langfuse.behave(standin.reject_span("s3"))
    result = json.loads(spool("drain", "--json", code=1).stdout)
    assert (result["delivered"], result["pending"], result["dead"]) == (9, 0, 1)
    spool("drain")


def test_drain_names_a_route_whose_secret_it_has_not(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", "pk-lf-other")
    assert "pk-lf-test: 10 spans wait: its secret is not known" in spool("drain", code=1).stderr


def test_drain_uses_the_stored_endpoint_where_the_environment_names_none(
    filled: Store, monkeypatch: pytest.MonkeyPatch, langfuse: StandIn
) -> None:
    monkeypatch.delenv("LANGFUSE_HOST")
    spool("drain")
    assert langfuse.accepted == 10


def test_drain_shows_its_progress_on_a_terminal(filled: Store) -> None:
    import pty

    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-m", "spool", "drain"])
    shown = b""
    try:
        while chunk := os.read(terminal, 4096):
            shown += chunk
    except OSError:  # the terminal's other side was closed
        pass
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert b"draining" in shown
    assert b"100%" in shown
