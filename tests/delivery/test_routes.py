from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from freezegun import freeze_time

import standin
from drains import (
    Clock,
    NewDrainer,
    assert_nothing_lost,
    drain_all,
    route_of,
)
from spans import batch
from spool.delivery.drainer import Drainer
from spool.delivery.http.classification import Outcome, Verdict
from spool.errors import SpoolFileError
from spool.settings.settings import Settings
from spool.settings.target import Target
from spool.store import ingest, route_waits
from spool.store.store import Store
from standin import StandIn

pytestmark = pytest.mark.once


def test_a_401_gets_one_request_in_five_minutes_over_restarts_too(
    drainer: Drainer, clock: Clock, langfuse: StandIn, new_drainer: NewDrainer
) -> None:
    langfuse.behave(standin.status(401))
    for _ in range(300):
        drainer = new_drainer()
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
    drainer.routes.add(wrong)
    drain_all(drainer)
    assert route_of(store).fingerprints
    drainer.routes.add(Target.langfuse("pk-lf-test", "sk-lf-test", langfuse.url))
    drain_all(drainer)
    assert_nothing_lost(store, langfuse)


def test_two_processes_with_wrong_secrets_do_not_make_each_other_hammer(
    drainer: Drainer, langfuse: StandIn, new_drainer: NewDrainer
) -> None:
    wrong = [Target.langfuse("pk-lf-test", f"sk-lf-{word}", langfuse.url) for word in "ab"]
    both = [new_drainer(one) for one in wrong]
    for _ in range(10):
        for one in both:
            one.send_due()
    assert len(langfuse.requests) == 2


def test_an_old_secret_is_held_while_another_process_delivers_with_the_new_one(
    store: Store, target: Target, clock: Clock, langfuse: StandIn, new_drainer: NewDrainer
) -> None:
    old = Target.langfuse("pk-lf-test", "sk-lf-old", langfuse.url)
    both = [new_drainer(one) for one in (old, target)]
    for number in range(100):
        store.append(target, batch(f"row {number}"), clock.now)
        store.accept(old, batch(f"journal {number}"), clock.now)
        for one in both:
            one.send_due()
        ingest.ingest(store, compress=True)
        clock.now += 3
    refused = [request for request in langfuse.requests if request.status == 401]
    assert len(refused) == 1
    drain_all(both[1])
    assert len(langfuse.names()) == 200
    assert not route_of(store).is_held


def test_a_server_in_trouble_is_left_alone_where_another_targets_secret_is_held(
    store: Store, target: Target, clock: Clock, langfuse: StandIn, new_drainer: NewDrainer
) -> None:
    old = Target.langfuse("pk-lf-test", "sk-lf-old", langfuse.url)
    store.append(target, batch("a"), clock.now)
    drain_all(new_drainer(old))
    clock.now += 1
    langfuse.behave(standin.too_many(60))
    drainer = new_drainer()
    for _ in range(50):
        drainer.send_due()
        clock.now += 1
    assert len(langfuse.requests) == 2


def test_retry_after_is_honoured_over_restarts(
    drainer: Drainer, store: Store, clock: Clock, langfuse: StandIn, new_drainer: NewDrainer
) -> None:
    langfuse.behave(standin.sequence([standin.too_many(120), None]))
    drainer.send_due()
    for _ in range(119):
        clock.now += 1
        assert not new_drainer().send_due()
    clock.now += 1
    drain_all(new_drainer())
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


def test_failures_back_off_further_and_further(
    drainer: Drainer, store: Store, clock: Clock, langfuse: StandIn
) -> None:
    langfuse.behave(standin.unavailable())
    for attempt in range(1, 6):
        drainer.send_due()
        assert route_of(store).attempts == attempt
        clock.now += 61


