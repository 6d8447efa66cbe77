"""What is said of a spool and its routes, by what their rows say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from made_reports import NOW, WELL, report
from spool.delivery.route_state import RouteState
from spool.report import sentences
from spool.store.records import Ledger

pytestmark = pytest.mark.once

DOWN = replace(
    WELL, pending_spans=2, pending_bytes=2048, oldest_at=NOW - 8000, attempts=3,
    waited_at=NOW - 20, wait_seconds=60.0, failing_since=NOW - 7800, last_success_at=NOW - 7860,
    cause="nobody-listens", last_error="nobody listens at 10.0.0.5:3000",
)  # fmt: skip
HELD = replace(
    DOWN, cause="keys", last_error="401 no such key", fingerprints=("x",), held_at=NOW - 20,
    wait_seconds=330.0,
)  # fmt: skip


def state(of: RouteState, **changes: Any) -> str:
    route = replace(DOWN, **changes)
    return sentences.state(report(route, missing="its secret is not here; run it"), route, of)


def test_a_state_says_since_when_and_why() -> None:
    assert state(RouteState.WAITING) == "waiting for 2 h 10 min: nobody listens at 10.0.0.5:3000"
    assert state(RouteState.NO_SECRET) == "no-secret: its secret is not here, and no drainer has it"
    assert state(RouteState.OK, pending_spans=0) == "ok, nothing waits"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "the receiver refuses the keys (401 no such key)"),
        (
            {"cause": "nobody-listens", "last_error": "nobody listens at h:1", "waited_at": NOW},
            "it was refused, and cannot be asked again: nobody listens at h:1",
        ),
        (
            {"cause": "spans", "last_error": "400 bad", "suspect_to": 9},
            "every span is refused (400 bad), so it is hardly the spans",
        ),
        (
            {"cause": "too-large", "last_error": "413", "suspect_to": 9},
            "every span is too large (413), so it is hardly the spans",
        ),
        (
            {"cause": "spans", "last_error": "400 bad", "suspect_to": 9, "pending_spans": 1},
            "the only span that waits is refused (400 bad)",
        ),
    ],
)
def test_why_a_route_is_held_fits_what_came_last(changes: dict[str, Any], words: str) -> None:
    assert sentences.why(replace(HELD, **changes)) == words


def test_one_suspicious_span_is_not_told_as_wrong_keys() -> None:
    alone = replace(HELD, cause="spans", suspect_to=9, pending_spans=1)
    assert "keys" not in sentences.remedy(alone)
    assert "becomes a dead letter once one is accepted" in sentences.remedy(alone)


def test_what_fresh_spans_do_meanwhile() -> None:
    facts = report(DOWN)
    assert sentences.waiting(facts, DOWN) == (
        "2 spans wait (2.0 KiB), the oldest for 2 h 13 min; fresh ones wait as well"
    )
    assert "fresh ones are tried by themselves" in sentences.waiting(
        facts, replace(DOWN, suspect_to=9)
    )


def test_when_it_is_tried_next_and_went_well_last() -> None:
    said = sentences.attempts(report(DOWN), DOWN, RouteState.WAITING)
    assert said.startswith("next attempt in 40 s, at ")
    assert said.endswith(", 3 attempts so far, last success 2 h 11 min ago")
    asked = replace(DOWN, cause="asked-to-wait")
    assert ", as the receiver asked, " in sentences.attempts(
        report(asked), asked, RouteState.WAITING
    )


@pytest.mark.parametrize("at", [0.0, 1000.0, NOW + 3e7, 1e300])
def test_a_time_that_no_clock_should_show_is_told_as_that(at: float) -> None:
    assert "the clock was wrong" in sentences.since(at, NOW)


def test_the_ledger_says_only_what_is_not_nothing_unless_asked() -> None:
    facts = replace(report(), ledger=Ledger(accepted=12000, delivered=11998, pending=2, refused=1))
    assert sentences.ledger(facts) == (
        "accepted 12,000 = delivered 11,998 + pending 2; beside it refused 1"
    )
    assert "evicted 0" in sentences.ledger(facts, is_whole=True)
    assert sentences.ledger(report()) == "nothing has come yet"


def test_how_fast_it_goes_and_when_it_is_done() -> None:
    first = replace(report(), ledger=Ledger(pending=3000, delivered=0))
    second = replace(report(), ledger=Ledger(pending=2000, delivered=1000), now=NOW + 0.5)
    rate = "2,000 spans a second: more the line or the receiver does not take"
    assert sentences.pace(second, second.pace(first)) == f"{rate}; done in about 1 s"
    busy = replace(second, ledger=Ledger(pending=3000, delivered=1000))
    assert sentences.pace(busy, busy.pace(first)) == f"{rate}; as many come"
    still = replace(first, now=NOW + 0.5)
    assert "no request has ended" in sentences.pace(still, still.pace(first))


@pytest.mark.parametrize(
    ("disk", "words"),
    [("almost-full", "the disk is full, or almost"), ("read-only", "the disk is read-only")],
)
def test_where_the_disk_refuses_neither_the_line_is_blamed_nor_is_all_said_to_be_well(
    disk: Any, words: str
) -> None:
    waits = replace(WELL, pending_spans=5, pending_batches=1)
    first = replace(report(waits), disk=disk)
    later = replace(first, now=NOW + 0.5)
    said = sentences.pace(later, later.pace(first))
    assert said == f"nothing is noted as delivered: {words}"
    said = sentences.state(later, waits, RouteState.OK)
    assert said == f"nothing is known against it, but {words}"


def test_one_span_that_fails_while_others_pass_needs_nobody() -> None:
    poison = replace(DOWN, cause="server", last_error="500 no", suspect_to=9, pending_spans=1)
    words = "the span that waits fails by itself, others pass: the server is in trouble (500 no)"
    assert sentences.why(poison) == words
    assert sentences.remedy(poison).startswith(
        "no need to act: it becomes a dead letter once enough"
    )


def test_a_trouble_that_has_only_begun_has_no_duration() -> None:
    assert state(RouteState.WAITING, failing_since=NOW).startswith("waiting: nobody")
