from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

import standin
from drains import evict
from spool.store.store import Store
from standin import StandIn
from users import spool

pytestmark = pytest.mark.once


def test_status_has_the_public_keys(filled: Store, path: Path, langfuse: StandIn) -> None:
    said = json.loads(spool("status", "--json", code=1).stdout)
    assert list(said) == [
        "path", "file_bytes", "max_bytes", "pending", "ledger", "drainer", "routes", "exists",
        "ok", "concerns", "version", "used_bytes", "disk", "drainers",
    ]  # fmt: skip
    assert said["path"] == str(path)
    assert list(said["pending"]) == [
        "spans", "batches", "bytes", "oldest_seconds", "oldest_at"
    ]  # fmt: skip
    assert (said["pending"]["spans"], said["pending"]["batches"]) == (10, 10)
    assert said["pending"]["oldest_seconds"] > 1e6
    assert list(said["ledger"]) == [
        "accepted", "imported", "delivered", "dead", "evicted", "purged", "exported", "damaged",
        "pending", "refused", "in_memory",
    ]  # fmt: skip
    assert said["drainer"] == {"running": False, "pid": None}
    (route,) = said["routes"]
    assert list(route) == [
        "route", "endpoint", "public_key", "state", "attempts", "next_attempt_seconds",
        "last_error", "last_success_seconds", "pending_spans", "pending_bytes", "oldest_at",
        "cause", "since", "since_seconds", "next_attempt_at", "last_success_at",
    ]  # fmt: skip
    assert (route["route"], route["public_key"]) == ("pk-lf-test", "pk-lf-test")
    assert (route["endpoint"], route["state"]) == (langfuse.endpoint, "ok")


def test_status_is_well_after_a_drain(filled: Store) -> None:
    spool("drain")
    assert "delivered 10" in spool("status").stdout


def test_status_tells_of_spans_that_nobody_drains(filled: Store) -> None:
    assert "! 10 spans wait and no process drains" in spool("status", code=1).stdout


def test_status_tells_of_a_held_route(filled: Store, langfuse: StandIn) -> None:
    langfuse.behave(standin.status(401, body=b"no such key"))
    spool("drain", code=1)
    said = spool("status", code=1).stdout
    assert "! route pk-lf-test is held for " in said
    assert "s: the receiver refuses the keys (401 no such key); correct the keys" in said
    assert json.loads(spool("status", "--json", code=1).stdout)["routes"][0]["state"] == "held"


def test_status_tells_of_a_receiver_that_refuses_everything(
    filled: Store, langfuse: StandIn
) -> None:
    langfuse.behave(standin.status(422, body="no such span"))
    assert "422 no such span" in spool("drain", code=1).stderr
    said = spool("status", code=1).stdout
    assert ": every span is refused (422 no such span); correct the host or the headers" in said
    (route,) = json.loads(spool("status", "--json", code=1).stdout)["routes"]
    assert (route["state"], route["last_error"]) == ("held", "422 no such span")


def test_status_tells_of_a_route_in_backoff(filled: Store, langfuse: StandIn) -> None:
    langfuse.behave(standin.too_many(600))
    spool("drain", "--timeout", "0.5", code=1)
    (route,) = json.loads(spool("status", "--json", code=1).stdout)["routes"]
    assert (route["state"], route["attempts"]) == ("waiting", 1)
    assert 500 < route["next_attempt_seconds"] <= 600


def test_status_tells_of_a_missing_secret(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", "pk-lf-other")
    assert "10 spans wait: its secret is not known here" in spool("status", code=1).stdout


def test_status_tells_of_dead_letters(filled: Store, langfuse: StandIn) -> None:
    langfuse.behave(standin.reject_span("s3"))
    spool("drain", code=1)
    assert "1 span is a dead letter" in spool("status", code=1).stdout


def test_status_tells_for_a_day_that_spans_were_evicted_or_refused(filled: Store) -> None:
    evict(filled, 1, time.time() - 86_000)
    filled.refuse(3)
    filled.count_refused(time.time() - 90_000)
    filled.close()
    said = spool("status", code=1).stdout
    assert "! spans are evicted, 1 in all, the oldest: the limit of 1.0 GiB is used by " in said
    assert "are refused" not in said


def test_status_tells_for_a_day_that_the_file_was_damaged(filled: Store, path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(8192)
    assert "SQLite says" in spool("status", code=1).stderr
    spool("drain")
    assert "! the file was damaged and salvaged, with 0 spans known to be lost" in (
        spool("status", code=1).stdout
    )


def test_status_needs_no_credentials(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LANGFUSE_PUBLIC_KEY")
    monkeypatch.delenv("LANGFUSE_SECRET_KEY")
    assert "pending  10 spans wait" in spool("status", code=1).stdout


def test_status_tells_prometheus_what_it_knows(filled: Store) -> None:
    said = spool("status", "--prometheus", code=1).stdout
    assert "\nlangfuse_spool_ok 0.0\n" in said
    assert '\nlangfuse_spool_pending_spans{route="pk-lf-test"} 10.0\n' in said
    assert said.endswith("\n"), "as the textfile collector wants it"


def test_status_tells_prometheus_of_a_spool_that_is_not_there(path: Path) -> None:
    assert "\nlangfuse_spool_exists 0.0\n" in spool("status", "--prometheus", code=2).stdout
