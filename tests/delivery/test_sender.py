"""What is sent, and what each answer means."""

from __future__ import annotations

import gzip
import html
import json
import time
import urllib.parse
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from freezegun import freeze_time
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

import standin
from spans import batch
from spool.delivery.sender import Answer, Outcome, Sender, Verdict, classify
from spool.otlp.batch import join
from spool.settings.settings import Settings, Target
from standin import HTML, JSON, PATH, PROTOBUF, Behaviour, StandIn

BODY = join([batch("call")], compress=True)
PUBLIC, SECRET = "pk-lf-test", "sk-lf-test"
TOKEN = b64encode(f"{PUBLIC}:{SECRET}".encode()).decode()
DELIVERED, WAIT, HOLD, SPLIT = Verdict.DELIVERED, Verdict.WAIT, Verdict.HOLD, Verdict.SPLIT


def sender_to(target: Target, **settings: Any) -> Sender:
    return Sender(target, Settings(path=Path("/nowhere/spool.db"), target=target, **settings))


@pytest.fixture
def sender(target: Target) -> Iterator[Sender]:
    sender = sender_to(target)
    yield sender
    sender.close()


def answer(status: int, body: str = "", kind: str = JSON, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, {"content-type": kind, **named}, body.encode())


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
    langfuse: StandIn, target: Target
) -> None:
    sender = sender_to(target, compression="none")
    assert sender.send(join([batch("call")], compress=False), 10).verdict is DELIVERED
    sender.close()
    assert "content-encoding" not in langfuse.requests[0].headers
    assert langfuse.accepted == 1


def test_another_otlp_receiver_gets_its_own_headers_and_query_and_nothing_of_langfuse(
    langfuse: StandIn,
) -> None:
    target = Target.otlp(langfuse.url + "/v1/traces?tenant=a%20b", {"Api-Key": "k"})
    sender = sender_to(target)
    sender.send(BODY, 10)
    sender.close()
    (request,) = langfuse.requests
    assert request.path == "/v1/traces?tenant=a%20b"
    assert request.headers["api-key"] == "k"
    assert not [name for name in request.headers if "langfuse" in name]
    assert "authorization" not in request.headers


# What answers mean


@pytest.mark.parametrize(
    ("behaviour", "verdict", "words"),
    [
        (standin.healthy, DELIVERED, ""),
        (standin.status(200, body="{}"), DELIVERED, ""),
        (standin.protobuf_ok(), DELIVERED, ""),
        (standin.status(202, body="{}", content_type=f"{JSON}; charset=utf-8"), DELIVERED, ""),
        (standin.status(200, body="{}", content_type="Application/JSON"), DELIVERED, ""),
        # A captive portal, or whatever else is no OTLP answer.
        (standin.html_200(), WAIT, "200 with an HTML page, which is no OTLP answer"),
        (standin.status(200, body="ok", content_type="text/plain"), WAIT, "text/plain"),
        (standin.status(200, body="{}", content_type=""), WAIT, "no content type"),
        (standin.status(204, body="", content_type=""), WAIT, "204 with no content type"),
        (standin.status(200, body=""), WAIT, "cannot be read"),
        (standin.status(200, body="<html>"), WAIT, "200 with an HTML page"),
        (standin.status(200, body="", content_type="application/protobuf"), WAIT, "protobuf"),
        (standin.status(200, body="[]"), WAIT, "cannot be read"),
        (standin.status(200, body=b"\xff\xfe"), WAIT, "cannot be read"),
        (standin.status(200, body="<no>", content_type=PROTOBUF), WAIT, "cannot be read"),
        # Redirects are not followed.
        *(
            (standin.status(code, {"Location": "/x"}), WAIT, f"{code} redirect to '/x'")
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


@pytest.fixture
def plain(langfuse: StandIn) -> Iterator[Sender]:
    """Send to a receiver of which nobody knows that it is Langfuse."""
    sender = sender_to(Target.otlp(langfuse.url + "/v1/traces", {"api-key": "k"}))
    yield sender
    sender.close()


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
    outcome = classify(Answer(200, {"content-type": kind}, reply.body), is_strict=False)
    assert outcome == Outcome(DELIVERED, "no name", rejected=2)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"message": "Ingestion suspended: upgrade.", "error": "ForbiddenError"},
         "Ingestion suspended: upgrade. (ForbiddenError)"),
        ({"message": "Internal Server Error", "error": "Failed to upload JSON to S3"},
         "Failed to upload JSON to S3 (Internal Server Error)"),
        ({"message": "no", "error": "no"}, "no"),
        ({"error": "Failed to parse"}, "Failed to parse"),
        ({"message": ["spans[0] has no id", "spans[1] has no id"]},
         "spans[0] has no id; spans[1] has no id"),
        ({"error": {"message": "too many", "type": "rate_limit"}}, "too many"),
        ({"detail": [{"loc": ["body"], "msg": "field required", "type": "missing"}]},
         "field required"),
        ({"code": 3, "message": "bad span", "details": []}, "bad span"),
        (["one", "two", None], "one; two; null"),
        ({"why": ["one"]}, '{"why": ["one"]}'),
        ("said so", "said so"),
        ({}, "Internal Server Error"),
        ("", "Internal Server Error"),
        ("500", "Internal Server Error"),
        ("500 Internal Server Error", "Internal Server Error"),
    ],
)  # fmt: skip
def test_the_words_of_an_answer_come_first_and_as_a_person_reads_them(
    said: object, words: str
) -> None:
    assert classify(answer(500, json.dumps(said))).reason == f"500 {words}"


