from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

import standin
from drains import evict
from spans import batch
from spool.commands.main import main
from spool.settings.target import Target
from spool.store.store import Store
from standin import StandIn


@pytest.fixture(autouse=True)
def environment(path: Path, langfuse: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name spool and stand-in as a user would."""
    monkeypatch.setenv("SPOOL_PATH", str(path))
    monkeypatch.setenv("SPOOL_BACKOFF_SECONDS", "0.01..0.02")
    monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", "pk-lf-test")
    monkeypatch.setenv("LANGFUSE_SECRET_KEY", "sk-lf-test")
    monkeypatch.setenv("LANGFUSE_HOST", langfuse.url)


@pytest.fixture
def filled(store: Store, target: Target) -> Store:
    """Hold ten spans for the stand-in."""
    for number in range(10):
        store.append(target, batch(f"s{number}"), now=1_700_000_000.0)
    store.close()
    return store


def spool(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command; it never shows a traceback and exits with `code`."""
    done = subprocess.run(
        [sys.executable, "-m", "spool", *arguments], capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == code, (done.stdout, done.stderr)
    return done


COMMANDS = [
    ["drain"], ["drain", "--json"], ["status"], ["status", "--json"], ["peek"], ["peek", "--json"],
    ["adopt", "pk-lf-x"], ["dead", "list"], ["dead", "show", "1"], ["dead", "retry", "--all"],
    ["dead", "purge", "--all"],
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_spool_that_does_not_exist_is_well_and_is_not_created(
    command: list[str], path: Path
) -> None:
    done = spool(*command)
    assert f"no spool yet at {path}" in done.stderr
    assert not path.parent.exists()


def test_drain_delivers_all_and_says_so(filled: Store, langfuse: StandIn) -> None:
    assert spool("drain").stdout.startswith("delivered 10 spans in 1 requests")
    assert langfuse.accepted == 10


def test_drain_prints_the_public_json(filled: Store) -> None:
    result = json.loads(spool("drain", "--json").stdout)
    assert set(result) == {"delivered", "requests", "pending", "dead", "seconds"}
    assert (result["delivered"], result["pending"], result["dead"]) == (10, 0, 0)


def test_the_path_can_be_given(filled: Store, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPOOL_PATH")
    assert "delivered 10 spans" in spool("--path", str(path), "drain").stdout


def test_drain_with_the_endpoint_down_leaves_all_and_exits_with_1(
    filled: Store, langfuse: StandIn
) -> None:
    langfuse.stop()
    done = spool("drain", code=1)
    assert "delivered 0 spans" in done.stdout
    assert "10 spans wait" in done.stderr
    assert "refused" in done.stderr


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
    store.wait(store.routes()[0], 3600, now=1e12, reason="503")
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


def test_status_has_the_public_keys(filled: Store, path: Path, langfuse: StandIn) -> None:
    said = json.loads(spool("status", "--json", code=1).stdout)
    assert list(said) == [
        "path", "file_bytes", "max_bytes", "pending", "ledger", "drainer", "routes"
    ]  # fmt: skip
    assert said["path"] == str(path)
    assert list(said["pending"]) == ["spans", "batches", "bytes", "oldest_seconds"]
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
        "last_error", "last_success_seconds", "pending_spans",
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
    assert "is held: 401 no such key" in spool("status", code=1).stdout
    assert json.loads(spool("status", "--json", code=1).stdout)["routes"][0]["state"] == "held"


def test_status_tells_of_a_receiver_that_refuses_everything(
    filled: Store, langfuse: StandIn
) -> None:
    langfuse.behave(standin.status(422, body="no such span"))
    assert "422 no such span" in spool("drain", code=1).stderr
    said = spool("status", code=1).stdout
    assert "is held: 422 no such span; correct the host or the headers, or what stands" in said
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
    assert "wait: its secret is not known here" in spool("status", code=1).stdout


def test_status_tells_of_dead_letters(filled: Store, langfuse: StandIn) -> None:
    langfuse.behave(standin.reject_span("s3"))
    spool("drain", code=1)
    assert "1 spans are dead letters" in spool("status", code=1).stdout


def test_status_tells_for_a_day_that_spans_were_evicted_or_refused(filled: Store) -> None:
    evict(filled, 1, time.time() - 86_000)
    filled.refuse(3)
    filled.count_refused(time.time() - 90_000)
    filled.close()
    said = spool("status", code=1).stdout
    assert "! spans are evicted, 1 in all" in said
    assert "are refused" not in said


def test_status_tells_for_a_day_that_the_file_was_damaged(filled: Store, path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(8192)
    assert "SQLite says" in spool("status", code=1).stderr
    spool("drain")
    assert "! the file was damaged and salvaged, 0 spans are known to be lost" in (
        spool("status", code=1).stdout
    )


def test_status_needs_no_credentials(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LANGFUSE_PUBLIC_KEY")
    monkeypatch.delenv("LANGFUSE_SECRET_KEY")
    assert "pending  10 spans" in spool("status", code=1).stdout


def test_run_ends_when_it_is_told_to_in_the_moment_that_it_goes_on(filled: Store) -> None:
    command = [sys.executable, "-m", "spool", "run"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as sidecar:
        assert sidecar.stderr is not None
        sidecar.stderr.readline()
        for number in (signal.SIGSTOP, signal.SIGCONT, signal.SIGTERM):
            sidecar.send_signal(number)
        assert sidecar.wait(120) == 0


def test_run_drains_until_it_is_told_to_stop(
    filled: Store, store: Store, langfuse: StandIn
) -> None:
    command = [sys.executable, "-m", "spool", "run"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as sidecar:
        langfuse.wait_for(lambda server: server.accepted == 10)
        said = json.loads(spool("status", "--json").stdout)
        assert said["drainer"] == {"running": True, "pid": sidecar.pid}
        sidecar.send_signal(signal.SIGTERM)
    assert sidecar.returncode == 0
    assert store.ledger().delivered == 10


def test_peek_shows_pending_spans_and_leaves_them(filled: Store, store: Store) -> None:
    lines = spool("peek", "-n", "3").stdout.splitlines()
    assert [line.split()[-1] for line in lines] == ["s0", "s1", "s2"]
    shown = json.loads(spool("peek", "--json").stdout)
    assert len(shown) == 10
    assert set(shown[0]) == {"time", "trace_id", "span_id", "name", "bytes"}
    assert len(shown[0]["trace_id"]) == 32
    assert store.ledger().pending == 10


def test_adopt_gives_a_backlog_to_the_current_credentials(store: Store, langfuse: StandIn) -> None:
    theirs = Target.langfuse("pk-lf-theirs", "sk-lf-theirs", langfuse.url)
    store.append(theirs, batch("theirs"), now=1.0)
    store.close()
    assert (
        "1 spans of pk-lf-theirs now wait for pk-lf-test" in spool("adopt", "pk-lf-theirs").stdout
    )
    spool("drain")
    assert langfuse.names()["theirs"] == 1


def test_adopt_names_the_routes_there_are(filled: Store, store: Store, langfuse: StandIn) -> None:
    store.register(Target.langfuse("pk-lf-theirs", "sk-lf-theirs", langfuse.url))
    store.close()
    done = spool("adopt", "pk-lf-typo", code=2)
    assert "ROUTE=pk-lf-typo: must be another route of this spool: pk-lf-theirs" in done.stderr


def test_dead_letters_can_be_listed_shown_retried_and_purged(
    filled: Store, store: Store, langfuse: StandIn
) -> None:
    langfuse.behave(standin.reject_span("s3"))
    spool("drain", code=1)
    assert "400 cannot take the span s3" in spool("dead", "list").stdout
    assert 'name: "s3"' in spool("dead", "show", "1").stdout
    assert "1 spans are pending again" in spool("dead", "retry", "1").stdout
    # Alone it is no worse than the server.
    assert "400 cannot take the span s3" in spool("drain", code=1).stderr
    store.append(Target.langfuse("pk-lf-test", "sk-lf-test", langfuse.url), batch("s10"), now=1.0)
    store.close()
    spool("drain", code=1)
    assert "1 spans were purged" in spool("dead", "purge", "--all").stdout
    ledger = store.ledger()
    assert (ledger.delivered, ledger.purged, ledger.dead, ledger.pending) == (10, 1, 0, 0)


def test_a_revived_dead_letter_is_delivered_when_the_server_takes_it(
    filled: Store, langfuse: StandIn
) -> None:
    langfuse.behave(standin.reject_span("s3"))
    spool("drain", code=1)
    langfuse.behave(None)
    spool("dead", "retry", "--all")
    spool("drain")
    assert langfuse.accepted == 10


@pytest.mark.parametrize("command", ["retry", "purge"])
def test_dead_letters_must_be_named_or_all_be_meant(filled: Store, command: str) -> None:
    assert "name the IDs, or give --all" in spool("dead", command, code=2).stderr
    assert "no dead letter has the ID 7" in spool("dead", command, "7", code=2).stderr


WRONG_VALUES = [
    ("SPOOL_DRAIN", "maybe", "on or off"),
    ("SPOOL_MAX_BYTES", "lots", "a size"),
    ("SPOOL_WHEN_FULL", "explode", "drop-oldest or drop-newest"),
    ("SPOOL_SYNC_SECONDS", "-1", "0 or more"),
    ("SPOOL_BACKOFF_SECONDS", "60..1", "1..60"),
    ("SPOOL_TIMEOUT_SECONDS", "soon", "more than 0"),
    ("OTEL_EXPORTER_OTLP_COMPRESSION", "deflate", "gzip or none"),
]


@pytest.mark.parametrize(("variable", "value", "allowed"), WRONG_VALUES)
def test_a_wrong_value_is_one_line_that_names_it_and_the_way_out(
    variable: str, value: str, allowed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    (line,) = spool("status", code=2).stderr.splitlines()
    assert f"{variable}={value}" in line
    assert allowed in line


def test_one_key_without_the_other_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LANGFUSE_SECRET_KEY")
    (line,) = spool("drain", code=2).stderr.splitlines()
    assert "LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY must be set" in line


def test_a_file_that_is_no_database_is_one_line(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("a shopping list\n" * 1000)
    for command in COMMANDS:
        (line,) = spool(*command, code=2).stderr.splitlines()
        assert str(path) in line
    assert [file.name for file in path.parent.iterdir()] == ["spool.db"]


def test_another_applications_database_is_one_line_and_stays_as_it_was(path: Path) -> None:
    path.parent.mkdir()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE theirs (x)")
    other.commit()
    other.close()
    before = path.read_bytes()
    for command in COMMANDS:
        (line,) = spool(*command, code=2).stderr.splitlines()
        assert "another application" in line or "not a spool" in line
    assert path.read_bytes() == before


def test_a_path_below_a_file_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SPOOL_PATH", str(tmp_path / "file" / "spool.db"))
    (line,) = spool("run", code=2).stderr.splitlines()
    assert f"{tmp_path}/file" in line


def test_a_directory_without_rights_is_one_line(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir(mode=0o500)
    said = tmp_path / "said"
    pid = os.fork()
    if pid == 0:
        sys.stderr = said.open("w")
        if os.geteuid() == 0:  # who may write anywhere
            os.setuid(65534)
        sys.argv = ["spool", "run"]
        try:
            main()
        except SystemExit as exiting:
            sys.stderr.flush()
            os._exit(int(exiting.code or 0))
        os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 2
    (line,) = said.read_text().splitlines()
    assert str(path) in line
    assert "SPOOL_PATH" in line


EVIL = "\x1b]0;owned\x07\x9b2J\r\nline two \u202e"


def test_nothing_that_spans_keys_and_servers_say_reaches_the_terminal_raw(
    store: Store, target: Target, langfuse: StandIn
) -> None:
    theirs = Target.langfuse(f"pk{EVIL}", "sk-lf-theirs", langfuse.url)
    store.append(theirs, batch(f"span{EVIL}"), now=1_700_000_000.0)
    store.append(target, batch(f"dead{EVIL}"), now=1_700_000_000.0)
    take = store.oldest(2, max_bytes=1 << 20, max_spans=8)
    assert take is not None
    store.settle(take, now=1.0, dead=1, reason=f"400{EVIL}")
    store.wait(store.routes()[0], 3600, now=1e12, reason=f"503{EVIL}")
    store.close()
    commands = [
        ["status"], ["peek"], ["dead", "list"], ["dead", "show", "1"], ["adopt", f"no{EVIL}"],
        ["drain"], ["adopt", theirs.route], ["dead", "retry", "1"],
    ]  # fmt: skip
    said = ""
    for command in commands:
        code = {"status": 1, "drain": 1, f"no{EVIL}": 2}.get(command[-1], 0)
        done = spool(*command, code=code)
        said += done.stdout + done.stderr
    assert {c for c in said if not c.isprintable()} == {"\n"}
    assert not any(line.startswith("line two") for line in said.splitlines())
    assert r"span\x1b]0;owned\x07\x9b2J\r\nline two \u202e" in said


def test_json_tells_everything_as_it_is(store: Store, langfuse: StandIn) -> None:
    theirs = Target.langfuse(f"pk{EVIL}", "sk-lf-theirs", langfuse.url)
    store.append(theirs, batch(f"span{EVIL}"), now=1_700_000_000.0)
    store.close()
    (shown,) = json.loads(spool("peek", "--json").stdout)
    assert shown["name"] == f"span{EVIL}"
    status = spool("status", "--json", code=1).stdout
    assert json.loads(status)["routes"][0]["route"] == theirs.route
    assert {c for c in status if not c.isprintable()} == {"\n"}


def test_what_a_process_has_in_its_journal_is_shown_adopted_and_drained(
    store: Store, target: Target, langfuse: StandIn
) -> None:
    stranded = Target.langfuse("pk-lf-old", "sk-lf-old", langfuse.url)
    store.open()
    store.accept(target, batch("a"), now=1_700_000_000.0)
    store.accept(stranded, batch("b"), now=1_700_000_000.0)
    assert json.loads(spool("status", "--json", code=1).stdout)["pending"]["spans"] == 2
    assert [one["name"] for one in json.loads(spool("peek", "--json").stdout)] == ["a", "b"]
    assert store.pending() == [], "reading moves nothing"
    assert spool("adopt", "pk-lf-old").stdout.startswith("1 spans")
    assert spool("drain").stdout.startswith("delivered 2 spans")
    assert set(langfuse.names()) == {"a", "b"}
