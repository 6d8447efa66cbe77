"""What a history tells, and what it costs."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from spans import batch
from spool.errors import SettingsError, SpoolFullError, SpoolUnavailableError
from spool.store import dead_letters, eviction, history, ingest, operations, route_waits
from spool.store.history import HOUR, MOST_EVENTS, MOST_HOURS, Event, Hour, Kind
from spool.store.store import Store
from stores import drop_history, route_of, take_of
from targets import MINE, OTHERS


def told(store: Store, since: float = 0.0) -> list[Event]:
    """Give the events, without those that say who drains."""
    with store.database.reading() as connection:
        found = history.events(connection, since)
    return [event for event in found if event.kind != Kind.DRAINED]


def hours_of(store: Store, now: float, since: float = 0.0) -> list[Hour]:
    with store.database.reading() as connection:
        return list(history.hours(connection, since, now))


def mark(store: Store, now: float) -> float:
    """Note the totals as a transaction at this time would."""
    with store.database.writing() as connection:
        return history.note_totals(connection, now)


def fail(store: Store, now: float, reason: str = "connection refused") -> None:
    route_waits.wait(store.database, route_of(store), 1.0, now=now, reason=reason)


def deliver_one(store: Store, now: float) -> None:
    store.settle(take_of(store, max_spans=1), now=now, accepted_by="")


def test_an_outage_is_one_event_from_its_first_failure_to_the_first_success(filled: Store) -> None:
    waiting = route_of(filled).pending_spans
    for now in (100.0, 101.0, 200.0):
        fail(filled, now)
    (event,) = told(filled)
    assert event == Event(1, "down", MINE.route, 100.0, None, 1, waiting, "connection refused")
    deliver_one(filled, 300.0)
    deliver_one(filled, 301.0)
    (event,) = told(filled)
    assert (event.begin_at, event.end_at, event.spans) == (100.0, 300.0, waiting)


def test_a_route_that_flaps_is_in_one_outage_and_a_later_one_is_another(filled: Store) -> None:
    for now in (100.0, 140.0, 180.0):
        fail(filled, now)
        deliver_one(filled, now + 1)
    (event,) = told(filled)
    assert (event.begin_at, event.end_at, event.times) == (100.0, 181.0, 3)
    fail(filled, 10_000.0, "503")
    assert [(one.begin_at, one.end_at) for one in told(filled)] == [
        (100.0, 181.0),
        (10_000.0, None),
    ]


@pytest.mark.once
def test_outages_some_minutes_apart_are_each_told(filled: Store) -> None:
    for now in (100.0, 400.0):
        fail(filled, now)
        deliver_one(filled, now + 120)
    assert [(one.begin_at, one.end_at, one.times) for one in told(filled)] == [
        (100.0, 220.0, 1),
        (400.0, 520.0, 1),
    ]


@pytest.mark.once
def test_the_trouble_of_a_route_of_which_all_was_adopted_has_ended(filled: Store) -> None:
    fail(filled, 100.0)
    operations.adopt(filled, route_of(filled), OTHERS, sending=1.0)
    down, adopted = told(filled)
    assert (down.kind, adopted.kind) == ("down", "adopted")
    assert down.end_at == adopted.end_at


@pytest.mark.once
def test_the_trouble_of_a_route_of_which_all_was_evicted_has_ended(store: Store) -> None:
    store.append(MINE, batch("a", size=5000), now=1.0)
    fail(store, 100.0)
    while eviction.evict(store, 1, 200.0):
        pass
    assert [(one.kind, one.end_at) for one in told(store)] == [("down", 200.0), ("evicted", 200.0)]
    store.append(MINE, batch("b"), now=300.0)
    fail(store, 1000.0)
    assert route_of(store).failing_since == 1000.0


@pytest.mark.once
def test_the_trouble_of_a_route_whose_last_span_died_has_ended(store: Store) -> None:
    store.append(MINE, batch("a"), now=1.0)
    fail(store, 100.0)
    store.settle(take_of(store), now=200.0, dead=1, reason="400")
    assert [one.end_at for one in told(store) if one.kind == "down"] == [200.0]


def test_a_hold_ends_an_outage_and_lasts_whatever_else_fails_meanwhile(filled: Store) -> None:
    fail(filled, 100.0)
    route_waits.hold(filled.database, route_of(filled), "0a1b", 330, now=200.0, reason="401")
    fail(filled, 300.0)
    assert [(one.kind, one.end_at) for one in told(filled)] == [("down", 200.0), ("held", None)]
    deliver_one(filled, 400.0)
    assert [one.end_at for one in told(filled)] == [200.0, 400.0]


def test_routes_of_a_silent_host_are_told_up_to_a_number(filled: Store) -> None:
    names = [replace(MINE, route=f"pk-lf-{number}") for number in range(60)]
    for target in names:
        filled.register(target)
    waits = [(route, 1.0) for route in filled.routes() if route.name.startswith("pk-lf-")]
    route_waits.put_off(filled.database, waits, now=1.0, reason="silent")
    assert len(told(filled)) == 50


def test_evictions_are_one_event_and_after_a_pause_another(store: Store) -> None:
    for name in "abcdefgh":
        store.append(MINE, batch(name, size=5000), now=1.0)
    for now in (1000.0, 1500.0, 9000.0):
        eviction.evict(store, store.database.live_bytes() - 1, now)
    first, second = told(store)
    assert (first.kind, first.route) == ("evicted", MINE.route)
    assert (first.begin_at, first.end_at, first.times) == (1000.0, 1500.0, 2)
    assert second.begin_at == 9000.0
    assert first.spans + second.spans == store.ledger().evicted > 2


def test_dead_letters_and_what_a_person_does_with_them_are_told(filled: Store) -> None:
    for now in (10.0, 11.0):
        take = take_of(filled, max_spans=1)
        filled.settle(take, now=now, dead=1, reason=f"400 of {now}")
    first, second = filled.dead_letters()
    operations.retry(filled, first.id)
    operations.purge(filled, second.id)
    died, retried, purged = told(filled)
    assert (died.kind, died.times, died.spans, died.words) == ("dead", 2, 2, "400 of 10.0")
    assert [(one.kind, one.spans, one.route) for one in (retried, purged)] == [
        ("retried", 1, MINE.route),
        ("purged", 1, MINE.route),
    ]


def test_spans_that_are_refused_one_by_one_are_told(filled: Store) -> None:
    row = filled.pending()[0]
    row_id = row.id
    dead_letters.bury_refused(filled.database, 1, filled.salt(), {row_id: "413"}, now=5.0)
    assert [(one.kind, one.words) for one in told(filled)][:1] == [("dead", "413")] or (
        row.batch.spans > 1
    )


def test_an_adoption_is_told_with_the_new_route(filled: Store) -> None:
    spans = route_of(filled).pending_spans
    operations.adopt(filled, route_of(filled), OTHERS, sending=1.0)
    (event,) = told(filled)
    assert (event.kind, event.route, event.words) == ("adopted", MINE.route, OTHERS.route)
    assert event.spans == spans


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (SpoolFullError("spool.db: it is as large as …"), "SPOOL_MAX_BYTES was reached"),
        (SpoolUnavailableError("spool.db: no room"), "the disk took nothing"),
        (SettingsError("LANGFUSE_HOST must be a URL"), "LANGFUSE_HOST must be a URL"),
        (KeyError("a"), "they cannot be encoded"),
        ("the exporter is shut down", "the exporter is shut down"),
    ],
)
def test_refusals_are_told_and_why(store: Store, reason: object, words: str) -> None:
    for now in (10.0, 20.0):
        store.refuse(3, reason)
        store.count_refused(now)
    (event,) = told(store)
    assert (event.kind, event.spans, event.times, event.words) == ("refused", 6, 2, words)


def test_who_drains_is_told_at_most_once_an_hour_and_a_thousand_programs_are_one_event(
    filled: Store, path: Path
) -> None:
    deliver_one(filled, 1.0)
    deliver_one(filled, 2.0)
    for now in (3.0, 4.0):
        program = Store(path)
        deliver_one(program, now)
        program.close()
    with filled.database.reading() as connection:
        (event,) = history.events(connection)
    assert (event.words, event.times, event.end_at) == ("an application", 3, 4.0)


def test_no_delivery_writes_of_the_history_while_all_is_well(filled: Store) -> None:
    deliver_one(filled, 1.0)
    with filled.database.writing() as connection:
        for number, write in enumerate(("INSERT ON event", "UPDATE ON event", "INSERT ON hour")):
            connection.execute(
                f"CREATE TEMP TRIGGER no_{number} BEFORE {write} BEGIN SELECT RAISE(FAIL, 'x'); END"
            )
    deliver_one(filled, 2.0)
    filled.accept(MINE, batch("c"), now=3.0)
    ingest.ingest(filled, compress=False)
    with pytest.raises(SpoolUnavailableError, match="x"), filled.database.writing() as connection:
        history.note(connection, Kind.DEAD, "", 1, 1.0)


def test_only_the_newest_events_are_kept(store: Store) -> None:
    with store.database.transaction() as connection:
        for number in range(MOST_EVENTS + 10):
            history.note(connection, Kind.PURGED, str(number), 1, 1.0, "w" * 1000)
    events = told(store)
    assert [events[0].route, events[-1].route] == ["10", str(MOST_EVENTS + 9)]
    assert len(events) == MOST_EVENTS
    assert all(len(event.words) == 300 for event in events)


def test_in_a_small_spool_that_is_full_the_history_gives_way_to_spans(store: Store) -> None:
    store.append(MINE, batch("a"), now=1.0)
    with store.database.transaction() as connection:
        for number in range(MOST_EVENTS):
            history.note(connection, Kind.PURGED, str(number), 1, 1.0, "w" * 300)
    live = store.database.live_bytes()
    assert eviction.evict(store, live // 2, now=1.0) == 0
    assert store.ledger().evicted == 0
    assert [event.route for event in told(store)] == [str(n) for n in range(1900, 2000)]
    assert store.database.live_bytes() < live // 2


def test_events_are_those_that_happened_or_lasted_since_a_time(filled: Store) -> None:
    fail(filled, 2e9)
    deliver_one(filled, 2e9 + 10)
    fail(filled, 50.0)  # the clock was wrong
    deliver_one(filled, 60.0)
    fail(filled, 2e9 + 100_000)
    assert len(told(filled, 2e9 + 5)) == 3
    assert [one.begin_at for one in told(filled, 2e9 + 11)] == [2e9 + 100_000]


def test_an_outage_that_an_older_version_ended_has_ended(filled: Store) -> None:
    fail(filled, 100.0)
    with filled.database.writing() as connection:
        connection.execute("UPDATE route SET attempts = 0, last_error = ''")
    assert [one.end_at for one in told(filled)] == [100.0]


def test_an_older_file_kept_no_history(store: Store, path: Path) -> None:
    store.append(MINE, batch("a"), now=1.0)
    store.close()
    older = sqlite3.connect(path)
    drop_history(older)
    older.commit()
    older.close()
    with store.database.reading() as connection:
        assert not history.is_kept(connection)
        assert not history.events(connection) + history.hours(connection)


# By the hour


def test_an_hour_is_what_came_and_went_between_two_marks(store: Store) -> None:
    store.append(MINE, batch("a", "b", "c"), now=1.0)
    mark(store, 10_000.0)
    assert mark(store, 10_000.0 + HOUR - 60) == 60
    store.append(MINE, batch("d"), now=1.0)
    deliver_one(store, 1.0)
    mark(store, 10_000.0 + HOUR)
    store.append(MINE, batch("e"), now=1.0)
    since = [hour for hour in hours_of(store, 10_000.0 + HOUR + 60) if hour.begin_at >= 10_000.0]
    whole, current = since
    assert (whole.begin_at, whole.end_at) == (10_000.0, 13_600.0)
    assert (whole.accepted, whole.delivered, whole.pending_spans) == (1, 1, 3)
    assert (current.end_at, current.accepted, current.pending_spans) == (13_660.0, 1, 4)
    assert current.pending_bytes == route_of(store).pending_bytes


def test_what_came_before_nobody_was_there_is_not_spread_over_that_time(store: Store) -> None:
    store.append(MINE, batch("x"), now=1.0)
    mark(store, 1e9)
    store.append(MINE, batch("a", "b"), now=1.0)
    mark(store, 1e9 + 72 * HOUR)
    first, absent = [hour for hour in hours_of(store, 1e9 + 72 * HOUR) if hour.begin_at >= 1e9]
    assert (first.end_at, first.accepted) == (1e9 + HOUR, 2)
    assert (absent.accepted, absent.pending_spans) == (0, 3)


JUMPS: dict[str, list[float]] = {
    "the clock begins in 1970": [0.0, 100.0, 1e9, 1e9 + HOUR],
    "the clock is a year ahead for a while": [1e9, 1e9 + 8760 * HOUR, 1e9 + HOUR, 1e9 + 2 * HOUR],
    "the clock goes back by half an hour": [1e9, 1e9 - HOUR / 2, 1e9 + HOUR],
}


@pytest.mark.parametrize("jump", JUMPS)
def test_a_clock_that_jumps_makes_no_nonsense(store: Store, jump: str) -> None:
    for now in JUMPS[jump]:
        mark(store, now)
        store.append(MINE, batch("a"), now=1.0)
    now = JUMPS[jump][-1] + 60
    found = hours_of(store, now)
    assert found
    for hour in found:
        assert hour.begin_at < hour.end_at <= now
        assert 0 <= hour.accepted <= 2
        assert hour.accepted == 0 or hour.end_at - hour.begin_at <= 2 * HOUR
    assert [mark(store, now) > 0, len(hours_of(store, now))] == [True, len(found)]


def test_totals_that_begin_anew_make_no_negative_hours(store: Store) -> None:
    store.append(MINE, batch("a", "b"), now=1.0)
    mark(store, 1e9)
    with store.database.writing() as connection:
        connection.execute("UPDATE route SET accepted = 0")
    mark(store, 1e9 + HOUR)
    assert all(hour.accepted >= 0 for hour in hours_of(store, 1e9 + HOUR))


def test_only_the_newest_hours_are_kept(store: Store) -> None:
    with store.database.transaction() as connection:
        for number in range(MOST_HOURS + 10):
            history.note_totals(connection, number * HOUR)
    assert len(hours_of(store, 1e9)) == MOST_HOURS


def test_totals_are_noted_in_transactions_that_are_made_anyway(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[float] = []
    note: Callable[[sqlite3.Connection, float], float] = history.note_totals

    def note_totals(connection: sqlite3.Connection, now: float) -> float:
        noted.append(now)
        return note(connection, now)

    monkeypatch.setattr(history, "note_totals", note_totals)
    store.accept(MINE, batch("a"), now=1.0)
    assert not noted
    for name in "bc":
        ingest.ingest(store, compress=False)
        store.append(MINE, batch(name), now=1.0)
    assert len(noted) == 1