@pytest.mark.parametrize("kind", [PROTOBUF, "application/protobuf"])
def test_the_words_of_a_collector_are_those_of_its_status(kind: str) -> None:
    words = "failed to unmarshal the body: proto: wrong wireType = 7"
    body = b"\x08\x03\x12" + bytes([len(words)]) + words.encode()
    assert classify(Answer(400, {"content-type": kind}, body)).reason == f"400 {words}"
    assert classify(Answer(400, {"content-type": kind}, b"no protobuf")).reason == "400 no protobuf"
    assert classify(Answer(400, {"content-type": kind}, b"")).reason == "400 Bad Request"


def test_a_wrong_key_is_held_in_the_words_of_the_server(langfuse: StandIn) -> None:
    sender = sender_to(Target.langfuse(PUBLIC, "sk-lf-wrong", langfuse.url))
    outcome = sender.send(BODY, 10)
    sender.close()
    words = "401 Invalid credentials. Confirm that you've configured the correct host."
    assert (outcome.verdict, outcome.reason) == (HOLD, words)


def test_a_redirect_is_not_followed(langfuse: StandIn, sender: Sender) -> None:
    with StandIn() as portal:
        langfuse.behave(standin.redirect_302(f"{portal.url}/login?token=s3cret"))
        outcome = sender.send(BODY, 10)
        assert outcome.verdict is WAIT
        assert f"{portal.url}/login" in outcome.reason
        assert "s3cret" not in outcome.reason
        assert not portal.connections
    assert not langfuse.accepted


# Partial success


@pytest.mark.parametrize("as_json", [False, True], ids=["protobuf", "json"])
def test_rejected_spans_are_counted_with_the_receivers_words(
    langfuse: StandIn, sender: Sender, as_json: bool
) -> None:
    langfuse.behave(standin.partial_success(2, "two spans had no name", as_json=as_json))
    outcome = sender.send(join([batch("a", "b", "c")], compress=True), 10)
    assert outcome == Outcome(DELIVERED, "two spans had no name", rejected=2)
    assert langfuse.accepted == 1


@pytest.mark.parametrize(
    ("partial", "rejected"),
    [
        ({"rejectedSpans": "3"}, 3),
        ({"rejectedSpans": 3}, 3),
        ({"rejectedSpans": -3}, 0),
        ({"errorMessage": "slow down"}, 0),
        (None, 0),
    ],
)
def test_partial_success_in_json_is_read_as_otlp_writes_it(partial: object, rejected: int) -> None:
    outcome = classify(answer(200, json.dumps({"partialSuccess": partial})))
    assert (outcome.verdict, outcome.rejected) == (DELIVERED, rejected)


def test_a_negative_count_in_protobuf_is_none() -> None:
    response = ExportTraceServiceResponse()
    response.partial_success.rejected_spans = -1
    body = response.SerializeToString()
    outcome = classify(Answer(200, {"content-type": PROTOBUF}, body))
    assert (outcome.verdict, outcome.rejected) == (DELIVERED, 0)


