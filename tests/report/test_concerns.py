"""What a person should see to: the sentences, by what the spool says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from made_reports import NOW, WELL, report
from spool.delivery.route_state import RouteState
from spool.report.concerns import Concern
from spool.report.report import Report
from spool.store import history
from spool.store.drainers import SeenDrainer
from spool.store.records import Ledger, Trouble

pytestmark = pytest.mark.once


def only(found: Report) -> Concern:
    (concern,) = found.concerns()
    return concern


def test_a_missing_secret_says_what_to_do() -> None:
    route = replace(WELL, pending_spans=1)
    found = report(route, state=RouteState.NO_SECRET, missing="its secret is not here; bring it")
    words = "route pk-lf-a: 1 span waits: its secret is not here, and no drainer has it"
    assert only(found) == Concern("no-secret", words, "bring it")


@pytest.mark.parametrize(
    ("by", "words", "remedy"),
    [
        (history.LIMIT_OF_SIZE, "the limit of 100.0 MiB is used by 99 %", "SPOOL_MAX_BYTES"),
        (history.BY_DISK, "disk and memory were full", "make room"),
        ("langfuse_host must be a URL", "langfuse_host must be a URL", "in the program"),
        ("", "the programs' logs say why", "in the program"),
    ],
)
def test_what_refuses_spans_is_told_apart(by: str, words: str, remedy: str) -> None:
    found = replace(
        report(trouble=Trouble(None, NOW - 5, None)), refused_by=by, used_bytes=99 << 20,
        max_bytes=100 << 20, ledger=Ledger(refused=3),
    )  # fmt: skip
    concern = only(found)
    assert concern.words == f"spans are refused, 3 in all, which are lost: {words}"
    assert remedy in concern.remedy


@pytest.mark.parametrize("disk", ["almost-full", "read-only"])
def test_a_disk_that_refuses_says_what_memory_may_hold_elsewhere(disk: Any) -> None:
    concern = only(replace(report(), disk=disk))
    assert "what ends now may be in memory only" in concern.words


def test_a_clock_that_was_wrong_is_no_outage_of_decades() -> None:
    found = report(replace(WELL, pending_spans=1, oldest_at=100.0, last_success_at=None))
    assert only(found).code == "clock"
    ahead = report(replace(WELL, pending_spans=1, oldest_at=NOW + 3e7))
    assert only(ahead).code == "clock"
    wrong = replace(report(WELL), now=1000.0)
    assert only(wrong).words.startswith("this machine's clock is wrong: it says 1970-01-01")


def test_many_strange_files_are_one_line() -> None:
    names = tuple(f"/s/spool.db.inbox-{n}: it is a symlink" for n in range(12))
    assert only(replace(report(), strangers=names)).words.endswith(
        ": 12 files: spool.db.inbox-0, spool.db.inbox-1, spool.db.inbox-2, …"
    )
    assert only(replace(report(), strangers=names[:1])).words.endswith(names[0])


@pytest.mark.parametrize(
    ("state", "remedy"),
    [(RouteState.OK, "send them by"), (RouteState.HELD, "see to their routes")],
)
def test_drain_is_recommended_only_where_it_can_help(state: RouteState, remedy: str) -> None:
    found = report(replace(WELL, pending_spans=2), state=state)
    found = replace(found, ledger=Ledger(pending=2), **NOBODY)
    (concern,) = [one for one in found.concerns() if one.code == "nobody-drains"]
    assert concern.words == "2 spans wait and no process drains"
    assert concern.remedy.startswith(remedy)


NOBODY: dict[str, Any] = {"drainers": (), "pid": None}


def test_a_drainer_that_is_stopped_is_named_and_does_not_count() -> None:
    stopped = SeenDrainer(pid=12, kind="run", is_stopped=True)
    found = replace(report(replace(WELL, pending_spans=1)), ledger=Ledger(pending=1))
    concern = only(replace(found, drainers=(stopped,), pid=None))
    assert concern.code == "drainer-stopped"
    assert concern.words == "the drainer does not move: `run` (pid 12) is stopped, frozen or hangs"
    assert concern.remedy.startswith("`kill -CONT 12`")


def test_a_stopped_drainer_of_another_container_is_not_killed_here() -> None:
    stopped = SeenDrainer(pid=2, kind="run", is_stopped=True, is_here=False)
    concern = only(replace(report(), drainers=(stopped,), pid=None))
    assert "`run` (pid 2 of another container) is stopped" in concern.words
    assert concern.remedy.startswith("resume or restart that container")
    assert "kill" not in concern.remedy


def test_a_route_that_only_this_shell_could_send_is_a_concern() -> None:
    others = SeenDrainer(pid=12, routes=frozenset({"pk-lf-b"}))
    waiting = replace(WELL, pending_spans=1, oldest_at=NOW - 60)
    concern = only(replace(report(waiting), drainers=(others,)))
    assert concern.code == "no-secret"
    assert concern.words.endswith(": 1 span waits: who drains has no secret for it, this shell has")
    known = replace(others, routes=frozenset({"pk-lf-a"}))
    assert replace(report(waiting), drainers=(known,)).concerns() == []


@pytest.mark.parametrize("what", ["evicted", "refused"])
def test_a_loss_that_is_over_says_since_when_and_for_how_long_it_is_told(what: str) -> None:
    times = {"evicted_at": None, "refused_at": None, "damaged_at": None}
    lost = replace(report(WELL), ledger=Ledger(**{what: 3}))
    going_on = only(replace(lost, trouble=Trouble(**{**times, f"{what}_at": NOW - 5})))
    assert going_on.words.startswith(f"spans are {what}, ")
    over = only(replace(lost, trouble=Trouble(**{**times, f"{what}_at": NOW - 3 * 3600})))
    assert over.words.startswith(f"spans were, until 3 h ago, {what}, ")
    assert over.remedy.endswith("; this line goes a day after the last")


def test_a_box_that_began_to_fail_in_1970_is_not_stuck_for_decades() -> None:
    waiting = replace(WELL, pending_spans=1, oldest_at=60.0, failing_since=61.0, attempts=2)
    (concern,) = report(waiting, state=RouteState.WAITING).concerns()
    assert concern.code == "clock"


def test_a_drain_is_recommended_only_where_this_shell_could_do_it() -> None:
    waiting = replace(WELL, pending_spans=1, oldest_at=NOW - 1)
    for missing, words in (("", "that"), ("its secret is not here; run it", "none are set here")):
        found = replace(report(waiting, missing=missing), ledger=Ledger(pending=1))
        (nobody,) = replace(found, drainers=(), pid=None).concerns()
        assert nobody.code == "nobody-drains"
        assert nobody.remedy.endswith(words)
