"""Why a request was not delivered, as a person may see it."""

from __future__ import annotations

import html
import json
import urllib.parse
from base64 import b64encode
from collections.abc import Callable

import pytest

import standin
from senders import BODY, MakeSender
from spool.delivery.http.sender import Sender
from spool.settings.target import Target
from standin import HTML, JSON, Behaviour, StandIn

PUBLIC, SECRET = "pk-lf-test", "sk-lf-test"
TOKEN = b64encode(f"{PUBLIC}:{SECRET}".encode()).decode()


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
        echoing(302, HTML, "", Location="http://portal/{token}/{secret}"),
        echoing(200, "text/plain;", "", **{"Content-Type": "x/{secret}"}),
        echoing(500, "text/plain", "{header}\n{secret}\r\n{pair}\t{token}"),
    ],
    ids=[
        "text", "html", "json", "nested json", "other json", "partial success", "location",
        "content type", "lines",
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
        lambda said: urllib.parse.quote(said, safe="").replace("%2F", "%2f").replace("%2B", "%2b"),
        str.lower,
        str.upper,
    ],
    ids=[
        "unpadded", "in a URL", "in a page", "in JSON", "in a URL, small", "in small letters",
        "in capitals",
    ],
)  # fmt: skip
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
    assert token[:8].lower() not in reason.lower()
    assert "s3cr3t" not in reason.lower()


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


def test_a_secret_with_a_letter_that_is_not_ascii_breaks_nothing(
    langfuse: StandIn, sender_to: MakeSender
) -> None:
    langfuse.keys.clear()
    target = Target.otlp(langfuse.url + "/v1/traces?team=caf%C3%A9", {"x-team": "caf\xe9-s3cret"})
    langfuse.behave(standin.status(500, body="caf\xe9-s3cret"))
    reason = sender_to(target).send(BODY, 10).reason
    assert reason.startswith("500 ")
    assert "s3cret" not in reason


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