# Retry-After


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("2", 2.0),
        (" 7 ", 7.0),
        ("3600", 3600.0),
        ("86400", 3600.0),
        ("9" * 400, 3600.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("Mon, 23 Nov 2026 10:00:30 GMT", 30.0),
        ("Monday, 23-Nov-26 10:00:30 GMT", 30.0),
        ("Mon Nov 23 10:00:30 2026", 30.0),
        ("Mon, 23 Nov 2026 11:00:30 +0100", 30.0),
        ("Mon, 23 Nov 2026 09:59:00 GMT", 0.0),
        ("Tue, 24 Nov 2026 10:00:00 GMT", 3600.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600.0),
        ("Mon, 01 Jan 0001 00:00:00 GMT", 0.0),
        ("Mon, 32 Nov 2026 10:00:30 GMT", None),
        ("Mon, 23 Nov 99999999999999999999 10:00:30 GMT", None),
        ("Mon, 23 Nov 2026 10:00:30 +99999999999999999999", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_an_hour_at_most(
    status: int, value: str, seconds: float | None
) -> None:
    date = "Mon, 23 Nov 2026 10:00:00 GMT"
    assert classify(answer(status, retry_after=value, date=date)).retry_after == seconds


@pytest.mark.parametrize("status", [200, 302, 400, 401, 413])
def test_retry_after_counts_only_where_waiting_helps(status: int) -> None:
    assert classify(answer(status, "{}", retry_after="5")).retry_after is None


@freeze_time("2026-11-23 10:00:00")
def test_a_date_to_wait_for_is_measured_from_our_clock_where_the_server_names_no_time() -> None:
    value = "Mon, 23 Nov 2026 10:00:45 GMT"
    assert classify(answer(503, retry_after=value)).retry_after == 45
    assert classify(answer(503, retry_after=value, date="yesterday")).retry_after == 45


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


# Reasons


def echoing(status: int, kind: str, form: str, **headers: str) -> Behaviour:
    """A server or proxy that says our own secrets in its answer."""

    def behave(exchange: standin.Exchange) -> None:
        said = exchange.read().headers
        header = said.get("authorization", "") + said.get("api-key", "")
        known = {"header": header, "token": TOKEN, "secret": SECRET, "pair": f"{PUBLIC}:{SECRET}"}
        body = form.format_map(known).encode()
        named = {name: value.format_map(known) for name, value in headers.items()}
        exchange.answer(standin.Reply(status, body, kind, named))

    return behave


SAYING_ALL = "no: {header} and {token} and {secret} and {pair}"


@pytest.mark.parametrize(
    "behaviour",
    [
        echoing(500, "text/plain", SAYING_ALL),
        echoing(502, HTML, f"<p>{SAYING_ALL}</p>"),
        echoing(401, JSON, '{{"error": "' + SAYING_ALL + '"}}'),
        echoing(401, JSON, '{{"error": {{"headers": ["{header}"], "secret": "{secret}"}}}}'),
        echoing(400, JSON, '{{"other": "' + SAYING_ALL + '"}}'),
        echoing(200, JSON, '{{"partialSuccess": {{"errorMessage": "' + SAYING_ALL + '"}}}}'),
        echoing(200, JSON, '{{"partialSuccess": {{"rejectedSpans": "' + SAYING_ALL + '"}}}}'),
        echoing(302, HTML, "", Location="http://portal/{token}/{secret}"),
        echoing(200, "text/plain;", "", **{"Content-Type": "x/{secret}"}),
        echoing(500, "text/plain", "{header}\n{secret}\r\n{pair}\t{token}"),
        lambda exchange: (exchange.read(), exchange.send(f"{TOKEN} {SECRET}\r\n\r\n".encode()))[1],
    ],
    ids=[
        "text", "html", "json", "nested json", "other json", "partial success", "bad number",
        "location", "content type", "lines", "status line",
    ],
)  # fmt: skip
def test_our_own_secrets_are_not_in_a_reason(
    langfuse: StandIn, sender: Sender, behaviour: Behaviour
) -> None:
    langfuse.behave(behaviour)
    reason = sender.send(BODY, 10).reason
    assert "***" in reason
    for secret in (SECRET, TOKEN):
        assert secret not in reason


@pytest.mark.parametrize("length", range(250, 310, 3))
def test_no_part_of_a_secret_is_left_where_a_reason_is_cut(
    langfuse: StandIn, sender: Sender, length: int
) -> None:
    langfuse.behave(echoing(500, "text/plain", "y" * length + " {token}"))
    reason = sender.send(BODY, 10).reason
    assert TOKEN[:8] not in reason


@pytest.mark.parametrize(
    "way",
    [
        lambda said: said.rstrip("="),
        lambda said: urllib.parse.quote(said, safe=""),
        html.escape,
        lambda said: json.dumps(said)[1:-1],
    ],
    ids=["unpadded", "in a URL", "in a page", "in JSON"],
)
def test_our_own_secrets_are_not_in_a_reason_however_a_server_writes_them(
    langfuse: StandIn, way: Callable[[str], str]
) -> None:
    secret = 'sk-lf-s3cr3t+/&"<'
    target = Target.langfuse("pk-lf-a", secret, langfuse.url)
    token = target.headers["authorization"].partition(" ")[2]
    assert token.endswith("=")
    langfuse.behave(standin.status(500, body=f"no {way(token)} and {way(secret)}"))
    sender = sender_to(target)
    reason = sender.send(BODY, 10).reason
    sender.close()
    assert token[:8] not in reason
    assert "s3cr3t" not in reason


def test_the_secrets_of_any_header_and_of_the_query_are_not_in_a_reason(langfuse: StandIn) -> None:
    headers = {"Authorization": "Bearer b3arer-s3cret", "Api-Key": "k3y-s3cret"}
    target = Target.otlp(langfuse.url + "/v1/traces?token=qu3ry-s3cret", headers)
    sender = sender_to(target)
    langfuse.behave(echoing(500, "text/plain", "{header} at /v1/traces?token=qu3ry-s3cret"))
    outcome = sender.send(BODY, 10)
    sender.close()
    assert outcome.reason.startswith("500 ")
    assert "s3cret" not in outcome.reason


@pytest.mark.parametrize(
    "behaviour",
    [
        standin.status(500, body="word " * 10_000),
        standin.status(500, body="one\r\ntwo\n\nthree\x0b\u2028four"),
        standin.status(500, body="\x1b[31mred\x1b[0m \x00\x07 \u202e"),
        standin.status(500, body=json.dumps({"error": "a\nb" * 1000})),
        standin.status(500, body=json.dumps({"error": {"message": ["x" * 1000]}})),
        standin.status(401, body=b"\xff" * 1000),
        standin.status(302, {"Location": "http://portal/" + "x" * 10_000}),
        standin.status(200, content_type="text/" + "x" * 10_000),
        standin.status(200, content_type="text/html\r\n folded"),
        standin.status(200, body=json.dumps({"partialSuccess": {"rejectedSpans": "x" * 5000}})),
        standin.partial_success(1, "why\n" * 1000),
        lambda exchange: (exchange.read(), exchange.send(b"z" * 5000 + b"\r\n\r\n"))[1],
    ],
)
def test_a_reason_is_one_short_line(
    langfuse: StandIn, sender: Sender, behaviour: Behaviour
) -> None:
    langfuse.behave(behaviour)
    reason = sender.send(BODY, 10).reason
    assert reason
    assert reason.isprintable()
    assert len(reason) <= 310


def test_the_words_of_a_page_are_given_without_its_tags_scripts_and_styles() -> None:
    page = """<html><head><style>b {color: red}</style><script>
        alert("x<y")</script></head><body class="x"><h1>Bad  Gateway</h1>\n<p>nginx</p></body>"""
    assert classify(answer(502, page, HTML)).reason == "502 Bad Gateway nginx"


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
    outcome = classify(Answer(status, {**headers, "content-type": kind}, body))
    assert (outcome.verdict is DELIVERED) <= (200 <= status < 300)
    assert outcome.rejected >= 0
    assert 0 <= (outcome.retry_after or 0) <= 3600


@pytest.mark.parametrize("part", ["<", "<style", "<script><", "<style></", "&lt;"])
def test_a_page_that_is_hard_to_read_costs_no_time_beyond_the_deadline(
    langfuse: StandIn, sender: Sender, part: str
) -> None:
    langfuse.behave(standin.status(502, body=(part * 65536)[:65536], content_type=HTML))
    started = time.monotonic()
    assert sender.send(BODY, 0.5).verdict is WAIT
    assert time.monotonic() - started < 10
