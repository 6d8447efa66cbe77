from __future__ import annotations

import time
from dataclasses import replace
from email.utils import formatdate

import pytest

import standin
from manners import MANNERS, receiver, target_of
from spool.commands.checks import acceptance
from spool.commands.checks.finding import Finding
from spool.delivery.client import Client
from spool.settings.settings import Settings
from spool.settings.target import Target
from standin import Manner, Reply, StandIn

pytestmark = pytest.mark.once


def no_spans(request: standin.Request) -> bytes:
    """Refuse what has none, as MLflow does (its server/otel_api.py)."""
    body = request.body
    if not body or request.headers.get("content-encoding"):
        raise standin.MalformedError("Invalid OpenTelemetry protobuf format - no spans found")
    return body


MLFLOW = receiver("MLflow", Reply(200, b""), no_spans)


def ask(target: Target, settings: Settings) -> dict[str, Finding]:
    client = Client(replace(settings, target=target), clock=lambda: 0.0)
    try:
        findings, _ = acceptance.ask(target, client)
    finally:
        client.connections.close()
    return {finding.name: finding for finding in findings}


@pytest.mark.parametrize("manner", [*MANNERS, MLFLOW], ids=lambda manner: manner.name)
def test_each_receiver_that_is_well_is_found_so_and_stores_nothing(
    manner: Manner, settings: Settings
) -> None:
    with StandIn(manner=manner) as server:
        found = ask(target_of(server), settings)["export"]
        assert found.is_well, found
        assert not server.spans
        assert ("no span came" in found.words) == (manner is MLFLOW)


def test_langfuse_that_refuses_a_request_as_such_is_not_well(settings: Settings) -> None:
    with StandIn() as server:
        server.behave(standin.status(400, body=b'{"error": "Invalid content type"}'))
        found = ask(target_of(server), settings)["export"]
        assert found.is_well is False
        assert "Invalid content type" in found.words


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (401, "refuses the keys (401 Unauthorized)"),
        (403, "forbids it (403 Forbidden)"),
        (404, "nothing there takes spans: host or path is wrong (404 Not Found)"),
    ],
)
def test_a_refusal_is_said_in_plain_words_with_what_to_do(
    code: int, words: str, langfuse: StandIn, target: Target, settings: Settings
) -> None:
    langfuse.behave(standin.status(code))
    found = ask(target, settings)["export"]
    assert found.is_well is False
    assert words in found.words
    assert found.remedy.startswith(("correct the", "do what its words say"))


def test_a_captive_portal_is_not_taken_for_langfuse(
    langfuse: StandIn, target: Target, settings: Settings
) -> None:
    langfuse.behave(standin.html_200())
    found = ask(target, settings)["export"]
    assert found.is_well is False
    assert "captive portal" in found.words


@pytest.mark.parametrize(
    ("at", "is_well", "words"),
    [
        (None, True, "it agrees with that of 127.0.0.1:"),
        (3600, False, " behind that of 127.0.0.1:"),
        (-3600, False, " ahead of that of 127.0.0.1:"),
    ],
)
def test_a_clock_that_is_wrong_is_measured_by_the_servers(
    at: int | None, is_well: bool, words: str, target: Target, settings: Settings,
    langfuse: StandIn, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if at is not None:
        now = time.time()
        date = {"Date": formatdate(now + at, usegmt=True)}
        langfuse.behave(standin.status(200, date, b"{}"))
    found = ask(target, settings)["clock"]
    assert found.is_well is is_well
    assert words in found.words


def test_no_date_is_no_finding(langfuse: StandIn, target: Target, settings: Settings) -> None:
    langfuse.behave(standin.status(200, {"Date": "some day"}, b"{}"))
    assert "clock" not in ask(target, settings)
