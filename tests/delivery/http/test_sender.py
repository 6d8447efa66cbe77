"""What is sent, and that nothing which a server says harms the sender."""

from __future__ import annotations

import gzip
import threading
import time
from base64 import b64encode
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from freezegun import freeze_time

import standin
from senders import BODY, MakeSender
from spans import batch
from spool.delivery.http.classification import Outcome, Verdict
from spool.delivery.http.connection import Connection
from spool.delivery.http.sender import Sender
from spool.otlp.batch import join
from spool.settings.target import Target
from standin import HTML, JSON, PATH, Exchange, StandIn

PUBLIC, SECRET = "pk-lf-test", "sk-lf-test"
TOKEN = b64encode(f"{PUBLIC}:{SECRET}".encode()).decode()
DELIVERED, WAIT = Verdict.DELIVERED, Verdict.WAIT


# What is sent


def test_a_delivered_request_is_what_langfuse_wants(langfuse: StandIn, sender: Sender) -> None:
    outcome = sender.send(BODY, 10)
    assert outcome == Outcome(DELIVERED)
    (request,) = langfuse.requests
    assert (request.method, request.path, request.body) == ("POST", PATH, BODY)
    headers = dict(request.headers)
    assert headers.pop("user-agent").startswith("langfuse-spool/")
    assert headers.pop("x-langfuse-sdk-version")
    assert headers == {
        "host": f"127.0.0.1:{langfuse.port}",
        "authorization": f"Basic {TOKEN}",
        "content-type": "application/x-protobuf",
        "content-encoding": "gzip",
        "content-length": str(len(BODY)),
        "accept-encoding": "identity",
        "x-langfuse-ingestion-version": "4",
        "x-langfuse-sdk-name": "langfuse-spool",
    }


def test_a_body_of_many_members_is_delivered_whole(langfuse: StandIn, sender: Sender) -> None:
    batches = [batch("a"), batch("b", "c")]
    body = b"".join(gzip.compress(one.payload) for one in batches) + join(
        [batch("d")], compress=True
    )
    assert sender.send(body, 10).verdict is DELIVERED
    assert langfuse.names() == {"a": 1, "b": 1, "c": 1, "d": 1}


def test_without_compression_the_body_is_declared_as_it_is(
    langfuse: StandIn, target: Target, sender_to: MakeSender
) -> None:
    sender = sender_to(target, compression="none")
    assert sender.send(join([batch("call")], compress=False), 10).verdict is DELIVERED
    assert "content-encoding" not in langfuse.requests[0].headers
    assert langfuse.accepted == 1


@pytest.mark.parametrize("is_gzip", [False, True])
def test_a_body_is_declared_as_it_is_whatever_another_thread_learns_meanwhile(
    langfuse: StandIn, sender: Sender, is_gzip: bool
) -> None:
    sender.encoding.is_gzip = not is_gzip
    assert sender.send(join([batch("call")], compress=is_gzip), 10).verdict is DELIVERED
    assert ("content-encoding" in langfuse.requests[0].headers) == is_gzip
    assert langfuse.accepted == 1


def test_another_otlp_receiver_gets_its_own_headers_and_query_and_nothing_of_langfuse(
    langfuse: StandIn, sender_to: MakeSender
) -> None:
    target = Target.otlp(langfuse.url + "/v1/traces?tenant=a%20b", {"Api-Key": "k"})
    sender = sender_to(target)
    sender.send(BODY, 10)
    (request,) = langfuse.requests
    assert request.path == "/v1/traces?tenant=a%20b"
    assert request.headers["api-key"] == "k"
    assert not [name for name in request.headers if "langfuse" in name]
    assert "authorization" not in request.headers


def test_a_content_type_that_is_given_is_not_heeded(
    langfuse: StandIn, sender_to: MakeSender
) -> None:
    sender = sender_to(Target.otlp(langfuse.endpoint, {"Content-Type": "application/json"}))
    sender.send(BODY, 10)
    (request,) = langfuse.requests
    assert request.headers["content-type"] == "application/x-protobuf"


