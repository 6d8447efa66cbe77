"""`history` tells the whole story of an outage, and what else becomes of spans and their file."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import ports
from programs import SIMPLE, line_of, talking
from spans import batch
from spool import SpoolSpanExporter
from spool.settings.settings import Settings
from spool.settings.target import Target
from spool.store import route_waits
from spool.store.maintenance import Maintenance
from spool.store.store import Store
from standin import StandIn
from stores import drop_history, route_of, take_of
from users import invoke
from waits import wait_until

pytestmark = pytest.mark.once


def told(*options: str) -> list[dict[str, Any]]:
    """Give the events, without those that say who drains."""
    shown = json.loads(invoke("history", "--json", *options).stdout)
    return [one for one in shown["events"] if one["kind"] != "drained"]


def troubles() -> list[tuple[str, bool]]:
    """Give the troubles, and whether each has ended."""
    return [(one["kind"], one["end"] is not None) for one in told()]


WRITER = (
    SIMPLE
    + """
import sys
for line in sys.stdin:
    tracer.start_span("call").end()
    print("ended", flush=True)
"""
)


def write_one(writer: subprocess.Popen[str]) -> None:
    assert writer.stdin is not None
    writer.stdin.write("\n")
    writer.stdin.flush()
    assert line_of(writer) == "ended"


def test_an_outage_is_told_from_its_begin_to_its_end_over_a_kill(
    langfuse: StandIn, monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    port = ports.free_port()
    monkeypatch.setenv("LANGFUSE_HOST", f"http://127.0.0.1:{port}")
    for _ in range(2):  # the second finds what the first one left
        with talking(sys.executable, "-c", WRITER) as writer:
            write_one(writer)
            wait_until(lambda: store.exists() and troubles() == [("down", False)], every=0.1)
            writer.send_signal(signal.SIGKILL)
    with StandIn(port=port) as again, talking(sys.executable, "-c", WRITER) as writer:
        write_one(writer)
        wait_until(lambda: len(again.spans) == 3, every=0.05)
        wait_until(lambda: troubles() == [("down", True)], every=0.1)
    (event,) = told()
    assert event["begin"] < event["end"]
    assert event["spans"] >= 2
    assert event["told"].endswith("spans waited, all delivered since")
    (line,) = [said for said in invoke("history").stdout.splitlines() if " down" in said]
    assert "route pk-lf-test was down" in line
    assert "drained by an application" in invoke("history").stdout


def test_many_processes_meet_one_outage(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    monkeypatch.setenv("LANGFUSE_HOST", f"http://127.0.0.1:{ports.free_port()}")
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(talking(sys.executable, "-c", WRITER)) for _ in range(4)]
        for writer in writers:
            write_one(writer)
        wait_until(lambda: any(route.attempts > 5 for route in store.routes()), every=0.1)
        assert troubles() == [("down", False)]


def test_an_outage_is_told_after_a_salvage(store: Store, path: Path, target: Target) -> None:
    store.append(target, batch("a"), now=time.time())
    route_waits.wait(store.database, route_of(store, target), 1.0, time.time(), "503 later")
    store.database.checkpoint()
    store.close()
    with path.open("r+b") as file:  # the salt, among others
        file.seek(4096 * 4)
        file.write(b"\xff" * 4096)
    with contextlib.suppress(Exception):
        store.ledger()
    store.open()
    store.close()
    down, damaged = told()
    assert (down["kind"], down["words"]) == ("down", "503 later")
    assert damaged["kind"] == "damaged"
    assert "known to be lost" in damaged["told"]


def test_what_is_evicted_is_told(path: Path, target: Target, store: Store) -> None:
    settings = Settings(path=path, target=target, max_bytes=1 << 20, drain=False)
    for number in range(30):
        store.append(target, batch(f"s{number}", size=100_000), now=float(number))
    Maintenance(store, settings).keep()
    store.close()
    (event,) = told()
    assert (event["kind"], event["words"]) == ("evicted", "SPOOL_MAX_BYTES was reached")
    assert event["spans"] == store.ledger().evicted > 10
    assert "evicted, the oldest first: SPOOL_MAX_BYTES was reached" in invoke("history").stdout


def test_a_drain_by_hand_is_told_with_its_spans(filled: Store) -> None:
    invoke("drain", "--json")
    assert "drained by python -m spool drain: 10 spans" in invoke("history").stdout


def test_hours_are_told_with_times_for_people_and_programs(filled: Store) -> None:
    invoke("drain", "--json")
    (hour,) = json.loads(invoke("history", "--json").stdout)["hours"]
    assert set(hour) == {
        "begin", "begin_iso", "end", "end_iso",
        "accepted", "delivered", "pending_spans", "pending_bytes",
    }  # fmt: skip
    assert (hour["accepted"], hour["delivered"], hour["pending_spans"]) == (10, 10, 0)
    assert abs(hour["end"] - time.time()) < 300


def test_what_servers_say_is_escaped(store: Store, target: Target) -> None:
    store.append(target, batch("a"), now=1.0)
    words = "503 \x1b[2J\nnothing"
    route_waits.wait(store.database, route_of(store, target), 1.0, time.time(), words)
    said = invoke("history").stdout
    assert "\x1b" not in said
    assert "503 \\x1b[2J\\nnothing" in said


@pytest.mark.parametrize(
    ("since", "is_told"), [("30min", False), ("2h", True), ("1d", True), ("2001-02-03", True)]
)
def test_only_what_happened_since_a_time_is_told(
    store: Store, target: Target, since: str, *, is_told: bool
) -> None:
    store.append(target, batch("a"), now=1.0)
    then = time.time() - 3600
    route_waits.wait(store.database, route_of(store, target), 1.0, then, "503")
    store.settle(take_of(store, target), now=then + 10, accepted_by="")
    assert bool(told("--since", since)) is is_told
    nothing = "nothing happened since" in invoke("history", "--since", since).stdout
    assert nothing is False or not is_told


@pytest.mark.parametrize(
    ("since", "words"),
    [
        ("7x", "'7x' is neither as 30min, 12h or 7d, nor a date as 2026-11-29"),
        ("", "'' is neither"),
        ("2026-13-45", "'2026-13-45' is neither"),
        ("9999-01-01", "'9999-01-01' is still to come"),
        ("-5d", "'-5d' is neither"),
    ],
)
def test_a_wrong_time_is_an_error(filled: Store, since: str, words: str) -> None:
    said = invoke("history", f"--since={since}", code=2).stderr
    assert words in said
    assert "--since" in said


def test_a_spool_where_nothing_happened_says_so(filled: Store) -> None:
    assert invoke("history").stdout.startswith("nothing happened since 20")


def test_no_spool_is_still_json(monkeypatch: pytest.MonkeyPatch) -> None:
    done = invoke("history", "--json", code=2)
    assert json.loads(done.stdout) == {"events": [], "hours": []}
    assert "no spool yet at" in done.stderr


def test_a_spool_of_an_older_version_says_that_it_kept_none(filled: Store, path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as older:
        drop_history(older)
        older.commit()
    done = invoke("history", "--json")
    assert json.loads(done.stdout) == {"events": [], "hours": []}
    assert "kept no history" in done.stderr
    assert "nothing happened" not in invoke("history").stdout


def test_it_is_told_while_others_write_and_where_nothing_can_be_written(
    writer: SpoolSpanExporter, filled: Store, path: Path
) -> None:
    with filled.database.transaction():
        assert told() == []
    filled.close()
    path.chmod(0o400)
    path.parent.chmod(0o500)
    try:
        assert told() == []
    finally:
        path.parent.chmod(0o700)


def test_the_page_is_written_whole_or_not_at_all(filled: Store, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text("the old one")
    invoke("history", "--html", str(file))
    text = file.read_text()
    assert text.startswith("<!doctype html>")
    assert text.endswith("</html>\n")
    assert "10 spans wait" in text
    assert "reloads" not in text
    assert invoke("history", "--html", "-").stdout.startswith("<!doctype html>")
    assert [one.name for one in tmp_path.glob("*page*")] == ["page.html"]


@pytest.mark.parametrize("name", ["no-such-directory/page.html", "", "a-directory"])
def test_a_page_that_cannot_be_written_leaves_nothing(
    filled: Store, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "www" / "a-directory").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "www")
    said = invoke("history", "--html", name, code=2).stderr
    assert said.startswith(f"spool: --html {name}: ")
    assert said.endswith("; name a file that you may write\n")
    assert [str(one) for one in Path().rglob("*")] == ["a-directory"]


@pytest.mark.parametrize("suffix", ["", "-wal", ".inbox-1-0123456789ab"])
def test_a_page_never_takes_the_place_of_the_spool(filled: Store, path: Path, suffix: str) -> None:
    before = path.read_bytes()
    for name in (f"{path}{suffix}", f"{path.parent}/../{path.parent.name}/{path.name}{suffix}"):
        said = invoke("history", "--html", name, code=2).stderr
        assert said.startswith(f"spool: --html {name}: is the spool, or may be one of its files")
    assert path.read_bytes() == before
