"""What is sent, and what of an answer is told: never a secret."""

from __future__ import annotations

import gzip
import html
import json
import time
import urllib.parse
from base64 import b64encode
from collections.abc import Callable, Mapping

import pytest
from freezegun import freeze_time

import standin
from senders import BODY, MakeSender
from spans import batch
from spool.delivery.http.classification import Outcome, Verdict
from spool.delivery.http.sender import Sender
from spool.otlp.batch import join
from spool.settings.target import Target
from standin import HTML, JSON, PATH, Behaviour, StandIn

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
    langfuse: StandIn, way: Callable[[str], str], sender_to: MakeSender
) -> None:
    secret = 'sk-lf-s3cr3t+/&"<'
    target = Target.langfuse("pk-lf-a", secret, langfuse.url)
    token = target.headers["authorization"].partition(" ")[2]
    assert token.endswith("=")
    langfuse.behave(standin.status(500, body=f"no {way(token)} and {way(secret)}"))
    sender = sender_to(target)
    reason = sender.send(BODY, 10).reason
    assert token[:8] not in reason
    assert "s3cr3t" not in reason


def test_the_secrets_of_any_header_and_of_the_query_are_not_in_a_reason(
    langfuse: StandIn, sender_to: MakeSender
) -> None:
    headers = {"Authorization": "Bearer b3arer-s3cret", "Api-Key": "k3y-s3cret"}
    target = Target.otlp(langfuse.url + "/v1/traces?token=qu3ry-s3cret", headers)
    sender = sender_to(target)
    langfuse.behave(echoing(500, "text/plain", "{header} at /v1/traces?token=qu3ry-s3cret"))
    outcome = sender.send(BODY, 10)
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
