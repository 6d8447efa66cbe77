"""Extra headers beside Langfuse keys, as a gateway in front of Langfuse asks for.

They come to every project's requests to that host, from whichever process, and to no other host.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from litellm_scenarios import (
    TEAM,
    ask,
    finish,
    needs,
    needs_litellm,
    say,
    spool_handler,
    stock_callback,
)
from litellm_scenarios import run as run_scenario
from litellm_scenarios import spool as spool_of
from programs import SIMPLE, run
from projects import OWN_KEY, PROJECTS, TEAM_KEY, credentials_file
from spool.settings.endpoints import LANGFUSE_PATH
from standin import Exchange, Reply, StandIn, healthy
from users import environment_of, spool

pytestmark = pytest.mark.once

PASS: Final = "X-Gateway=let%20me%20in,Authorization=Bearer%20x"
PROGRAM: Final = SIMPLE + 'tracer.start_span("a span").end()'
GIVEN: Final = PROGRAM.replace("Exporter()", "Exporter(headers={'X-Gateway': 'let me in'})")

# A further exporter, with these arguments.
TWO: Final = (
    SIMPLE + "provider.add_span_processor(SimpleSpanProcessor(SpoolSpanExporter({})))\n"
    'tracer.start_span("a span").end()'
)


def gateway(exchange: Exchange) -> None:
    """Let in who says the word, as an access proxy does."""
    if exchange.read().headers.get("x-gateway") == "let me in":
        healthy(exchange)
    else:
        exchange.answer(Reply.json(403, {"message": "who are you?"}))


@pytest.fixture
def guarded() -> Iterator[StandIn]:
    """Serve two projects behind a gateway."""
    with StandIn(PROJECTS) as server:
        server.behave(gateway)
        yield server


@pytest.fixture
def langfuse(guarded: StandIn) -> StandIn:
    """Serve a stand-in behind a gateway."""
    return guarded


def keys_let_in(server: StandIn) -> set[str]:
    return {r.headers["authorization"] for r in server.requests if r.status == 200}


@pytest.mark.parametrize(
    ("program", "variables"),
    [(PROGRAM, {"OTEL_EXPORTER_OTLP_HEADERS": PASS}), (GIVEN, {})],
    ids=["variable", "argument"],
)
def test_they_come_to_the_authorization_that_the_keys_make(
    environment: None, langfuse: StandIn, program: str, variables: dict[str, str]
) -> None:
    run(program, **variables)
    langfuse.wait_for(lambda server: server.accepted == 1)
    assert keys_let_in(langfuse) == {OWN_KEY}
    (request,) = langfuse.requests
    assert request.headers["x-langfuse-ingestion-version"] == "4"


def test_a_drain_in_another_process_sends_them_too(environment: None, langfuse: StandIn) -> None:
    run(PROGRAM, SPOOL_DRAIN="off")
    drained(code=1)
    assert langfuse.accepted == 0
    drained(
        OTEL_EXPORTER_OTLP_HEADERS=PASS
    )  # at once, though the route is held: it is not this that was refused
    assert langfuse.accepted == 1
    assert "let me in" not in spool("status").stdout


def test_a_change_of_them_leaves_no_span_behind(
    environment: None, langfuse: StandIn, path: Path
) -> None:
    for word in ("let%20me%20in", "once", "again"):
        run(PROGRAM, SPOOL_DRAIN="off", OTEL_EXPORTER_OTLP_HEADERS=f"x-gateway={word}")
    run(GIVEN, SPOOL_DRAIN="off")
    assert spool("status", "--json", code=1).stdout.count('"route": "pk-lf-test"') == 1
    drained(OTEL_EXPORTER_OTLP_HEADERS=PASS)
    assert langfuse.accepted == 4


def drained(*, code: int = 0, **variables: str) -> str:
    """Drain as a user does that has these variables, too; give what is said of trouble."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        return spool("drain", code=code).stderr


def test_routes_of_the_credentials_file_get_them_on_their_host_only(
    environment: None, langfuse: StandIn, path: Path, tmp_path: Path
) -> None:
    with StandIn(PROJECTS) as other:
        for host in (langfuse.url, other.url):
            run(PROGRAM, **environment_of(path, host, "team"), SPOOL_DRAIN="off")
            file = credentials_file(tmp_path / "credentials", host)
            drained(SPOOL_CREDENTIALS_FILE=file, OTEL_EXPORTER_OTLP_HEADERS=PASS)
        assert other.accepted == 1
        assert not any("x-gateway" in request.headers for request in other.requests)
    assert keys_let_in(langfuse) == {TEAM_KEY}


