from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from freezegun import freeze_time

import standin
from spans import batch
from spool import inbox, intake
from spool.database import ID_BITS
from spool.drainer import HOLD_SECONDS, Drainer, Tally, backoff
from spool.errors import SpoolFileError
from spool.inbox import LARGE
from spool.keeper import Keeper
from spool.lock import signature
from spool.otlp import ROW_BYTES, Batch, Codec
from spool.records import Ledger, Route, Take
from spool.sender import Outcome, Sender
from spool.settings import Settings, Target
from spool.store import Store
from standin import StandIn

NAMES = [f"s{number}" for number in range(20)]


class Clock:
    """Wall-clock time that a test moves."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def drainer(store: Store, settings: Settings, target: Target, clock: Clock) -> Drainer:
    """Drain a spool that holds twenty single spans."""
    for name in NAMES:
        store.append(target, batch(name), clock.now)
    return drainer_of(store, settings, target, clock)


def drainer_of(store: Store, settings: Settings, target: Target, clock: Clock) -> Drainer:
    drainer = Drainer(store, settings, clock=clock)
    drainer.add(target)
    return drainer


def drain_all(drainer: Drainer) -> None:
    while drainer.send_due():
        pass


def route_of(store: Store) -> Route:
    return store.routes()[0]


def assert_nothing_lost(store: Store, langfuse: StandIn, dead: int = 0) -> Ledger:
    ledger = store.ledger()
    assert ledger.accepted == ledger.delivered + ledger.dead + ledger.pending
    assert (ledger.delivered, ledger.dead, ledger.pending) == (20 - dead, dead, 0)
    assert len(langfuse.names()) == 20 - dead
    return ledger


def test_what_waits_is_sent_in_one_request_and_settled(
    drainer: Drainer, store: Store, langfuse: StandIn
) -> None:
    drain_all(drainer)
    assert_nothing_lost(store, langfuse)
    (request,) = langfuse.requests
    assert request.headers["content-encoding"] == "gzip"
    assert request.headers["x-langfuse-ingestion-version"] == "4"
    assert request.headers["x-langfuse-sdk-name"] == "langfuse-spool"


def test_the_bytes_of_a_span_never_change(
    store: Store, settings: Settings, target: Target, clock: Clock, langfuse: StandIn
) -> None:
    one = batch("a", "b")
    store.append(target, one, clock.now)
    plain = drainer_of(store, replace(settings, compression="none"), target, clock)
    drain_all(plain)
    assert langfuse.requests[0].body == one.payload


TROUBLES: dict[str, standin.Behaviour] = {
    "200 with HTML": standin.html_200(),
    "302": standin.redirect_302("http://127.0.0.1:1/"),
    "500": standin.server_error(),
    "503 with Retry-After": standin.busy(),
    "429 with seconds": standin.too_many(1),
    "429 with a date": standin.retry_after_date(1),
    "408": standin.status(408),
    "425": standin.status(425),
    "502": standin.status(502),
    "507": standin.status(507),
    "401": standin.status(401),
    "403": standin.suspended(),
    "404": standin.status(404, body=b"<html>no</html>", content_type="text/html"),
    "405": standin.status(405),
    "400 with HTML": standin.status(400, body=b"<html>no</html>", content_type="text/html"),
    "418": standin.status(418),
    "nothing at all": standin.mute(),
    "half an answer": standin.half_answer(),
    "headers one byte a second": standin.slow_headers(1),
    "a body one byte a second": standin.slow_body(1),
    "a reset in mid-body": standin.reset_mid_body(),
    "garbage": standin.garbage(),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_no_answer_loses_a_span(
    trouble: str, store: Store, settings: Settings, target: Target, clock: Clock, langfuse: StandIn
) -> None:
    for name in NAMES:
        store.append(target, batch(name), clock.now)
    drainer = drainer_of(store, replace(settings, timeout_seconds=0.3), target, clock)
    langfuse.behave(TROUBLES[trouble])
    assert not drainer.send_due()
    route = route_of(store)
    assert (route.pending_spans, route.attempts) == (20, 1)
    assert route.last_error
    assert not drainer.send_due()
    assert len(langfuse.requests) <= 1
    langfuse.behave(None)
    clock.now += HOLD_SECONDS
    drain_all(drainer)
    assert_nothing_lost(store, langfuse)
    assert route_of(store).attempts == 0


def test_a_request_that_was_accepted_unanswered_is_sent_again_as_it_was(
    drainer: Drainer, store: Store, langfuse: StandIn, clock: Clock
) -> None:
    langfuse.behave(standin.sequence([standin.reset_after_accept(), None]))
    drain_all(drainer)
    clock.now += 60
    drain_all(drainer)
    assert_nothing_lost(store, langfuse)
    assert set(langfuse.span_ids().values()) == {2}
    assert langfuse.requests[0].body == langfuse.requests[1].body


@pytest.mark.parametrize("packing", ["a row a span", "one row"])
def test_only_the_one_bad_span_is_dead_with_the_servers_words(
    packing: str, store: Store, settings: Settings, target: Target, clock: Clock, langfuse: StandIn
) -> None:
    rows = [[name] for name in NAMES] if packing == "a row a span" else [NAMES]
    for names in rows:
        store.append(target, batch(*names), clock.now)
    langfuse.behave(standin.reject_span("s13"))
    drainer = drainer_of(store, settings, target, clock)
    drain_all(drainer)
    assert_nothing_lost(store, langfuse, dead=1)
    (letter,) = store.dead_letters()
    assert letter.reason == "400 cannot take the span s13"
    assert drainer.tally.dead == 1
    assert len(langfuse.requests) < 20


def test_a_request_that_is_too_large_is_split_until_it_fits(
    drainer: Drainer, store: Store, langfuse: StandIn
) -> None:
    langfuse.behave(standin.too_large(1000))
    drain_all(drainer)
    assert_nothing_lost(store, langfuse)


def test_a_single_span_that_is_too_large_is_dead(
    drainer: Drainer, store: Store, target: Target, langfuse: StandIn, clock: Clock
) -> None:
    store.append(target, batch("giant", size=100_000), clock.now)
    langfuse.behave(standin.too_large(50_000))
    drain_all(drainer)
    assert store.ledger().dead == 1
    assert store.ledger().delivered == 20


def test_spans_that_a_receiver_rejects_in_part_are_dead_letters_and_not_sent_again(
    drainer: Drainer, store: Store, langfuse: StandIn
) -> None:
    langfuse.behave(standin.partial_success(3, "too old"))
    drain_all(drainer)
    assert (store.ledger().delivered, store.ledger().dead) == (17, 3)
    assert len(langfuse.requests) == 1
    assert store.dead_letters()[0].reason == "too old"


def test_a_collectors_protobuf_answer_settles(
    drainer: Drainer, store: Store, langfuse: StandIn
) -> None:
    langfuse.behave(standin.protobuf_ok())
    drain_all(drainer)
    assert_nothing_lost(store, langfuse)


def test_a_401_gets_one_request_in_five_minutes_over_restarts_too(
    drainer: Drainer,
    store: Store,
    settings: Settings,
    target: Target,
    clock: Clock,
    langfuse: StandIn,
) -> None:
    langfuse.behave(standin.status(401))
    for _ in range(300):
        drainer = drainer_of(store, settings, target, clock)
        drainer.send_due()
        clock.now += 1
    assert len(langfuse.requests) == 1
    clock.now += 31
    drainer.send_due()
    assert len(langfuse.requests) == 2


def test_a_changed_secret_is_tried_at_once(
    drainer: Drainer, store: Store, settings: Settings, clock: Clock, langfuse: StandIn
) -> None:
    wrong = Target.langfuse("pk-lf-test", "sk-lf-wrong", langfuse.url)
    drainer.add(wrong)
    drain_all(drainer)
    assert route_of(store).fingerprints
    drainer.add(Target.langfuse("pk-lf-test", "sk-lf-test", langfuse.url))
    drain_all(drainer)
    assert_nothing_lost(store, langfuse)


def test_two_processes_with_wrong_secrets_do_not_make_each_other_hammer(
    drainer: Drainer, store: Store, settings: Settings, clock: Clock, langfuse: StandIn
) -> None:
    wrong = [Target.langfuse("pk-lf-test", f"sk-lf-{word}", langfuse.url) for word in "ab"]
    both = [drainer_of(store, settings, target, clock) for target in wrong]
    for _ in range(10):
        for one in both:
            one.send_due()
    assert len(langfuse.requests) == 2


def test_retry_after_is_honoured_over_restarts(
    drainer: Drainer,
    store: Store,
    settings: Settings,
    target: Target,
    clock: Clock,
    langfuse: StandIn,
) -> None:
    langfuse.behave(standin.sequence([standin.too_many(120), None]))
    drainer.send_due()
    for _ in range(119):
        clock.now += 1
        assert not drainer_of(store, settings, target, clock).send_due()
    clock.now += 1
    drain_all(drainer_of(store, settings, target, clock))
    assert_nothing_lost(store, langfuse)
    assert len(langfuse.requests) == 2


def test_retry_after_as_a_date_is_measured_by_the_servers_clock(
    drainer: Drainer, store: Store, langfuse: StandIn
) -> None:
    langfuse.behave(standin.retry_after_date(90))
    with freeze_time("1970-01-02", real_asyncio=True):
        drainer.send_due()
    assert route_of(store).wait_seconds == pytest.approx(90, abs=1)


def test_a_clock_that_jumps_back_neither_stalls_nor_storms(
    drainer: Drainer, store: Store, clock: Clock, langfuse: StandIn
) -> None:
    langfuse.behave(standin.sequence([standin.too_many(60), None]))
    drainer.send_due()
    clock.now -= 365 * 86400
    assert not drainer.send_due()
    clock.now += 59
    assert not drainer.send_due()
    clock.now += 1
    drain_all(drainer)
    assert_nothing_lost(store, langfuse)
    assert len(langfuse.requests) == 2


def test_a_clock_that_jumps_forward_costs_one_early_attempt(
    drainer: Drainer, store: Store, clock: Clock, langfuse: StandIn
) -> None:
    langfuse.behave(standin.too_many(60))
    drainer.send_due()
    clock.now += 365 * 86400
    for _ in range(20):
        drainer.send_due()
    assert len(langfuse.requests) == 2


def test_backoff_is_exponential_with_full_jitter_and_has_a_ceiling() -> None:
    for attempt, ceiling in ((1, 1), (2, 2), (5, 16), (7, 60), (1000, 60)):
        drawn = [backoff(attempt, 1, 60) for _ in range(200)]
        assert 0 <= min(drawn) < ceiling / 2 < max(drawn) <= ceiling


def test_failures_back_off_further_and_further(
    drainer: Drainer, store: Store, clock: Clock, langfuse: StandIn
) -> None:
    langfuse.behave(standin.unavailable())
    for attempt in range(1, 6):
        drainer.send_due()
        assert route_of(store).attempts == attempt
        clock.now += 61


def test_while_another_process_has_the_turn_nothing_is_sent(
    drainer: Drainer, store: Store, path: Path, langfuse: StandIn
) -> None:
    other = Store(path)
    with other.turn.take(60) as is_had:
        assert is_had
        assert not drainer.send_due()
    assert langfuse.requests == []
    drain_all(drainer)
    assert_nothing_lost(store, langfuse)
    other.close()


def test_the_turn_of_a_killed_drainer_is_free_at_once(
    drainer: Drainer, store: Store, path: Path, langfuse: StandIn
) -> None:
    with process_with_the_turn(path) as other:
        assert not drainer.send_due()
        other.kill()
    drain_all(drainer)
    assert_nothing_lost(store, langfuse)


@contextlib.contextmanager
def process_with_the_turn(path: Path) -> Iterator[subprocess.Popen[str]]:
    code = (
        "import time; from pathlib import Path; from spool.store import Store\n"
        f"with Store(Path({str(path)!r})).turn.take(60): print('had', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "had\n"
        try:
            yield other
        finally:
            other.kill()


def test_a_peer_that_is_stopped_in_its_turn_does_not_keep_spans_here_for_ever(
    drainer: Drainer,
    store: Store,
    settings: Settings,
    path: Path,
    langfuse: StandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("spool.turn._BESIDE_SENDING", 0.05 - settings.timeout_seconds)
    with process_with_the_turn(path) as other:
        other.send_signal(signal.SIGSTOP)
        assert not drainer.send_due()  # it may only be slow
        time.sleep(0.1)
        drain_all(drainer)
        assert_nothing_lost(store, langfuse)


def test_only_routes_whose_secret_is_held_are_sent(
    drainer: Drainer, store: Store, settings: Settings, clock: Clock, langfuse: StandIn
) -> None:
    theirs = Target.langfuse("pk-lf-theirs", "sk-lf-theirs", langfuse.url)
    store.append(theirs, batch("theirs"), clock.now)
    drain_all(drainer)
    assert "theirs" not in langfuse.names()
    assert store.ledger().pending == 1


def test_an_adopted_backlog_is_sent_with_the_current_credentials(
    drainer: Drainer, store: Store, target: Target, clock: Clock, langfuse: StandIn
) -> None:
    theirs = Target.langfuse("pk-lf-theirs", "sk-lf-theirs", langfuse.url)
    store.append(theirs, batch("theirs"), clock.now)
    stranded = next(route for route in store.routes() if route.name == "pk-lf-theirs")
    store.adopt(stranded, target)
    drain_all(drainer)
    assert langfuse.names()["theirs"] == 1


def test_the_credentials_file_brings_the_secrets_of_further_routes(
    store: Store, settings: Settings, clock: Clock, tmp_path: Path
) -> None:
    credentials = tmp_path / "credentials"
    with StandIn(keys={"pk-lf-theirs": "sk-lf-theirs"}) as langfuse:
        theirs = Target.langfuse("pk-lf-theirs", "sk-lf-theirs", langfuse.url)
        store.append(theirs, batch("theirs"), clock.now)
        drainer = Drainer(store, replace(settings, credentials_file=credentials), clock=clock)
        drain_all(drainer)
        assert store.ledger().pending == 1
        credentials.touch(0o600)
        credentials.write_text("# their project\npk-lf-theirs: sk-lf-theirs\n")
        drain_all(drainer)
        assert langfuse.names()["theirs"] == 1


def test_a_backlog_goes_to_the_stored_endpoint_where_none_is_named(
    drainer: Drainer, store: Store, settings: Settings, clock: Clock, langfuse: StandIn
) -> None:
    unnamed = Target.langfuse("pk-lf-test", "sk-lf-test")
    drain_all(drainer_of(store, settings, unnamed, clock))
    assert_nothing_lost(store, langfuse)


def test_a_backlog_follows_a_host_that_moved(
    drainer: Drainer, store: Store, settings: Settings, clock: Clock, langfuse: StandIn
) -> None:
    with StandIn() as moved:
        named = Target.langfuse("pk-lf-test", "sk-lf-test", moved.url)
        drain_all(drainer_of(store, settings, named, clock))
        assert_nothing_lost(store, moved)
    assert langfuse.requests == []


def test_a_row_that_was_damaged_on_disk_is_a_dead_letter_and_the_others_flow(
    drainer: Drainer, store: Store, langfuse: StandIn
) -> None:
    with store.database.transaction() as connection:
        row_id = store.pending()[7].id
        connection.execute("UPDATE batch SET crc32 = crc32 + 1 WHERE id = ?", (row_id,))
    drain_all(drainer)
    assert_nothing_lost(store, langfuse, dead=1)
    assert "checksum" in store.dead_letters()[0].reason


def test_a_payload_that_cannot_be_read_is_a_dead_letter_and_the_others_flow(
    drainer: Drainer, store: Store, target: Target, langfuse: StandIn, clock: Clock
) -> None:
    store.append(target, Batch(b"\xff\xff", spans=4, raw_bytes=2), clock.now)
    store.append(target, batch("after"), clock.now)
    drain_all(drainer)
    assert store.ledger().dead == 4
    assert langfuse.names()["after"] == 1


def test_what_was_delivered_but_not_settled_is_not_sent_again(
    drainer: Drainer, store: Store, langfuse: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle: Callable[..., int] = store.settle
    failures = iter([True, True])

    def failing(take: Take, now: float, *, dead: int = 0, reason: str = "") -> int:
        if next(failures, False):
            raise SpoolFileError("the disk is full")
        return settle(take, now, dead=dead, reason=reason)

    monkeypatch.setattr(store, "settle", failing)
    for _ in range(2):
        drainer.send_due()
        assert store.ledger().pending == 20
    drainer.send_due()
    assert_nothing_lost(store, langfuse)
    assert len(langfuse.requests) == 1


def test_while_the_file_refuses_to_settle_all_that_waits_is_sent_once(
    drainer: Drainer,
    store: Store,
    target: Target,
    clock: Clock,
    langfuse: StandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settle = store.settle

    def failing(*_: object, **__: object) -> int:
        raise SpoolFileError("the disk is full")

    monkeypatch.setattr(store, "settle", failing)
    drain_all(drainer)
    store.append(target, batch("later"), clock.now)
    drain_all(drainer)
    drain_all(drainer)
    assert langfuse.accepted == 21
    assert store.ledger().pending == 21
    monkeypatch.setattr(store, "settle", settle)
    drain_all(drainer)
    assert (store.ledger().delivered, store.ledger().pending) == (21, 0)
    assert len(langfuse.requests) == 2


def test_a_wait_that_the_file_cannot_take_is_kept_all_the_same(
    drainer: Drainer, store: Store, langfuse: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> int:
        raise SpoolFileError("the disk is full")

    monkeypatch.setattr(store, "wait", failing)
    langfuse.behave(standin.too_many(3600))
    with pytest.raises(SpoolFileError):
        drainer.send_due()
    for _ in range(20):
        drainer.send_due()
    assert len(langfuse.requests) == 1


def many(store: Store, target: Target, names: list[str]) -> None:
    for name in names:
        store.append(target, batch(name, size=1000), 1.0)


def test_while_a_route_waits_its_rows_are_packed_and_then_sent_as_they_are(
    store: Store, settings: Settings, target: Target, clock: Clock, langfuse: StandIn
) -> None:
    names = [f"n{number}" for number in range(40)]
    many(store, target, names)
    drainer = drainer_of(store, replace(settings, max_request_bytes=5000), target, clock)
    assert not drainer.pack_idle()  # it can be sent
    langfuse.behave(standin.unavailable())
    drainer.send_due()
    while drainer.pack_idle():
        pass
    assert route_of(store).pending_batches < 20
    packed = [r.batch.payload for r in store.pending() if r.batch.codec == Codec.GZIP]
    langfuse.behave(None)
    clock.now += 60
    drain_all(drainer)
    assert langfuse.names() == Counter(names)
    assert b"".join(packed) in b"".join(request.body for request in langfuse.requests[1:])


def test_a_stranded_backlog_is_packed_too(
    store: Store, settings: Settings, target: Target, clock: Clock
) -> None:
    many(store, target, NAMES)
    drainer = Drainer(store, replace(settings, max_request_bytes=5000), clock=clock)
    assert drainer.pack_idle()


def test_what_is_delivered_but_not_settled_is_not_packed(
    store: Store,
    settings: Settings,
    target: Target,
    clock: Clock,
    langfuse: StandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    many(store, target, NAMES)
    drainer = drainer_of(store, replace(settings, max_request_bytes=5000), target, clock)
    with monkeypatch.context() as patch:
        patch.setattr(store, "settle", refuse_to_settle)
        drainer.send_due()
    langfuse.behave(standin.unavailable())
    store.wait(route_of(store), 1000, clock.now, "503")
    assert not drainer.pack_idle()


# Straight from the inbox


@pytest.fixture
def fresh(store: Store, settings: Settings, target: Target, clock: Clock) -> Drainer:
    """Drain a spool whose inbox holds three spans."""
    store.register(target)
    end(store, target, "a", "b", "c")
    return drainer_of(store, settings, target, clock)


def end(store: Store, target: Target, *names: str) -> None:
    for name in names:
        store.accept(target, batch(name), 1.0)


def rows_ever(store: Store) -> int:
    """Count the rows that a route ever took in."""
    return store.last_id(store.routes()[0].name) & (1 << ID_BITS) - 1


def assert_delivered(store: Store, langfuse: StandIn, *names: str) -> None:
    assert langfuse.names() == Counter(names)
    assert store.ledger() == Ledger(accepted=len(names), delivered=len(names))


def test_what_ends_while_the_line_is_well_is_sent_without_becoming_a_row(
    fresh: Drainer, store: Store, target: Target, clock: Clock, langfuse: StandIn
) -> None:
    assert not fresh.send_due()  # what comes meanwhile is sent in company
    assert_delivered(store, langfuse, "a", "b", "c")
    assert fresh.tally == Tally(delivered=3, requests=1)
    end(store, target, "d")
    fresh.send_due()
    assert_delivered(store, langfuse, *"abcd")
    assert len(langfuse.requests) == 2
    assert (rows_ever(store), route_of(store).last_success_at) == (0, clock.now)


def test_the_keeper_leaves_the_inbox_to_a_drainer_that_sends(
    fresh: Drainer, store: Store, settings: Settings, target: Target, langfuse: StandIn
) -> None:
    fresh.send_due()
    end(store, target, "d")
    keeper = Keeper(store, settings)
    store.database.written.clear()
    keeper.keep()
    assert (rows_ever(store), store.database.written.is_set()) == (0, True)
    langfuse.behave(standin.unavailable())
    fresh.send_due()
    keeper.keep()
    assert (rows_ever(store), route_of(store).pending_spans) == (1, 1)


def test_a_request_holds_no_more_of_the_inbox_than_a_row(
    fresh: Drainer, store: Store, target: Target, langfuse: StandIn
) -> None:
    for number in range(40):
        store.accept(target, batch(str(number), size=ROW_BYTES // 10), 1.0)
    assert fresh.send_due()  # there is more
    assert 3 < langfuse.accepted < 20
    drain_all(fresh)
    assert store.ledger() == Ledger(accepted=43, delivered=43)


def test_rows_that_wait_go_before_what_is_in_the_inbox(
    drainer: Drainer, store: Store, target: Target, langfuse: StandIn
) -> None:
    end(store, target, "last")
    drainer.send_due()
    assert [len(request.body) > 0 for request in langfuse.requests] == [True, True]
    assert list(langfuse.names())[-1] == "last"
    assert store.ledger() == Ledger(accepted=21, delivered=21)


def test_what_was_sent_from_the_inbox_in_vain_becomes_rows_and_waits(
    fresh: Drainer, store: Store, settings: Settings, clock: Clock, langfuse: StandIn
) -> None:
    langfuse.behave(standin.too_many(60))
    assert not fresh.send_due()
    route = route_of(store)
    assert (route.attempts, route.wait_seconds) == (1, 60)
    Keeper(store, settings).save()
    fresh.send_due()  # it is not due
    assert len(langfuse.requests) == 1
    langfuse.behave(None)
    clock.now += 60
    fresh.send_due()
    assert_delivered(store, langfuse, "a", "b", "c")
    assert rows_ever(store) == 1


def test_a_route_whose_key_is_refused_is_held(
    fresh: Drainer, store: Store, langfuse: StandIn
) -> None:
    langfuse.behave(standin.status(401))
    fresh.send_due()
    assert route_of(store).fingerprints
    fresh.send_due()
    assert len(langfuse.requests) == 1
    assert store.ledger() == Ledger(accepted=3, pending=3)


def test_a_bad_span_in_the_inbox_is_found_among_rows(
    fresh: Drainer, store: Store, settings: Settings, langfuse: StandIn
) -> None:
    langfuse.behave(standin.reject_span("b"))
    fresh.send_due()
    Keeper(store, settings).save()
    drain_all(fresh)
    assert langfuse.names() == Counter("ac")
    assert store.ledger() == Ledger(accepted=3, delivered=2, dead=1)


@pytest.mark.parametrize("rejected", [1, 7])
def test_spans_of_the_inbox_that_a_receiver_rejects_are_dead_letters(
    fresh: Drainer, store: Store, langfuse: StandIn, rejected: int
) -> None:
    langfuse.behave(standin.partial_success(rejected, "too old"))
    fresh.send_due()
    dead = min(rejected, 3)
    assert store.ledger() == Ledger(accepted=3, delivered=3 - dead, dead=dead)
    (letter,) = store.dead_letters()
    assert (letter.batch.spans, letter.created_at) == (dead, 1.0)
    assert "too old" in letter.reason
    assert fresh.tally == Tally(delivered=3 - dead, requests=1, dead=dead)


def test_what_several_routes_have_in_the_inbox_becomes_rows_of_each(
    fresh: Drainer, store: Store, settings: Settings, target: Target, langfuse: StandIn
) -> None:
    others = Target.langfuse("pk-lf-others", "sk-lf-others", langfuse.url)
    langfuse.keys["pk-lf-others"] = "sk-lf-others"
    store.register(others)
    fresh.add(others)
    end(store, others, "theirs")
    end(store, target, "mine")
    fresh.send_due()
    assert not langfuse.requests
    Keeper(store, settings).save()
    drain_all(fresh)
    assert_delivered(store, langfuse, "a", "b", "c", "theirs", "mine")
    assert len(langfuse.requests) == 2


def test_a_part_of_the_inbox_that_makes_a_request_is_sent_and_the_rest_at_once(
    store: Store, settings: Settings, target: Target, clock: Clock, langfuse: StandIn
) -> None:
    store.register(target)
    large = [batch(name, size=2000) for name in "abc"]
    for one in large:
        store.accept(target, one, 1.0)
    small = replace(settings, max_request_bytes=5 * large[0].raw_bytes // 2)
    drainer = drainer_of(store, small, target, clock)
    assert drainer.send_due()
    assert not drainer.send_due()
    assert drainer.tally == Tally(delivered=3, requests=2)
    assert_delivered(store, langfuse, "a", "b", "c")


def test_the_keeper_helps_where_much_is_in_the_inbox(
    fresh: Drainer, store: Store, settings: Settings, target: Target, langfuse: StandIn
) -> None:
    for number in range(60):
        store.accept(target, batch(str(number), size=ROW_BYTES // 10), 1.0)
    assert fresh.send_due()
    Keeper(store, settings).save()
    assert rows_ever(store) > 0
    drain_all(fresh)
    assert store.ledger() == Ledger(accepted=63, delivered=63)


def test_what_another_process_has_moved_and_sent_is_not_sent_again(
    fresh: Drainer,
    store: Store,
    settings: Settings,
    target: Target,
    clock: Clock,
    path: Path,
    langfuse: StandIn,
) -> None:
    other = Store(path)
    drainer_of(other, settings, target, clock).drain(10, lambda: None)
    other.close()
    assert_delivered(store, langfuse, "a", "b", "c")
    fresh.send_due()
    end(store, target, "d")
    fresh.send_due()
    assert_delivered(store, langfuse, *"abcd")


def test_a_route_that_another_process_has_put_off_meanwhile_is_not_sent(
    fresh: Drainer, store: Store, clock: Clock, langfuse: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = store.turn.take

    def take_behind_another(sending: float) -> contextlib.AbstractContextManager[bool]:
        store.wait(route_of(store), 60, clock.now, "429")
        return take(sending)

    monkeypatch.setattr(store.turn, "take", take_behind_another)
    fresh.send_due()
    assert not langfuse.requests


def test_between_requests_from_the_inbox_another_process_gets_its_turn(
    fresh: Drainer, store: Store, target: Target, path: Path, langfuse: StandIn
) -> None:
    other, is_had, is_over = Store(path), threading.Event(), threading.Event()

    def poll() -> None:
        while not is_over.is_set():
            with other.turn.take(60) as had:
                if had:
                    is_had.set()
                    return
            time.sleep(0.0005)

    langfuse.behave(standin.delay(0.02))
    fresh.send_due()
    polling = threading.Thread(target=poll)
    polling.start()
    for number in range(300):
        end(store, target, str(number))
        fresh.send_due()
        if is_had.is_set():
            break
    is_over.set()
    polling.join()
    other.close()
    assert is_had.is_set()


def test_a_spool_that_is_closed_while_it_sends_still_settles(
    fresh: Drainer, store: Store, path: Path, langfuse: StandIn
) -> None:
    other = Store(path)
    (file,) = store.inbox.files()

    def close(exchange: standin.Exchange) -> None:
        reply = exchange.judge()
        store.close()
        intake.take_in_others(other, compress=True, sending=10.0)
        exchange.answer(reply)

    langfuse.behave(close)
    fresh.send_due()
    assert_delivered(store, langfuse, "a", "b", "c")
    assert file.path.exists()
    intake.take_in_others(other, compress=True, sending=10.0)  # it is nobody's any more
    other.close()
    assert not file.path.exists()


def test_one_bad_span_alone_in_the_inbox_is_sent_once(
    store: Store, settings: Settings, target: Target, clock: Clock, langfuse: StandIn
) -> None:
    store.register(target)
    end(store, target, "bad")
    langfuse.behave(standin.reject_span("bad"))
    drainer = drainer_of(store, settings, target, clock)
    drainer.send_due()
    assert len(langfuse.requests) == 1
    assert store.ledger() == Ledger(accepted=1, dead=1)
    assert drainer.tally == Tally(requests=1, dead=1)
    assert route_of(store).last_success_at is None


def test_a_delivery_leaves_the_endpoint_that_another_process_has_registered(
    fresh: Drainer, store: Store, target: Target, langfuse: StandIn
) -> None:
    store.register(Target.langfuse(target.route, "sk-lf-test", "http://127.0.0.1:9"))
    endpoint = route_of(store).endpoint
    fresh.send_due()
    assert_delivered(store, langfuse, "a", "b", "c")
    assert route_of(store).endpoint == endpoint


def test_a_route_without_a_target_keeps_its_spans_until_they_are_rows(
    fresh: Drainer, store: Store, settings: Settings, langfuse: StandIn
) -> None:
    end(store, Target.langfuse("pk-lf-theirs", "sk-lf-theirs", langfuse.url), "theirs")
    fresh.send_due()
    Keeper(store, settings).save()
    drain_all(fresh)
    assert langfuse.names() == Counter("abc")
    assert store.ledger() == Ledger(accepted=4, delivered=3, pending=1)


def test_a_damaged_inbox_is_not_sent_as_it_is(
    fresh: Drainer, store: Store, settings: Settings, target: Target, langfuse: StandIn
) -> None:
    (file,) = store.inbox.files()
    with file.path.open("r+b") as damaged:
        damaged.seek(60)
        damaged.write(b"\x00\x00")
    fresh.send_due()
    assert not langfuse.requests
    Keeper(store, settings).save()
    drain_all(fresh)
    assert langfuse.names() == Counter("bc")
    assert store.ledger() == Ledger(accepted=3, delivered=2, damaged=1)


def test_what_cannot_be_read_at_the_end_of_the_inbox_is_told_when_nothing_more_comes(
    fresh: Drainer, store: Store, settings: Settings, langfuse: StandIn
) -> None:
    (file,) = store.inbox.files()
    fresh.send_due()
    end(store, fresh._targets["pk-lf-test"], "d")
    os.truncate(file.path, file.path.stat().st_size - 1)
    with file.path.open("ab") as damaged:
        damaged.write(b"?")
    fresh.send_due()
    assert store.inbox.files() == [file]
    Keeper(store, settings).save()
    assert langfuse.names() == Counter("abc")
    assert store.ledger() == Ledger(accepted=4, delivered=3, damaged=1)


def test_a_small_spool_sends_only_rows(
    fresh: Drainer, store: Store, settings: Settings, target: Target, clock: Clock
) -> None:
    small = replace(settings, max_bytes=31 << 20)
    drainer = drainer_of(store, small, target, clock)
    drainer.send_due()
    assert store.ledger() == Ledger(accepted=3, pending=3)
    Keeper(store, small).save()
    drain_all(drainer)
    end(store, target, "d")
    Keeper(store, small).save()  # it is not kept from it
    assert route_of(store).pending_spans == 1


def test_what_is_being_sent_is_not_moved_meanwhile(
    fresh: Drainer, store: Store, settings: Settings, path: Path, langfuse: StandIn
) -> None:
    other = Store(path)
    seen: list[bool] = []

    def look(exchange: standin.Exchange) -> None:
        reply = exchange.judge()
        intake.take_in(store, compress=True)
        is_done = intake.take_in_others(other, compress=True, sending=10.0, everything=True)
        seen.extend([is_done, fresh.has_prospects()])
        exchange.answer(reply)

    langfuse.behave(look)
    fresh.send_due()
    other.close()
    assert seen == [False, True]
    assert not fresh.has_prospects()
    assert_delivered(store, langfuse, "a", "b", "c")
    assert rows_ever(store) == 0


def test_what_a_deputy_has_moved_meanwhile_is_not_delivered_twice_over(
    fresh: Drainer, store: Store, path: Path, langfuse: StandIn
) -> None:
    other = Store(path)

    def move(exchange: standin.Exchange) -> None:  # it takes us for stopped
        reply = exchange.judge()
        intake.take_in_others(other, compress=True, sending=-100.0, everything=True)
        exchange.answer(reply)

    langfuse.behave(move)
    fresh.send_due()
    other.close()
    assert store.ledger() == Ledger(accepted=3, pending=3)
    langfuse.behave(None)
    drain_all(fresh)
    assert langfuse.names() == Counter("aabbcc")  # the request in flight, once more
    assert store.ledger() == Ledger(accepted=3, delivered=3)


def test_what_was_delivered_from_the_inbox_and_cannot_be_settled_is_not_sent_again(
    fresh: Drainer,
    store: Store,
    settings: Settings,
    langfuse: StandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(store, "deliver", refuse_to_settle)
        fresh.send_due()
        fresh.send_due()
        Keeper(store, settings).save()
        assert fresh.tally == Tally(requests=1)
    assert store.ledger() == Ledger(accepted=3, pending=3)
    fresh.send_due()
    assert_delivered(store, langfuse, "a", "b", "c")
    assert (fresh.tally, rows_ever(store)) == (Tally(delivered=3, requests=1), 0)


def test_a_delivery_of_a_spool_that_was_moved_away_is_settled_by_nobody_here(
    fresh: Drainer, store: Store, path: Path, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(store, "deliver", refuse_to_settle)
        fresh.send_due()
    path.parent.rename(path.parent.with_name("moved"))
    intake.take_in(store, compress=True)  # it goes on with a new file
    end(store, target, "d")
    intake.take_in(store, compress=True)
    for _ in range(2):
        fresh.send_due()
    assert store.ledger() == Ledger(accepted=1, delivered=1)
    assert not fresh.has_prospects()


def test_an_idle_drainer_takes_no_turn(store: Store, drainer: Drainer) -> None:
    drain_all(drainer)
    signed = signature(store.turn._turn.path)
    drainer.send_due()
    assert signature(store.turn._turn.path) == signed


def test_a_defect_while_sending_leaves_the_inbox_to_the_keeper(
    fresh: Drainer, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defective(*_: object) -> Outcome:
        raise ValueError("a defect")

    monkeypatch.setattr(Sender, "send", defective)
    with pytest.raises(ValueError, match="a defect"):
        fresh.send_due()
    Keeper(store, settings).save()
    assert route_of(store).pending_spans == 3


def test_an_emptied_inbox_is_removed_when_its_delivery_is_synced(
    fresh: Drainer, store: Store, settings: Settings, target: Target, langfuse: StandIn
) -> None:
    (first,) = (file.path for file in store.inbox.files())
    store.accept(target, batch("large", size=LARGE), 1.0)
    drain_all(fresh)
    end(store, target, "d")
    fresh.send_due()
    assert first.exists()
    Keeper(store, settings).keep()
    assert not first.exists()
    assert_delivered(store, langfuse, *"abc", "large", "d")


# Trouble of its own


@pytest.mark.parametrize("trouble", [SpoolFileError("gone"), ValueError("a defect")])
def test_no_trouble_ends_the_drainer(
    drainer: Drainer,
    store: Store,
    langfuse: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    trouble: Exception,
) -> None:
    def fail() -> list[Route]:
        raise trouble

    with monkeypatch.context() as patch:
        patch.setattr(store, "routes", fail)
        drainer.start()
        time.sleep(0.1)
    drainer.wake()
    langfuse.wait_for(lambda server: len(server.names()) == 20)
    drainer.stop(10)


def refuse_to_settle(*_: object, **__: object) -> int:
    raise SpoolFileError("no space left")


def test_nobody_packs_while_another_process_sends(
    store: Store, settings: Settings, target: Target, clock: Clock, path: Path
) -> None:
    many(store, target, NAMES)
    drainer = Drainer(store, replace(settings, max_request_bytes=5000), clock=clock)
    other = Store(path)
    with other.turn.take(60):
        assert not drainer.pack_idle()
    other.close()
    assert drainer.pack_idle()


def test_one_routes_outage_does_not_keep_another_from_going_out(
    drainer: Drainer, store: Store, clock: Clock, langfuse: StandIn
) -> None:
    with StandIn(keys={"pk-lf-other": "sk-lf-other"}) as other:
        other.behave(standin.unavailable())
        theirs = Target.langfuse("pk-lf-other", "sk-lf-other", other.url)
        store.append(theirs, batch("theirs"), clock.now)
        drainer.add(theirs)
        drain_all(drainer)
    assert len(langfuse.names()) == 20
    assert store.ledger().pending == 1


def test_a_line_that_is_too_slow_for_a_request_gets_smaller_ones(
    drainer: Drainer, store: Store, clock: Clock, langfuse: StandIn
) -> None:
    sizes: list[int] = []

    def slow(exchange: standin.Exchange) -> None:
        sizes.append(len(exchange.read().body))
        if sizes[-1] > 700:
            exchange.hang()
        else:
            exchange.answer(exchange.judge())

    langfuse.behave(slow)
    impatient = Drainer(store, replace(drainer._settings, timeout_seconds=0.2), clock=clock)
    impatient.add(drainer._targets["pk-lf-test"])
    for _ in range(40):
        impatient.send_due()
        clock.now += 1
    assert sizes[0] > 700
    assert_nothing_lost(store, langfuse)


def drain_with_time(drainer: Drainer, clock: Clock, until: Callable[[], bool]) -> None:
    """Let the drainer work, the wall clock running fast, until something holds."""
    for _ in range(3000):
        if until():
            return
        if not drainer.send_due():
            clock.now += 61
            time.sleep(0.005)
    raise AssertionError("it never came to hold")


@pytest.mark.parametrize("packing", ["a row a span", "one row"])
@pytest.mark.parametrize("name", ["s0", "s7", "s19"])
def test_a_span_that_alone_gets_5xx_for_ever_is_gone_around_and_then_a_dead_letter(
    name: str,
    packing: str,
    store: Store,
    settings: Settings,
    target: Target,
    clock: Clock,
    langfuse: StandIn,
) -> None:
    rows = [[name] for name in NAMES] if packing == "a row a span" else [NAMES]
    for names in rows:
        store.append(target, batch(*names), clock.now)
    langfuse.behave(standin.poison(name))
    drainer = drainer_of(store, settings, target, clock)

    def feed() -> bool:
        store.append(target, batch("fresh"), clock.now)
        return store.ledger().dead == 1

    drain_with_time(drainer, clock, feed)
    langfuse.behave(None)
    drain_with_time(drainer, clock, lambda: store.ledger().pending == 0)
    assert set(langfuse.names()) == {*NAMES, "fresh"} - {name}
    (letter,) = store.dead_letters()
    assert letter.batch.spans == 1
    store.retry(letter)
    drain_with_time(drainer, clock, lambda: store.ledger().pending == 0)
    assert langfuse.names()[name] == 1


def test_what_stands_behind_poison_keeps_flowing(
    drainer: Drainer, store: Store, target: Target, clock: Clock, langfuse: StandIn
) -> None:
    langfuse.behave(standin.poison("s0"))
    drain_with_time(drainer, clock, lambda: len(langfuse.names()) == 19)
    for number in range(50):
        store.append(target, batch(f"fresh {number}"), clock.now)
    drain_with_time(drainer, clock, lambda: len(langfuse.names()) == 69)
    assert store.ledger().pending == 1


def test_an_outage_however_long_makes_no_dead_letters(
    drainer: Drainer, store: Store, target: Target, clock: Clock, langfuse: StandIn
) -> None:
    langfuse.behave(standin.server_error())
    for _ in range(300):
        store.append(target, batch("fresh"), clock.now)
        drainer.send_due()
        clock.now += 61
    assert store.ledger().dead == 0
    langfuse.behave(None)
    drain_with_time(drainer, clock, lambda: store.ledger().pending == 0)
    assert store.ledger().delivered == 320


def test_what_was_sent_from_a_file_that_was_moved_is_not_settled_in_the_new_one(
    drainer: Drainer, store: Store, target: Target, path: Path, clock: Clock, langfuse: StandIn
) -> None:
    def move_while_answering(exchange: standin.Exchange) -> None:
        reply = exchange.judge()
        path.rename(path.with_name("moved.db"))
        store.append(target, batch("new"), clock.now)
        exchange.answer(reply)

    langfuse.behave(standin.sequence([move_while_answering, None]))
    drainer.send_due()
    assert "new" not in langfuse.names()
    assert store.ledger().pending == 1
    drain_all(drainer)
    assert langfuse.names()["new"] == 1


def test_a_route_of_another_file_is_never_sent_with_these_credentials(
    drainer: Drainer, store: Store, target: Target, path: Path, clock: Clock, langfuse: StandIn
) -> None:
    theirs = Target.langfuse("pk-lf-theirs", "sk-lf-theirs", langfuse.url)
    routes = store.routes()
    path.rename(path.with_name("moved.db"))
    store.append(theirs, batch("theirs"), clock.now)
    assert store.routes()[0].id == routes[0].id
    assert drainer._send_in_turn(routes[0].id, target) is None
    assert langfuse.requests == []


def test_a_retry_after_of_nothing_still_backs_off(
    drainer: Drainer, store: Store, langfuse: StandIn
) -> None:
    langfuse.behave(standin.too_many(0))
    drainer.send_due()
    assert route_of(store).wait_seconds == 0.01


def test_what_another_process_has_just_put_off_is_not_tried_in_the_same_moment(
    drainer: Drainer, store: Store, langfuse: StandIn, clock: Clock
) -> None:
    route = route_of(store)
    store.wait(route, 60, clock.now, "503")
    assert drainer._send_in_turn(route.id, drainer._targets[route.name]) is None
    assert langfuse.requests == []


def test_overlapping_cuts_make_no_negative_dead_letters(
    store: Store, target: Target, clock: Clock
) -> None:
    store.append(target, batch(*"abcdef"), clock.now)
    late = store.oldest(1, max_bytes=1 << 20, max_spans=1)
    early = store.oldest(1, max_bytes=1 << 20, max_spans=4)
    assert early is not None
    assert late is not None
    store.settle(early, clock.now)
    store.settle(late, clock.now, dead=1, reason="400")
    ledger = store.ledger()
    assert (ledger.delivered, ledger.dead, ledger.pending) == (4, 0, 2)


# Inboxes


def test_it_takes_over_what_a_dead_process_left(
    store: Store, settings: Settings, target: Target, path: Path, langfuse: StandIn, clock: Clock
) -> None:
    dead = Store(path)
    dead.open()
    dead.accept(target, batch("left"), clock.now)
    dead.close()  # as its death does
    drain_all(drainer_of(store, settings, target, clock))
    assert set(langfuse.names()) == {"left"}
    assert inbox.paths(path) == []


def test_an_inbox_that_cannot_be_read_keeps_nothing_else_back(
    drainer: Drainer,
    langfuse: StandIn,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unreadable(_: Path) -> list[Path]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(inbox, "paths", unreadable)
    drain_all(drainer)
    assert set(langfuse.names()) == set(NAMES)
    assert "inboxes of other processes" in caplog.text
