from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from spool.delivery.backoff import HOLD_SECONDS
from spool.delivery.route_state import NO_WAIT, RouteState, Wait, probe_wait_of, wait_of
from spool.store.records import Route

pytestmark = pytest.mark.once

UNKNOWN = Route.unknown("pk-lf-test", "http://127.0.0.1:9", "pk-lf-test")
# One whose target "mine" was refused at 100, after which it was told to wait.
HELD = replace(UNKNOWN, attempts=1, fingerprints=("mine",), held_at=100.0, waited_at=100.0)


@pytest.mark.parametrize(
    ("row", "is_secret_known", "state"),
    [
        ({}, False, "<RouteState.OK: 'ok'>"),
        ({"pending_spans": 1, "oldest_at": 99.0}, True, "<RouteState.OK: 'ok'>"),
        ({"pending_spans": 1, "oldest_at": 99.0}, False, "<RouteState.OK: 'ok'>"),
        ({"pending_spans": 1, "oldest_at": 1.0}, True, "<RouteState.OK: 'ok'>"),
        ({"pending_spans": 1, "oldest_at": 1.0}, False, "<RouteState.NO_SECRET: 'no-secret'>"),
        ({"pending_spans": 1, "attempts": 1}, True, "<RouteState.WAITING: 'waiting'>"),
        (
            {"pending_spans": 1, "attempts": 1, "fingerprints": ("mine",)},
            True,
            "<RouteState.HELD: 'held'>",
        ),
        ({"attempts": 1, "fingerprints": ("mine",)}, True, "<RouteState.OK: 'ok'>"),
    ],
    ids=[
        "nothing waits", "just come", "just come, no secret", "old", "old, no secret", "failed",
        "refused", "refused, and nothing waits any more",
    ],
)  # fmt: skip
def test_how_a_route_stands_is_told_by_its_row(
    row: dict[str, Any], state: str, *, is_secret_known: bool
) -> None:
    found = RouteState.of(replace(UNKNOWN, **row), 100.0, is_secret_known=is_secret_known)
    assert repr(found) == state


def test_a_route_that_never_failed_waits_for_nothing() -> None:
    assert wait_of(UNKNOWN, "").is_over(now=0.0)


def test_a_route_that_failed_waits_as_long_as_its_row_says() -> None:
    waiting = replace(UNKNOWN, attempts=3, waited_at=100.0, wait_seconds=5.0)
    assert wait_of(waiting, "") == Wait(since=100.0, seconds=5.0)


def test_a_target_that_was_refused_waits_for_the_end_of_the_hold() -> None:
    assert wait_of(HELD, "mine") == Wait(since=100.0, seconds=HOLD_SECONDS)


def test_a_target_that_was_not_refused_does_not_wait_for_the_end_of_anothers_hold() -> None:
    assert wait_of(HELD, "another") == NO_WAIT


def test_a_target_that_was_not_refused_waits_for_what_failed_since() -> None:
    failed = replace(HELD, waited_at=200.0, wait_seconds=5.0)
    assert wait_of(failed, "another") == Wait(since=200.0, seconds=5.0)
    assert wait_of(failed, "mine") == Wait(since=100.0, seconds=HOLD_SECONDS)


@pytest.mark.parametrize(("probes", "seconds"), [(0, 0.0), (1, 1.0), (2, 4.0), (9, 330.0)])
def test_probes_wait_longer_and_longer_and_never_longer_than_their_route(
    probes: int, seconds: float
) -> None:
    suspected = replace(HELD, wait_seconds=330.0, suspect_to=7, probes=probes)
    assert probe_wait_of(suspected, first=1.0) == Wait(since=100.0, seconds=seconds)


def test_a_wait_is_over_when_its_seconds_have_passed() -> None:
    wait = Wait(since=100.0, seconds=5.0)
    assert [(wait.left(now), wait.is_over(now)) for now in (100.0, 104.0, 105.0)] == [
        (5.0, False),
        (1.0, False),
        (0.0, True),
    ]


def test_a_wait_is_to_come_only_where_the_clock_went_back() -> None:
    assert Wait(since=100.0, seconds=5.0).is_to_come(now=99.0)
    assert not Wait(since=100.0, seconds=5.0).is_to_come(now=100.0)
    assert not Wait(since=100.0, seconds=0.0).is_to_come(now=99.0)
    assert not NO_WAIT.is_to_come(now=-math.inf)
