from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

import standin
from spans import batch
from spool.errors import SpoolFileError
from spool.settings.target import Target
from spool.store import route_waits
from spool.store.store import Store
from standin import StandIn
from terminals import on_terminal
from users import invoke, spool

pytestmark = pytest.mark.once


def test_drain_delivers_all_and_says_so(filled: Store, langfuse: StandIn) -> None:
    assert spool("drain").stdout.startswith("delivered 10 spans in 1 request")
    assert langfuse.accepted == 10


def test_drain_prints_the_public_json(filled: Store) -> None:
    result = json.loads(spool("drain", "--json").stdout)
    assert set(result) == {"delivered", "requests", "pending", "dead", "seconds"}
    assert (result["delivered"], result["pending"], result["dead"]) == (10, 0, 0)


def test_drain_with_the_endpoint_down_leaves_all_and_exits_with_1(
    filled: Store, langfuse: StandIn
) -> None:
    langfuse.stop()
    done = spool("drain", code=1)
    assert "delivered 0 spans" in done.stdout
    assert "10 spans wait" in done.stderr
    assert "nobody listens" in done.stderr


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
    route_waits.wait(store.database, store.routes()[0], 3600, now=1e12, reason="503")
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
    shown = on_terminal("drain")
    assert "draining" in shown
    assert "100%" in shown
    assert "delivered 0 spans in 0 requests" in on_terminal("drain"), "of nothing there is a bar"


def test_drain_says_why_it_gave_up_and_what_to_do(filled: Store, langfuse: StandIn) -> None:
    langfuse.stop()
    (said,) = invoke("drain", code=1).stderr.splitlines()
    assert said == (
        f"pk-lf-test: 10 spans wait: nobody listens at 127.0.0.1:{langfuse.port}; start the "
        "server, or correct the host and its port (given up after 3 tries)"
    )


def test_of_many_routes_those_that_are_left_for_one_reason_are_one_line(
    store: Store, langfuse: StandIn
) -> None:
    for number in range(20):
        target = Target.langfuse(f"pk-lf-{number:02}", "sk-lf-of-others", langfuse.url)
        store.append(target, batch("a", "b"), now=1.0)
    (said,) = invoke("drain", code=1).stderr.splitlines()
    assert said.startswith("pk-lf-00, pk-lf-01, pk-lf-02, …: 40 spans wait: ")


def test_drain_says_what_its_time_was_over_for(filled: Store, langfuse: StandIn) -> None:
    langfuse.behave(standin.mute())
    said = invoke("drain", "--timeout", "0.2", code=1).stderr
    assert said == "pk-lf-test: 10 spans wait: the time is over\n"


def test_the_bar_moves_within_a_request_and_says_what_it_waits_for(
    store: Store, target: Target, langfuse: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    monkeypatch.setenv("SPOOL_BACKOFF_SECONDS", "0.1..0.1")
    # More than the buffers of a connection hold.
    store.append(target, batch("big", size=32 << 20), now=1.0)
    store.close()

    def slow(exchange: standin.Exchange) -> None:
        exchange.read(0.1)
        exchange.pause(2)
        exchange.reset()

    langfuse.behave(standin.sequence([slow, standin.too_many(2), None]))
    shown = on_terminal("drain")
    percents = set(map(int, re.findall(r"(\d+)%", shown)))
    assert {0, 100} < percents, "a part of the one span"
    assert "pk-lf-test failed; next try in " in shown
    assert "a request is under way for " in shown


def test_drain_tells_the_spool_where_its_route_goes_now(
    filled: Store, langfuse: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StandIn() as moved:
        monkeypatch.setenv("LANGFUSE_HOST", moved.url)
        invoke("drain")
        assert filled.routes()[0].endpoint == moved.endpoint


def test_two_drains_at_once_deliver_all_of_it_once(
    filled: Store, store: Store, langfuse: StandIn
) -> None:
    langfuse.behave(standin.delay(0.2))
    with ThreadPoolExecutor(2) as pool:
        for done in pool.map(lambda _: spool("drain"), range(2)):
            assert "0 spans pending" in done.stdout
    assert set(langfuse.names().values()) == {1}
    assert store.ledger().delivered == 10


def test_what_was_delivered_and_not_settled_is_told_as_the_disks_trouble(
    filled: Store, langfuse: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    langfuse.behave(standin.unavailable())
    invoke("drain", "--timeout", "0.5", code=1)  # what is remembered of that is no reason any more
    langfuse.behave(None)

    def refuse(*_: object, **__: object) -> int:
        raise SpoolFileError("the disk is full")

    monkeypatch.setattr(Store, "settle", refuse)
    done = invoke("drain", code=1)
    assert "10 spans wait: they were delivered, but the disk takes no note of that" in done.stderr
    assert "503" not in done.stderr.splitlines()[-1]
