"""Where the LiteLLM callback sends spans: its own project, and those of keys and teams."""

from __future__ import annotations

import json
import operator
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import pytest
from opentelemetry.sdk.trace import TracerProvider

from litellm_scenarios import (
    KEYS,
    TEAM,
    ask,
    drain,
    finish,
    needs,
    needs_litellm,
    run,
    say,
    spool,
    spool_handler,
    stock_callback,
)
from ports import HOST, free_port
from projects import OWN_KEY, PROJECTS, TEAM_KEY, credentials_file
from spool.pipeline import registry
from spool.settings import known_targets
from spool.settings.endpoints import LANGFUSE_PATH
from spool.settings.headers import basic_auth
from spool.settings.target import Target
from standin import Request, StandIn, parse, spans_of
from waits import wait_until

pytestmark = needs_litellm

MANUAL: Final = {"LANGFUSE_PUBLIC_KEY": "", "LANGFUSE_SECRET_KEY": "", "LANGFUSE_HOST": "a.test"}

PLACES: Final[dict[str, dict[str, str]]] = {
    "nothing named": {"LANGFUSE_HOST": ""},
    "LANGFUSE_HOST": {"LANGFUSE_HOST": "https://a.test"},
    "a slash at the end": {"LANGFUSE_HOST": "https://a.test/"},
    "no scheme": {"LANGFUSE_HOST": "a.test:3000"},
    "a path": {"LANGFUSE_HOST": "https://a.test/langfuse"},
    "LANGFUSE_OTEL_HOST goes first": {"LANGFUSE_OTEL_HOST": "b.test", "LANGFUSE_HOST": "a.test"},
    "no variable of the Langfuse SDK": {
        "LANGFUSE_BASE_URL": "https://a.test",
        "LANGFUSE_HOST": "",
    },
    "keys go before OTLP": {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c.test",
        "OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Basic abc",
    },
    "OTLP": {
        **MANUAL,
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c.test/api/public/otel/",
        "OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Basic cGstbGYteDp5,x-more=1",
    },
    "OTLP for traces": {**MANUAL, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c.test/v1/traces"},
    "LiteLLM's own variables": {
        **MANUAL,
        "OTEL_ENDPOINT": "http://c.test",
        "OTEL_HEADERS": "x-more=1",
    },
}


def scenario_places() -> None:
    import opentelemetry.exporter.otlp.proto.http.trace_exporter as stock
    from litellm.integrations.langfuse.langfuse_otel import LangfuseOtelLogger

    from spool.litellm import SpooledLangfuseOtelLogger

    stock_callback()
    asked: list[Any] = []

    class Recorder(stock.OTLPSpanExporter):
        def __init__(self, endpoint: str, headers: dict[str, str], **_: object) -> None:
            super().__init__(endpoint=endpoint)
            asked.append([endpoint, headers.get("Authorization")])

    said = {}
    for place, variables in PLACES.items():
        # LiteLLM imports its exporter when it needs it.
        with (
            patch.dict(os.environ, {**KEYS, **variables}),
            patch.object(stock, "OTLPSpanExporter", Recorder),
        ):
            LangfuseOtelLogger(callback_name="langfuse_otel")  # type: ignore[no-untyped-call]
            target = SpooledLangfuseOtelLogger()._exporter._target
        said[place] = [asked[-1], [target.endpoint, target.headers.get("authorization")]]
    say(said)


def test_spans_go_where_the_stock_callback_would_have_sent_them(path: Path) -> None:
    places = run(scenario_places, path, "").said
    assert set(places) == set(PLACES)
    assert {place: ours for place, (_, ours) in places.items()} == {
        place: stock for place, (stock, _) in places.items()
    }
    assert places["nothing named"][0][0].startswith("https://us.cloud.langfuse.com/")


def scenario_default() -> None:
    from spool.litellm import SpooledLangfuseOtelLogger

    say(SpooledLangfuseOtelLogger()._exporter._target.named.name)


@pytest.mark.parametrize(
    ("host", "named"), [("", "BY_LITELLM"), ("https://langfuse.example", "BY_OWNER")]
)
def test_litellms_default_host_is_not_taken_for_one_that_somebody_named(
    path: Path, host: str, named: str
) -> None:
    assert run(scenario_default, path, host).said == named


def scenario_team() -> None:
    spool_handler()
    ask("own", metadata={"generation_name": "own"})
    team = {**TEAM, **json.loads(os.environ["TEAM_MORE"])}
    ask("team", metadata={"generation_name": "team"}, **team)
    ask("own", metadata={"generation_name": "own"})
    finish()
    say([thread.name for thread in threading.enumerate() if thread.name.startswith("spool-")])


def names_by_key(requests: Iterable[Request]) -> dict[str, set[str]]:
    """Tell which spans were sent with which Authorization header."""
    names: dict[str, set[str]] = {}
    for request in requests:
        sent = names.setdefault(request.headers["authorization"], set())
        sent |= {span.name for span in spans_of(parse(request))}
    return names


def test_spans_of_a_key_with_its_own_project_go_to_that_project_only(
    path: Path, tmp_path: Path
) -> None:
    with StandIn(PROJECTS) as langfuse:
        threads = run(scenario_team, path, langfuse.url, SPOOL_DRAIN="on", TEAM_MORE="{}").said
        credentials = credentials_file(tmp_path / "credentials")
        drain(path, langfuse.url, SPOOL_CREDENTIALS_FILE=credentials)
    assert names_by_key(langfuse.requests) == {
        OWN_KEY: {"own"},
        TEAM_KEY: {"team"},
    }
    assert len(langfuse.span_ids()) == 6
    assert sorted(threads) == ["spool-drainer", "spool-maintenance"]  # however many projects


def scenario_many_keys() -> None:
    from litellm.integrations.opentelemetry import OpenTelemetryConfig

    known_targets._IDLE_SECONDS = 0.0  # type: ignore[misc]  # a minute is long for a test
    handler = spool_handler()
    for number in range(600):
        headers = Target.langfuse(f"pk-lf-{number}", "sk").headers
        config = OpenTelemetryConfig(
            exporter="otlp_http",
            endpoint=os.environ["LANGFUSE_HOST"] + LANGFUSE_PATH,
            headers=f"Authorization={headers['authorization']}",
        )
        end_span(handler._get_span_processor(config_override=config))
    known, deadline = handler._exporter._pipeline._targets, time.monotonic() + 60
    while len(known) > known_targets.MANY and time.monotonic() < deadline:
        time.sleep(0.05)
    say([len(known), len(registry._open_pipelines), handler._exporter._pipeline._users])


def test_many_keys_cost_no_exporter_each_and_are_forgotten_when_their_spans_are_delivered(
    path: Path,
) -> None:
    needs(1, 94, "passes no configuration")
    with StandIn(keys={f"pk-lf-{number}": "sk" for number in range(600)}) as langfuse:
        left, spools, users = run(scenario_many_keys, path, langfuse.url, SPOOL_DRAIN="on").said
        assert langfuse.accepted == 600
    assert left <= known_targets.MANY
    assert (spools, users) == (1, 1)


def scenario_tenants() -> None:
    handler = spool_handler()
    ask_as(0)
    wait_until(lambda: handler._exporter._pipeline.ledger().accepted == 2)
    wait_until(lambda: any(Path(os.environ["SPOOL_PATH"]).parent.glob("*.drainer-*")))  # it drains
    one = threads_and_descriptors()
    for number in range(1, 40):
        ask_as(number)
    finish()
    wait_until(lambda: all(map(operator.le, threads_and_descriptors(), one)))
    say(handler._exporter._pipeline.ledger().accepted)


def ask_as(tenant: int) -> None:
    ask("hello", langfuse_public_key=f"pk-lf-{tenant}", langfuse_secret_key=f"sk-lf-{tenant}")


def threads_and_descriptors() -> tuple[int, int]:
    others = [one for one in threading.enumerate() if not one.name.startswith("litellm-")]
    return len(others), len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - as many as there are


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system has no /proc")
def test_forty_tenants_have_no_thread_and_no_descriptor_more_than_one(path: Path) -> None:
    assert run(scenario_tenants, path, f"http://{HOST}:{free_port()}", SPOOL_DRAIN="on").said == 80


def scenario_dropped() -> None:
    handler = spool_handler()
    dropped, used = (handler._get_span_processor({"Authorization": TEAM_KEY}) for _ in range(2))
    for processor in (dropped, used):
        end_span(processor)
        dropped.shutdown()
    say(None)


def end_span(processor: Any) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    provider.get_tracer("test").start_span("a span").end()


def test_a_keys_provider_that_litellm_drops_takes_nothing_down_with_it(
    path: Path, langfuse: StandIn
) -> None:
    run(scenario_dropped, path, langfuse.url)
    assert spool(path, langfuse.url, "status")[1]["pending"]["spans"] == 2


def test_a_key_that_names_a_public_key_not_its_own_gets_none_of_its_spans(
    path: Path, langfuse: StandIn
) -> None:
    langfuse.keys["pk-lf-thief"] = "sk-lf-thief"
    theft = {"langfuse_public_key": "pk-lf-test", "langfuse_secret_key": "sk-lf-thief"}
    run(scenario_team, path, langfuse.url, SPOOL_DRAIN="on", TEAM_MORE=json.dumps(theft))
    # The thief's spans, if any are left, stay there: this command does not have his secret.
    spool(path, langfuse.url, "drain")
    names = names_by_key(langfuse.requests)
    assert names.pop(OWN_KEY) == {"own"}
    assert names in ({}, {basic_auth("pk-lf-test", "sk-lf-thief"): {"team"}})
    assert langfuse.names()["own"] == 4


def test_spans_of_a_key_with_its_own_host_go_to_that_host_only(
    path: Path, tmp_path: Path, langfuse: StandIn
) -> None:
    needs(1, 94, "ignores a key's own host, with the stock callback too")
    with StandIn({"pk-lf-team": "sk-lf-team"}) as other:
        run(scenario_team, path, langfuse.url, TEAM_MORE=json.dumps({"langfuse_host": other.url}))
        credentials = credentials_file(tmp_path / "credentials")
        # A secret of the file goes to no host that only a call has named.
        spool(path, langfuse.url, "drain", SPOOL_CREDENTIALS_FILE=credentials)
        assert other.requests == []
        credentials = credentials_file(tmp_path / "credentials", other.url)
        assert drain(path, langfuse.url, SPOOL_CREDENTIALS_FILE=credentials) == 2
    assert langfuse.names() == {"own": 4}
    assert other.names() == {"team": 2}


def test_a_key_whose_host_is_no_url_harms_neither_the_calls_nor_other_projects(
    path: Path, langfuse: StandIn
) -> None:
    needs(1, 94, "ignores a key's own host, with the stock callback too")
    ran = run(scenario_team, path, langfuse.url, TEAM_MORE='{"langfuse_host": "not a host"}')
    assert "spans were refused and are lost: endpoint=https://not a host/" in ran.log
    drain(path, langfuse.url)
    assert langfuse.names() == {"own": 4}
    assert spool(path, langfuse.url, "status")[1]["ledger"]["refused"] == 2