def test_only_routes_whose_secret_is_held_are_sent(
    drainer: Drainer, store: Store, settings: Settings, clock: Clock, langfuse: StandIn
) -> None:
    theirs = Target.langfuse("pk-lf-theirs", "sk-lf-theirs", langfuse.url)
    store.append(theirs, batch("theirs"), clock.now)
    drain_all(drainer)
    assert "theirs" not in langfuse.names()
    assert store.ledger().pending == 1


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
        text = f"# their project\npk-lf-theirs: sk-lf-theirs {langfuse.url}\n"
        credentials.write_text(text)
        drain_all(drainer)
        assert langfuse.names()["theirs"] == 1


def test_a_backlog_goes_to_the_stored_endpoint_where_none_is_named(
    drainer: Drainer, store: Store, langfuse: StandIn, new_drainer: NewDrainer
) -> None:
    unnamed = Target.langfuse("pk-lf-test", "sk-lf-test")
    drain_all(new_drainer(unnamed))
    assert_nothing_lost(store, langfuse)


def test_a_backlog_follows_a_host_that_moved(
    drainer: Drainer, store: Store, langfuse: StandIn, new_drainer: NewDrainer
) -> None:
    with StandIn() as moved:
        named = Target.langfuse("pk-lf-test", "sk-lf-test", moved.url)
        drain_all(new_drainer(named))
        assert_nothing_lost(store, moved)
    assert langfuse.requests == []


def test_a_wait_that_the_file_cannot_take_is_kept_all_the_same(
    drainer: Drainer, store: Store, langfuse: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> int:
        raise SpoolFileError("the disk is full")

    monkeypatch.setattr(route_waits, "wait", failing)
    langfuse.behave(standin.too_many(3600))
    with pytest.raises(SpoolFileError):
        drainer.send_due()
    for _ in range(20):
        drainer.send_due()
    assert len(langfuse.requests) == 1


def test_a_wait_is_kept_where_memory_delivers_spans_of_the_route_while_it_is_written(
    drainer: Drainer,
    store: Store,
    target: Target,
    langfuse: StandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wait = route_waits.wait

    def wait_beside_a_delivery(*arguments: Any, **named: Any) -> None:
        wait(*arguments, **named)
        drainer.routes.count(target.route, 1, Outcome(Verdict.DELIVERED))  # as the other thread

    monkeypatch.setattr(route_waits, "wait", wait_beside_a_delivery)
    langfuse.behave(standin.server_error())
    drainer.send_due()
    assert route_of(store).attempts == 1
    assert not drainer.routes.has_failed(target.route)


def test_a_retry_after_of_nothing_still_backs_off(
    drainer: Drainer, store: Store, langfuse: StandIn
) -> None:
    langfuse.behave(standin.too_many(0))
    drainer.send_due()
    assert route_of(store).wait_seconds == 0.01


def test_a_route_that_goes_down_is_said_once_an_hour_and_that_it_works_again_once(
    drainer: Drainer, clock: Clock, langfuse: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    langfuse.behave(standin.unavailable())
    for _ in range(5):
        drainer.send_due()
        clock.now += 2
    assert len(caplog.messages) == 1
    assert "route pk-lf-test waits: " in caplog.text
    langfuse.behave(standin.too_many(0))  # another cause is another thing to know
    drainer.send_due()
    assert len(caplog.messages) == 2
    clock.now += 7370
    langfuse.behave(None)
    drain_all(drainer)
    (said,) = caplog.messages[2:]
    assert said.endswith("works again: after 2 h 3 min, 20 spans that waited are being sent")
    assert caplog.records[-1].levelname == "WARNING"  # as the one that it ends


def test_each_time_that_a_route_goes_down_anew_is_said(
    drainer: Drainer, store: Store, target: Target, langfuse: StandIn,
    caplog: pytest.LogCaptureFixture, clock: Clock,
) -> None:  # fmt: skip
    for _ in range(2):
        langfuse.behave(standin.unavailable())
        drainer.send_due()
        langfuse.behave(None)
        clock.now += 2
        drain_all(drainer)
        store.append(target, batch("more"), clock.now)
    assert caplog.text.count("route pk-lf-test waits: ") == 2
