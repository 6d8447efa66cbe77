"""What a history says, in words and as a chart."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime

import pytest

from spool.report import timeline
from spool.store.history import HOUR, Event, Hour, Kind
from spool.store.records import Route

pytestmark = pytest.mark.once

NOW = datetime(2026, 11, 30, 12, 0).astimezone().timestamp()
BEGIN = datetime(2026, 11, 29, 14, 2).astimezone().timestamp()
OUTAGE = Event(
    1, "down", "pk-lf-x", BEGIN, BEGIN + 8280, 1, 3210, "nobody listens at langfuse.example:443"
)
WELL = Route.unknown("pk-lf-x", "https://langfuse.example", "pk-lf-x")


def line_of(event: Event, route: Route | None = WELL, *others: Event) -> str:
    routes = [] if route is None else [route]
    return timeline.lines([event, *others], routes, NOW)[0]


def test_an_outage_is_a_sentence() -> None:
    assert line_of(OUTAGE) == (
        "29 Nov 14:02 to 16:20 (2 h 18 min)  route pk-lf-x was down: nobody listens at "
        "langfuse.example:443; 3,210 spans waited, all delivered since"
    )


def test_an_outage_that_lasts_says_what_waits() -> None:
    said = line_of(replace(OUTAGE, end_at=None, spans=1, times=3))
    assert said.startswith(
        "29 Nov 14:02 to now (21 h 58 min)  route pk-lf-x is down 3 times, "
        "less than a minute apart: "
    )
    assert said.endswith("; 1 span waits")


def test_what_was_not_delivered_is_not_said_to_be() -> None:
    waiting = replace(WELL, pending_spans=5, oldest_at=BEGIN + 60)
    assert line_of(OUTAGE, waiting).endswith("3,210 spans waited, not all of them are through yet")
    fresh = replace(WELL, pending_spans=5, oldest_at=BEGIN + 9000)
    assert line_of(OUTAGE, fresh).endswith("all delivered since")
    evicted = Event(2, "evicted", "pk-lf-x", BEGIN + 60, BEGIN + 60, 1, 9, "full")
    assert line_of(OUTAGE, WELL, evicted).endswith("3,210 spans waited, none does any more")
    theirs = replace(evicted, route="pk-lf-other")
    assert line_of(OUTAGE, WELL, theirs).endswith("all delivered since")
    assert line_of(OUTAGE, None).endswith("; 3,210 spans waited")


@pytest.mark.parametrize("kind", Kind)
def test_each_kind_has_its_words(kind: Kind) -> None:
    said = line_of(Event(1, kind.value, "pk-lf-x", BEGIN, BEGIN, 1, 2, "because of it"))
    assert said.startswith("29 Nov 14:02  ")
    assert {"{", "Kind"}.isdisjoint(said)
    assert kind in (Kind.PURGED, Kind.RETRIED) or "because of it" in said


def test_what_a_newer_version_notes_is_shown() -> None:
    assert line_of(Event(1, "moved", "a", BEGIN, BEGIN, 1, 2, "b")) == "29 Nov 14:02  moved a: b"


@pytest.mark.parametrize("at", [5.0, NOW + 365 * 86400, 1e300, -1e300])
def test_a_wrong_clock_is_said(at: float) -> None:
    assert "(the clock was wrong)" in line_of(replace(OUTAGE, begin_at=at, end_at=None))


def test_days_and_years_are_said_where_they_differ() -> None:
    said = line_of(replace(OUTAGE, begin_at=BEGIN - 365 * 86400))
    assert said.startswith("29 Nov 2025 14:02 to 29 Nov 16:20 (365 d 2 h)  ")


HOURS = [
    Hour(NOW - (8 - number) * HOUR, NOW - (7 - number) * HOUR, 0, number * 100, number, 0)
    for number in range(8)
]


def test_the_chart_has_what_waited_and_what_was_delivered_by_the_hour() -> None:
    waiting, delivered, axis = timeline.chart(HOURS, 0.0, NOW)
    assert waiting == "waiting     ▂▃▄▅▆▇█  at most 7 spans"
    assert delivered == "delivered   ▂▃▄▅▆▇█  2,800 spans, at most 700 spans in 1 h"
    assert axis.split() == ["30", "Nov", "04:00", "now"]


def test_the_chart_begins_at_the_time_asked_for_and_few_deliveries_are_not_none() -> None:
    hours = [
        Hour(NOW - 900 * HOUR, NOW - 719 * HOUR, 0, 0, 0, 0),
        Hour(NOW - HOUR, NOW, 0, 17, 0, 0),
    ]
    _, delivered, axis = timeline.chart(hours, NOW - 720 * HOUR, NOW)
    assert delivered.endswith("17 spans, at most 17 spans in 12 h")
    assert axis.split() == ["31", "Oct", "12:00", "now"]


def test_who_drained_is_told_with_a_number() -> None:
    drained = Event(1, "drained", "", BEGIN, BEGIN + 480, 1, 464, "an application")
    assert line_of(drained).endswith("drained by an application: at least 464 spans")


def test_the_chart_can_do_with_ascii() -> None:
    assert all(line.isascii() for line in timeline.chart(HOURS, 0.0, NOW, is_plain=True))


def test_a_month_fits_into_a_line_and_nothing_is_drawn_of_nothing() -> None:
    hours = [Hour(NOW - n * HOUR, NOW - (n - 1) * HOUR, 1, 1, 0, 0) for n in range(720, 0, -1)]
    assert all(len(line) < 120 for line in timeline.chart(hours, 0.0, NOW))
    assert timeline.chart([], 0.0, time.time()) == []