def test_a_redirect_is_not_followed(langfuse: StandIn, sender: Sender) -> None:
    with StandIn() as portal:
        langfuse.behave(standin.redirect_302(f"{portal.url}/login?token=s3cret"))
        outcome = sender.send(BODY, 10)
        assert outcome.verdict is WAIT
        assert f"{portal.url}/login" in outcome.reason
        assert "s3cret" not in outcome.reason
        assert not portal.connections
    assert not langfuse.accepted


def test_a_date_to_wait_for_is_measured_from_the_servers_clock(
    langfuse: StandIn, sender: Sender
) -> None:
    years = 56 * 365.25 * 86400
    with freeze_time("1970-01-01 00:00:20", tick=True):
        langfuse.behave(standin.retry_after_date(30, clock_offset=years))
        outcome = sender.send(BODY, 10)
    assert (outcome.verdict, outcome.retry_after) == (WAIT, 30)


def test_seconds_to_wait_are_taken_from_a_real_answer(langfuse: StandIn, sender: Sender) -> None:
    langfuse.behave(standin.too_many(17))
    assert sender.send(BODY, 10).retry_after == 17
    langfuse.behave(standin.busy())
    assert sender.send(BODY, 10).retry_after == 1


# Hostile servers


HOSTILE = [
    (302, "", JSON, {"location": "http://[::1"}),
    (302, "", JSON, {"location": "//[x]/"}),
    (200, "[" * 60_000, JSON, {}),
    (500, "[" * 60_000, JSON, {}),
    (200, '{"partialSuccess": {"rejectedSpans": 1e999}}', JSON, {}),
    (200, '{"partialSuccess": {"rejectedSpans": NaN}}', JSON, {}),
    (200, '{"partialSuccess": {"rejectedSpans": ' + "9" * 5000 + "}}", JSON, {}),
    (200, '{"partialSuccess": [1]}', JSON, {}),
    (429, "", JSON, {"retry-after": "Mon, 23 Nov 99999999999999999999 10:00:30 GMT"}),
    (429, "", JSON, {"retry-after": "1 Jan 2026 0:0:0 +99999999999999999999"}),
]


@pytest.mark.parametrize(("status", "body", "kind", "headers"), HOSTILE)
def test_nothing_that_a_server_says_is_an_exception(
    langfuse: StandIn,
    sender: Sender,
    status: int,
    body: str,
    kind: str,
    headers: Mapping[str, str],
) -> None:
    langfuse.behave(standin.status(status, headers, body, kind))
    assert sender.send(BODY, 10).verdict is WAIT


@pytest.mark.parametrize("part", ["<", "<style", "<script><", "<style></", "&lt;"])
def test_a_page_that_is_hard_to_read_costs_no_time_beyond_the_deadline(
    langfuse: StandIn, sender: Sender, part: str
) -> None:
    langfuse.behave(standin.status(502, body=(part * 65536)[:65536], content_type=HTML))
    started = time.monotonic()
    assert sender.send(BODY, 0.5).verdict is WAIT
    assert time.monotonic() - started < 10


# Several threads


def test_a_request_that_fails_breaks_none_that_another_thread_has_under_way(
    langfuse: StandIn, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_asked, is_answered, has_failed = (threading.Event() for _ in range(3))
    getresponse = Connection.getresponse

    def tell(connection: Connection) -> Any:
        response = getresponse(connection)
        is_answered.set()
        return response

    def fail(exchange: Exchange) -> None:
        exchange.read()
        is_asked.set()
        is_answered.wait(30)
        exchange.reset()

    def answer_late(exchange: Exchange) -> None:
        reply = exchange.judge()
        exchange.settle(reply)
        exchange.send(reply.head())
        has_failed.wait(30)
        exchange.send(reply.body)

    monkeypatch.setattr(Connection, "getresponse", tell)
    langfuse.behave(standin.sequence([fail, answer_late]))
    with ThreadPoolExecutor(1) as other:
        failing = other.submit(sender.send, BODY, 120)
        failing.add_done_callback(lambda _: has_failed.set())
        assert is_asked.wait(60)
        assert sender.send(BODY, 120) == Outcome(DELIVERED)
        assert failing.result().verdict is WAIT
