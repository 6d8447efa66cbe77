"""What each response means."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import standin
from senders import BODY, MakeSender
from spans import batch
from spool.delivery.http.classification import Outcome, Verdict, classify
from spool.delivery.http.response import Response
from spool.delivery.http.sender import Sender
from spool.otlp.batch import join
from spool.settings.target import Target
from standin import HTML, JSON, PROTOBUF, Behaviour, StandIn

pytestmark = pytest.mark.once

DELIVERED, WAIT, HOLD, SPLIT = Verdict.DELIVERED, Verdict.WAIT, Verdict.HOLD, Verdict.SPLIT


def response(status: int, body: str = "", kind: str = JSON, **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status, {"content-type": kind, **named}, body.encode())


@pytest.mark.parametrize(
    ("behaviour", "verdict", "words"),
    [
        (standin.healthy, DELIVERED, ""),
        (standin.status(200, body="{}"), DELIVERED, ""),
        (standin.protobuf_ok(), DELIVERED, ""),
        (standin.status(202, body="{}", content_type=f"{JSON}; charset=utf-8"), DELIVERED, ""),
        (standin.status(200, body="{}", content_type="Application/JSON"), DELIVERED, ""),
        # A captive portal, or whatever else is no OTLP answer.
        (standin.html_200(), WAIT, "200 with a web page, not as a receiver answers"),
        (standin.status(200, body="ok", content_type="text/plain"), WAIT, "text/plain"),
        (standin.status(200, body="{}", content_type=""), WAIT, "no content type"),
        (standin.status(204, body="", content_type=""), WAIT, "204 with no content type"),
        (standin.status(200, body=""), WAIT, "cannot be read"),
        (standin.status(200, body="<html>"), WAIT, "200 with a web page"),
        (standin.status(200, body="", content_type="application/protobuf"), WAIT, "protobuf"),
        (standin.status(200, body="[]"), WAIT, "cannot be read"),
        (standin.status(200, body=b"\xff\xfe"), WAIT, "cannot be read"),
        (standin.status(200, body="<no>", content_type=PROTOBUF), WAIT, "cannot be read"),
        # Redirects are not followed.
        *(
            (standin.status(code, {"Location": "/x"}), WAIT, f"{code}, a redirect to /x")
            for code in (301, 302, 303, 307, 308)
        ),
        (standin.status(304, body=""), WAIT, "304"),
        # The spans may be to blame.
        (standin.status(400, body="<b>no</b> host", content_type=HTML), SPLIT, "400 no host"),
        (standin.status(422, body='{"error": "cannot convert"}'), SPLIT, "422 cannot convert"),
        (standin.status(400, body='{"error": "Failed to parse"}'), SPLIT, "400 Failed to parse"),
        (standin.status(400, body="bad", content_type="text/plain"), SPLIT, "400 bad"),
        (standin.reject_span("call"), SPLIT, "400 cannot take the span call"),
        (standin.too_large(10), SPLIT, "413 Request Entity Too Large"),
        (standin.status(413, body='{"error": "too large"}'), SPLIT, "413 too large"),
        # The configuration is to blame.
        (standin.status(401), HOLD, "401 Unauthorized"),
        (standin.suspended(), HOLD, "403 Ingestion suspended: Usage threshold"),
        (standin.status(403), HOLD, "403 Forbidden"),
        (standin.status(404, body="<h1>404</h1>", content_type=HTML), HOLD, "404 Not Found"),
        (standin.status(405), HOLD, "405 Method Not Allowed"),
        # Nobody is to blame.
        (standin.status(408), WAIT, "408 Request Timeout"),
        (standin.status(425), WAIT, "425 Too Early"),
        (standin.too_many(2), WAIT, "429 Rate limit exceeded (TooManyRequestsError)"),
        (standin.server_error(), WAIT, "500 Failed to upload JSON to S3"),
        (standin.status(501), WAIT, "501"),
        (standin.status(502, body="<p>Bad</p>Gateway", content_type=HTML), WAIT, "502 Bad Gateway"),
        (standin.unavailable(), WAIT, "503 Service Unavailable"),
        (standin.busy(), WAIT, "503 Service Unavailable"),
        (standin.status(504, body="", content_type=""), WAIT, "504 Gateway Timeout"),
        (standin.status(507), WAIT, "507"),
        (standin.status(599), WAIT, "599"),
        (standin.status(101, body=""), WAIT, "101"),
    ],
)  # fmt: skip
def test_every_answer_has_its_verdict_and_its_reason(
    langfuse: StandIn, sender: Sender, behaviour: Behaviour, verdict: Verdict, words: str
) -> None:
    langfuse.behave(behaviour)
    outcome = sender.send(BODY, 10)
    assert outcome.verdict is verdict
    assert words in outcome.reason
    assert bool(outcome.reason) == bool(words)
    assert not outcome.is_timeout
    langfuse.behave(None)
    assert sender.send(BODY, 10).verdict is DELIVERED


@pytest.mark.parametrize("status", [200, 201, 202, 204, 207, 299])
@pytest.mark.parametrize("kind", ["", JSON, PROTOBUF, "application/protobuf",
                                  "application/octet-stream", "text/plain"])  # fmt: skip
@pytest.mark.parametrize("body", ["", "OK", "{}", "[]", "null"])
def test_every_2xx_of_another_receiver_is_a_delivery(
    langfuse: StandIn, plain: Sender, status: int, kind: str, body: str
) -> None:
    langfuse.behave(standin.status(status, body="" if status == 204 else body, content_type=kind))
    for _ in range(2):
        assert plain.send(BODY, 10) == Outcome(DELIVERED)
    assert langfuse.connections == 1  # the answer was read to its end


@pytest.mark.parametrize("kind", [HTML, "application/xhtml+xml", "", JSON, "text/plain"])
@pytest.mark.parametrize("page", ["<!DOCTYPE html><p>Welcome", " \n<HTML><body>Room number?"])
def test_an_html_page_is_a_delivery_to_nobody(
    langfuse: StandIn, plain: Sender, kind: str, page: str
) -> None:
    langfuse.behave(standin.status(200, body=page, content_type=kind))
    outcome = plain.send(BODY, 10)
    assert (outcome.verdict, "captive portal" in outcome.reason) == (WAIT, True)


@pytest.mark.parametrize("kind", [JSON, PROTOBUF, "application/protobuf"])
def test_what_another_receiver_rejects_is_counted_where_it_can_be_read(kind: str) -> None:
    reply = standin.otlp_reply(2, "no name", as_json=kind == JSON)
    outcome = classify(Response(200, {"content-type": kind}, reply.body), is_strict=False)
    assert outcome == Outcome(DELIVERED, "no name", rejected=2)


def test_a_wrong_key_is_held_in_the_words_of_the_server(
    langfuse: StandIn, sender_to: MakeSender
) -> None:
    wrong = Target.langfuse("pk-lf-test", "sk-lf-wrong", langfuse.url)
    outcome = sender_to(wrong).send(BODY, 10)
    words = "401 Invalid credentials. Confirm that you've configured the correct host."
    assert (outcome.verdict, outcome.reason) == (HOLD, words)


@pytest.mark.parametrize("as_json", [False, True], ids=["protobuf", "json"])
def test_rejected_spans_are_counted_with_the_receivers_words(
    langfuse: StandIn, sender: Sender, as_json: bool
) -> None:
    langfuse.behave(standin.partial_success(2, "two spans had no name", as_json=as_json))
    outcome = sender.send(join([batch("a", "b", "c")], compress=True), 10)
    assert outcome == Outcome(DELIVERED, "two spans had no name", rejected=2)
    assert langfuse.accepted == 1


@pytest.mark.parametrize("as_json", [False, True], ids=["protobuf", "json"])
def test_a_negative_count_of_rejected_spans_is_none(as_json: bool) -> None:
    reply = standin.otlp_reply(-1, "", as_json=as_json)
    kind = JSON if as_json else PROTOBUF
    outcome = classify(Response(200, {"content-type": kind}, reply.body))
    assert (outcome.verdict, outcome.rejected) == (DELIVERED, 0)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
def test_who_says_when_to_try_again_is_waited_for(status: int) -> None:
    assert classify(response(status, "{}", retry_after="5")).retry_after == 5


@pytest.mark.parametrize("status", [200, 302, 400, 401, 413])
def test_retry_after_counts_only_where_waiting_helps(status: int) -> None:
    assert classify(response(status, "{}", retry_after="5")).retry_after is None


@given(
    status=st.integers(100, 999),
    kind=st.sampled_from([JSON, PROTOBUF, HTML, "text/plain", ""]),
    body=st.one_of(
        st.binary(),
        st.recursive(
            st.one_of(st.none(), st.integers(), st.floats(), st.text()),
            lambda inner: st.lists(inner) | st.dictionaries(
                st.sampled_from(["error", "message", "partialSuccess", "rejectedSpans"]), inner
            ),
        ).map(lambda value: json.dumps(value).encode()),
    ),
    headers=st.dictionaries(st.sampled_from(["retry-after", "date", "location"]), st.text()),
)  # fmt: skip
def test_every_possible_answer_has_a_verdict(
    status: int, kind: str, body: bytes, headers: dict[str, str]
) -> None:
    outcome = classify(Response(status, {**headers, "content-type": kind}, body))
    assert (outcome.verdict is DELIVERED) <= (200 <= status < 300)
    assert outcome.rejected >= 0
    assert 0 <= (outcome.retry_after or 0) <= 3600