def test_those_of_a_receiver_on_another_host_do_not_reach_langfuse(
    environment: None, langfuse: StandIn
) -> None:
    run(
        PROGRAM,
        OTEL_EXPORTER_OTLP_ENDPOINT="http://collector.test:4318",
        OTEL_EXPORTER_OTLP_HEADERS=PASS,
    )
    langfuse.wait_for(lambda server: len(server.requests) > 0)
    assert not any("x-gateway" in request.headers for request in langfuse.requests)


def test_what_cannot_be_read_is_passed_over_and_said_without_its_value(
    environment: None, langfuse: StandIn
) -> None:
    for wrong in ("Authorization: Bearer s3cret", "a=s3cret%0D%0Ab:c", 'a="s3cret"', "s3cret"):
        run(PROGRAM, SPOOL_DRAIN="off", OTEL_EXPORTER_OTLP_HEADERS=wrong)
        said = drained(OTEL_EXPORTER_OTLP_HEADERS=f"{wrong},{PASS}")
        assert said.count("OTEL_EXPORTER_OTLP_HEADERS: ") == 1
        assert "s3cret" not in said
    assert langfuse.accepted == 4


def test_those_for_the_default_host_do_not_reach_the_remembered_one(
    environment: None, langfuse: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(PROGRAM, SPOOL_DRAIN="off")
    monkeypatch.delenv("LANGFUSE_HOST")
    drained(code=1, OTEL_EXPORTER_OTLP_HEADERS=PASS)
    assert langfuse.requests
    assert not any("x-gateway" in request.headers for request in langfuse.requests)


def test_those_of_the_host_that_the_environment_names_do_not_reach_a_second_destination(
    environment: None, langfuse: StandIn
) -> None:
    with StandIn(PROJECTS) as other:
        url = f"http://pk-lf-team:sk-lf-team@{other.url.partition('//')[2]}{LANGFUSE_PATH}"
        run(TWO.format(f"endpoint={url!r}"), OTEL_EXPORTER_OTLP_HEADERS=PASS)
        langfuse.wait_for(lambda server: server.accepted == 1)
        other.wait_for(lambda server: server.accepted == 1)
        assert not any("x-gateway" in request.headers for request in other.requests)


def test_two_exporters_of_one_key_send_each_its_own(environment: None, langfuse: StandIn) -> None:
    langfuse.behave(None)
    run(TWO.format("headers={'X-Gateway': 'let me in'}"))
    langfuse.wait_for(lambda server: server.accepted == 2)
    assert {request.headers.get("x-gateway") for request in langfuse.requests} == {
        None,
        "let me in",
    }


# LiteLLM


def scenario_projects() -> None:
    spool_handler()
    for more in ({}, TEAM, {**TEAM, "langfuse_host": os.environ["OTHER_HOST"]}):
        ask(**more)
    finish()
    say(None)


def scenario_stock() -> None:
    stock_callback()
    ask()
    finish()
    say(None)  # its spans are sent at exit


@needs_litellm
def test_litellms_callback_and_its_teams_get_them_on_their_host_only(
    path: Path, langfuse: StandIn, tmp_path: Path
) -> None:
    needs(1, 94, "ignores a key's own host, with the stock callback too")
    with StandIn(PROJECTS) as other:
        run_scenario(
            scenario_projects,
            path,
            langfuse.url,
            OTHER_HOST=other.url,
            OTEL_EXPORTER_OTLP_HEADERS=PASS,
        )
        for host in (langfuse.url, other.url):
            file = credentials_file(tmp_path / "credentials", host)
            spool_of(
                path,
                langfuse.url,
                "drain",
                SPOOL_CREDENTIALS_FILE=file,
                OTEL_EXPORTER_OTLP_HEADERS=PASS,
            )
        assert other.accepted == 2
        assert not any("x-gateway" in request.headers for request in other.requests)
    assert keys_let_in(langfuse) == {OWN_KEY, TEAM_KEY}
    assert langfuse.accepted == 4


@needs_litellm
def test_litellms_own_callback_sends_them_where_its_opentelemetry_does(
    path: Path, langfuse: StandIn
) -> None:
    langfuse.behave(None)
    run_scenario(scenario_stock, path, langfuse.url, OTEL_EXPORTER_OTLP_HEADERS=PASS)
    stock = langfuse.requests
    assert stock
    run_scenario(
        scenario_projects,
        path,
        langfuse.url,
        SPOOL_DRAIN="on",
        OTHER_HOST="",
        OTEL_EXPORTER_OTLP_HEADERS=PASS,
    )
    ours = langfuse.requests[len(stock) :]
    assert {r.headers["authorization"] for r in stock} == {OWN_KEY}
    # Where headers are given, as here, older ones leave the variable aside.
    assert {request.headers.get("x-gateway") for request in stock} <= {"let me in", None}
    assert {request.headers.get("x-gateway") for request in ours} == {"let me in"}
