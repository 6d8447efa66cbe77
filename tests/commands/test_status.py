from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

import standin
from drains import evict
from spans import batch
from spool.commands.main import commands
from spool.settings.target import Target
from spool.store.store import Store
from spool.system import disk
from standin import StandIn
from users import invoke, spool

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
    assert "! route pk-lf-test is held" in said
    assert ": the receiver refuses the keys (401 no such key); correct the keys" in said
    assert json.loads(spool("status", "--json", code=1).stdout)["routes"][0]["state"] == "held"


def test_status_tells_of_a_receiver_that_refuses_everything(
    filled: Store, langfuse: StandIn
) -> None:
    langfuse.behave(standin.status(422, body="no such span"))
    assert "422 no such span" in spool("drain", code=1).stderr
    said = spool("status", code=1).stdout
    assert (
        ": every span is refused (422 no such span), so it is hardly the spans; check the host"
        in said
    )
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
    assert "! spans were, until 23 h 53 min ago, evicted, the oldest 1, which are lost: " in said
    assert "refused, " not in said


def test_status_tells_for_a_day_that_the_file_was_damaged(filled: Store, path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(8192)
    assert "SQLite says" in spool("status", code=1).stderr
    spool("drain")
    assert "! the file was damaged and salvaged, no span known to be lost" in (
        spool("status", code=1).stdout
    )


def test_status_needs_no_credentials(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LANGFUSE_PUBLIC_KEY")
    monkeypatch.delenv("LANGFUSE_SECRET_KEY")
    assert "pending  10 spans wait" in spool("status", code=1).stdout


def test_status_tells_prometheus_what_it_knows(filled: Store) -> None:
    pytest.importorskip("prometheus_client")
    said = spool("status", "--prometheus", code=1).stdout
    assert "\nlangfuse_spool_ok 0.0\n" in said
    assert '\nlangfuse_spool_pending_spans{route="pk-lf-test"} 10.0\n' in said
    assert said.endswith("\n"), "as the textfile collector wants it"


def test_status_tells_prometheus_of_a_spool_that_is_not_there(path: Path) -> None:
    pytest.importorskip("prometheus_client")
    said = spool("status", "--prometheus", code=2).stdout
    assert "\nlangfuse_spool_exists 0.0\n" in said
    assert "\nlangfuse_spool_ok 0.0\n" in said
    assert '\nlangfuse_spool_concerns{code="no-spool"} 1.0\n' in said


def test_status_tells_prometheus_of_a_spool_that_cannot_be_read(filled: Store, path: Path) -> None:
    pytest.importorskip("prometheus_client")
    filled.close()
    path.write_bytes(b"no database " * 1000)
    done = invoke("status", "--prometheus", code=1)
    assert "\nlangfuse_spool_exists 1.0\n" in done.stdout
    assert "\nlangfuse_spool_ok 0.0\n" in done.stdout
    assert '\nlangfuse_spool_concerns{code="unusable"} 1.0\n' in done.stdout
    assert str(path) in done.stderr


def test_status_says_since_when_why_what_to_do_and_until_when(
    filled: Store, langfuse: StandIn
) -> None:
    langfuse.stop()
    invoke("drain", code=1)
    said = invoke("status", code=1).stdout
    host = re.escape(langfuse.url.rpartition("/")[2])
    assert re.search(rf"waiting.*: nobody listens at {host} — start the server", said)
    assert re.search(r"10 spans wait \(.* KiB\), the oldest for \d+ d .*; fresh ones wait", said)
    assert re.search(r"next attempt (now|in .*), once somebody drains, \d attempts? so far, ", said)
    assert "evicted" not in said
    assert "evicted 0" in invoke("status", "-v", code=1).stdout


def test_status_in_json_says_all_that_the_screen_does(filled: Store, langfuse: StandIn) -> None:
    langfuse.behave(standin.too_many(600))
    invoke("drain", "--timeout", "0.5", code=1)
    done = invoke("status", "--json", code=1)
    assert done.stderr == ""
    said = json.loads(done.stdout)
    (route,) = said["routes"]
    assert (route["cause"], said["ok"], said["exists"]) == ("asked-to-wait", False, True)
    times = [route[name] for name in ("since", "next_attempt_at", "oldest_at")]
    assert times == sorted(times, key=times.index)
    assert all(datetime.fromisoformat(at).tzinfo for at in times)
    assert route["since_seconds"] < 300
    assert set(said["concerns"][0]) == {"code", "words", "remedy"}
    assert said["disk"]["state"] == "ok"
    assert said["disk"]["free_bytes"] > 0


def test_after_a_backlog_was_adopted_nothing_is_ok_beside_an_old_error(
    filled: Store, langfuse: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    langfuse.behave(standin.status(401))
    invoke("drain", code=1)
    monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", "pk-lf-other")
    langfuse.keys["pk-lf-other"] = "sk-lf-test"
    invoke("adopt", "pk-lf-test", "--yes")
    said = json.loads(invoke("status", "--json", code=1).stdout)
    old = next(route for route in said["routes"] if route["route"] == "pk-lf-test")
    assert (old["state"], old["last_error"], old["cause"]) == ("ok", None, None)


def test_a_spool_that_does_not_exist_is_json_all_the_same(path: Path) -> None:
    said = json.loads(invoke("status", "--json", code=2).stdout)
    assert (said["exists"], said["ok"], said["path"]) == (False, False, str(path))
    assert [one["code"] for one in said["concerns"]] == ["no-spool"]
    assert not path.parent.exists()


def test_status_tells_that_no_spool_can_be_made_and_why(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "free", lambda _: (1 << 30, True))
    said = invoke("status", code=2).output
    assert f"none can be made there: the disk of {path.parent.parent} is read-only" in said


def test_of_many_routes_one_screen_is_shown_and_with_v_or_to_programs_each(
    store: Store, langfuse: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(100):
        theirs = Target.langfuse(f"pk-lf-{number}", "sk-lf", langfuse.url)
        store.append(theirs, batch("a"), now=1_700_000_000.0)
    store.close()
    said = invoke("status", code=1).stdout
    assert len(said.splitlines()) <= 12
    assert f"\nroutes   100 → {langfuse.endpoint}: pk-lf-0, pk-lf-1, pk-lf-2, …\n" in said
    assert "\n         no-secret: its secret is not known here\n" in said
    assert "\n         100 spans wait (" in said
    assert " `python -m spool adopt pk-lf-0` — and 99 more routes like it (-v)\n" in said
    each = invoke("status", "-v", code=1).stdout
    assert each.count("\nroute    pk-lf-") == each.count("\n! route pk-lf-") == 100
    found = json.loads(invoke("status", "--json", code=1).stdout)
    assert len(found["routes"]) == 100
    assert [one["code"] for one in found["concerns"]].count("no-secret") == 100
    assert all(set(one) == {"code", "words", "remedy"} for one in found["concerns"])


def test_of_many_hosts_a_few_are_shown_those_with_most_first(store: Store) -> None:
    for number in range(15):
        theirs = Target.langfuse(f"pk-lf-{number}", "sk-lf", f"https://{number}.example")
        store.append(theirs, batch(*"ab"[: 1 + (number > 12)]), now=1_700_000_000.0)
    store.close()
    said = invoke("status", code=1).stdout
    shown = re.findall(r"^route    (\S+) →", said, re.MULTILINE)
    assert len(shown) == 10
    assert shown[:2] == ["pk-lf-13", "pk-lf-14"]
    assert "\nroute    and 5 more that stand otherwise (-v)\n" in said
    assert "\n! 5 more routes of other kinds need you (-v)\n" in said


def test_watch_looks_again_until_it_is_interrupted_and_writes_no_escapes_to_a_pipe(
    filled: Store,
) -> None:
    command = [sys.executable, "-m", "spool", "status", "--watch"]
    # What runs in the background may have been told not to mind it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        watching = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    with watching:
        assert watching.stdout is not None
        looks = 0
        said = []
        while looks < 2:
            said.append(line := watching.stdout.readline())
            assert line, said
            looks += line.startswith("! 10 spans wait")
        watching.send_signal(signal.SIGINT)
        assert watching.wait(60) == 1
    assert "\033" not in "".join(said)


@pytest.mark.parametrize(("variables", "is_coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colour_is_for_terminals_and_not_where_no_color_is_set(
    filled: Store, variables: dict[str, str], *, is_coloured: bool
) -> None:
    done = CliRunner().invoke(commands, ["status"], env=variables, color=True)
    assert ("\033[31m! 10 spans wait" in done.stdout) is is_coloured
