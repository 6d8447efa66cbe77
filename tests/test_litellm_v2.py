"""LiteLLM's v2 (`LITELLM_OTEL_V2=true`) with the spool behind it: the same spans, none is lost."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from test_litellm_routes import end_span, names_by_key
from test_litellm_spans import described, make_all_kinds_of_async_calls

from litellm_scenarios import (
    TEAM,
    Ran,
    ask_async,
    drain,
    finish_async,
    needs_litellm,
    needs_v2,
    run,
    say,
    spool,
    stock_callback,
    warnings_of_install,
)
from ports import HOST, free_port
from projects import OWN_KEY, PROJECTS, TEAM_KEY, credentials_file
from spool.settings.environment import MISSING_KEYS
from spool.settings.headers import basic_auth
from standin import StandIn

ON: Final = {"LITELLM_OTEL_V2": "true", "OTEL_EXPORTER": "in_memory"}  # else the console prints all
SPAN: Final = "chat gpt-4o"
KINDS: Final = ("otlp_http", "http", "http/protobuf", "http/json")


def run_v2(
    scenario: Callable[[], None], path: Path, host: str, *, is_fresh: bool = False, **more: str
) -> Ran:
    return run(scenario, path, host, is_fresh=is_fresh, **{**ON, **more})


@pytest.fixture
def v2() -> None:
    needs_v2()


pytestmark = [needs_litellm, pytest.mark.usefixtures("v2")]


def spooled_callback() -> None:
    import spool.litellm

    stock_callback()
    spool.litellm.install()


def loggers() -> list[Any]:
    from litellm.litellm_core_utils import litellm_logging

    return litellm_logging._in_memory_loggers


async def answers(*calls: dict[str, Any]) -> None:
    """Make calls, and wait until LiteLLM has logged them."""
    for call in calls:
        await ask_async(**call)
    await finish_async()


def scenario_stock() -> None:
    stock_callback()
    asyncio.run(make_all_kinds_of_async_calls())
    say(None)


def scenario_spooled() -> None:
    spooled_callback()
    asyncio.run(make_all_kinds_of_async_calls())
    say(None)


@pytest.mark.parametrize("scope", ["full", "llm_only"])
def test_the_spans_are_those_of_the_stock_v2_callback(path: Path, scope: str) -> None:
    found = []
    for scenario in (scenario_stock, scenario_spooled):
        with StandIn() as langfuse:
            run_v2(
                scenario,
                path,
                langfuse.url,
                LITELLM_OTEL_LANGFUSE_SPAN_SCOPE=scope,
                OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT="span_only",
            )
            if scenario is scenario_spooled:
                assert langfuse.accepted == 0
                drain(path, langfuse.url)
            found.append(described(langfuse))
    stock, spooled = found
    assert len(stock) >= 5  # LiteLLM makes none for some kinds
    assert spooled == stock


def scenario_killed() -> None:
    spooled_callback()

    async def call() -> None:
        await answers(*[{"text": f"question {number}"} for number in range(5)])
        say(None)
        os.kill(os.getpid(), signal.SIGKILL)

    asyncio.run(call())


def test_what_has_ended_survives_an_outage_a_kill_and_a_restart(
    path: Path, langfuse: StandIn
) -> None:
    nobody = f"http://{HOST}:{free_port()}"
    with pytest.raises(AssertionError, match=r"The scenario says"):  # it ends by the signal
        run_v2(scenario_killed, path, nobody, SPOOL_DRAIN="on")
    assert drain(path, langfuse.url) == 5
    assert langfuse.names() == {SPAN: 5}


def scenario_last_calls() -> None:
    spooled_callback()

    async def call() -> None:
        await asyncio.gather(*(ask_async() for _ in range(3)))

    asyncio.run(call())
    say(None)


def test_a_program_that_ends_right_after_its_calls_delivers(path: Path, langfuse: StandIn) -> None:
    ran = run_v2(scenario_last_calls, path, langfuse.url, is_fresh=True, SPOOL_DRAIN="on")
    assert "Traceback" not in ran.log
    assert langfuse.names() == {SPAN: 3}


def scenario_teams() -> None:
    spooled_callback()
    more = json.loads(os.environ["TEAM_MORE"])
    asyncio.run(answers({}, {**TEAM, **more}, {}))
    names = [thread.name for thread in threading.enumerate()]
    say([sorted(n for n in names if n.startswith("spool-")), [n for n in names if "Batch" in n]])


def test_a_calls_own_credentials_are_a_route_and_cost_no_thread(path: Path, tmp_path: Path) -> None:
    with StandIn(PROJECTS) as langfuse:
        ours, batching = run_v2(
            scenario_teams, path, langfuse.url, SPOOL_DRAIN="on", TEAM_MORE="{}"
        ).said
        credentials = credentials_file(tmp_path / "credentials")
        drain(path, langfuse.url, SPOOL_CREDENTIALS_FILE=credentials)
    assert names_by_key(langfuse.requests) == {OWN_KEY: {SPAN}, TEAM_KEY: {SPAN}}
    assert len(langfuse.span_ids()) == 3
    assert ours == ["spool-drainer", "spool-maintenance"]
    assert batching == []  # SimpleSpanProcessors alone


def test_a_call_that_names_a_public_key_not_its_own_gets_none_of_its_spans(
    path: Path, langfuse: StandIn
) -> None:
    theft = {"langfuse_public_key": "pk-lf-test", "langfuse_secret_key": "sk-lf-thief"}
    run_v2(scenario_teams, path, langfuse.url, TEAM_MORE=json.dumps(theft))
    spool(path, langfuse.url, "drain")  # without the thief's secret
    assert len(langfuse.span_ids()) == 2
    routes = spool(path, langfuse.url, "status")[1]["routes"]
    assert sorted(route["route"].split("#")[0] for route in routes) == ["pk-lf-test"] * 2


def scenario_many_teams() -> None:
    spooled_callback()
    keys = [
        {"langfuse_public_key": f"pk-lf-{n}", "langfuse_secret_key": "sk-lf"} for n in range(300)
    ]
    before = threading.active_count()
    asyncio.run(answers({}, *keys))
    say([threading.active_count() - before, len(loggers()[0]._tenant_tracers._providers)])


def test_tenants_that_litellm_evicts_take_nothing_down_with_them(path: Path) -> None:
    nobody = f"http://{HOST}:{free_port()}"
    threads, kept = run_v2(scenario_many_teams, path, nobody, SPOOL_DRAIN="on").said
    assert kept == 256
    assert threads <= 3  # the spool's two, and one of asyncio's
    assert spool(path, nobody, "status")[1]["pending"]["spans"] == 301


def scenario_destinations() -> None:
    """Do what LiteLLM's proxy does at its start, and for a request of a team."""
    import litellm
    from litellm.integrations.otel.logger import fan_out_provider, publish_global_otel_v2_provider
    from litellm.integrations.otel.plumbing.context import set_request_destinations
    from litellm.integrations.otel.plumbing.providers import deliverable_destinations
    from litellm.integrations.otel.presets.destinations import destination_for

    spooled_callback()
    litellm.callbacks = [os.environ["CALLBACK"]]
    litellm.otel_tenant_destination_mode = os.environ["MODE"]
    litellm.provider_url_destination_allowed_hosts = json.loads(os.environ["ALLOWED"])
    asyncio.run(answers({}))
    publish_global_otel_v2_provider(loggers(), lambda _: None)
    named = {**TEAM, "langfuse_host": os.environ["TEAM_HOST"]}
    found = destination_for("langfuse_otel", named)  # type: ignore[arg-type]
    wanted = (found,) if found else ()
    set_request_destinations(deliverable_destinations(wanted, fan_out_provider()))
    asyncio.run(answers({}))
    say([thread.name for thread in threading.enumerate() if "Batch" in thread.name])
    sys.stdout.flush()
    os._exit(0)  # no hook of an exit runs, as at a kill


def run_destinations(path: Path, host: str, team_host: str, **more: str) -> None:
    if importlib.util.find_spec("litellm.integrations.otel.presets.destinations") is None:
        pytest.skip("this litellm has no fan-out to destinations")
    allowed = json.dumps([team_host.split("//")[1]])
    defaults = {"MODE": "override", "ALLOWED": allowed, "CALLBACK": "langfuse_otel"}
    given = {**defaults, "TEAM_HOST": team_host, **more}
    batching = run_v2(scenario_destinations, path, host, is_fresh=False, **given).said
    assert batching == []  # each would be a window in which a kill loses spans


@pytest.mark.parametrize(("mode", "own"), [("override", 1), ("additive", 2)])
def test_a_teams_destination_is_a_route_beside_or_instead_of_the_operators(
    path: Path, tmp_path: Path, langfuse: StandIn, mode: str, own: int
) -> None:
    with StandIn({"pk-lf-team": "sk-lf-team"}) as other:
        run_destinations(path, langfuse.url, other.url, MODE=mode)
        credentials = credentials_file(tmp_path / "credentials", other.url)
        assert drain(path, langfuse.url, SPOOL_CREDENTIALS_FILE=credentials) == own + 1
        assert (langfuse.accepted, other.accepted) == (own, 1)


def test_a_teams_host_that_the_operator_does_not_allow_gets_nothing(
    path: Path, langfuse: StandIn
) -> None:
    with StandIn({"pk-lf-team": "sk-lf-team"}) as other:
        run_destinations(path, langfuse.url, other.url, ALLOWED="[]")
        drain(path, langfuse.url)
        assert (langfuse.accepted, other.requests) == (2, [])


def test_teams_can_have_projects_where_the_operator_has_none(
    path: Path, tmp_path: Path, langfuse: StandIn
) -> None:
    with StandIn({"pk-lf-team": "sk-lf-team"}) as other:
        keyless = {"LANGFUSE_PUBLIC_KEY": "", "LANGFUSE_SECRET_KEY": ""}
        run_destinations(path, "", other.url, CALLBACK="otel", **keyless)
        credentials = credentials_file(tmp_path / "credentials", other.url)
        drain(path, langfuse.url, SPOOL_CREDENTIALS_FILE=credentials)
        assert (langfuse.requests, other.accepted) == ([], 1)


def scenario_specs() -> None:
    """Let the stock exporters send, and tell where ours would."""
    from litellm.integrations.otel.model.config import ExporterSpec, OpenTelemetryV2Config
    from litellm.integrations.otel.plumbing import providers

    import spool.litellm

    place = os.environ["LANGFUSE_HOST"]
    specs: list[dict[str, Any]] = [
        {"endpoint": place},
        {"endpoint": f"{place}/api/public/otel/", "headers": f"Authorization={TEAM_KEY}"},
        {"endpoint": f"{place}/v1/metrics", "headers": "a=b%20c%2Cd,e=f"},
        {"endpoint": f"{place}/v2/trace/otlp"},
    ]
    if "traces_endpoint" in ExporterSpec.model_fields:
        specs.append({"endpoint": place, "traces_endpoint": f"{place}/x"})
    for spec in specs:
        end_span(
            SimpleSpanProcessor(providers._exporter_from_spec(ExporterSpec(kind="http", **spec)))
        )
    spool.litellm.install()
    found: list[list[Any]] = []
    for kind in KINDS:
        for spec in (*specs, {}):
            ours: Any = providers._exporter_from_spec(ExporterSpec(kind=kind.upper(), **spec))
            found.append([ours._find().endpoint, dict(ours._find().headers)])
    config = OpenTelemetryV2Config(exporter="otlp_http", endpoint=place)
    others = [
        type(providers.build_metric_reader(config)._exporter),  # type: ignore[attr-defined]
        type(providers.build_log_exporter(config)),
    ]
    say([found, sorted(providers._EXPORTER_FACTORIES), [kind.__module__ for kind in others]])


def test_a_destination_is_read_as_the_stock_exporters_read_it_and_only_for_spans_over_http(
    path: Path, langfuse: StandIn
) -> None:
    found, kinds, others = run_v2(
        scenario_specs, path, langfuse.url, OTEL_EXPORTER_OTLP_TRACES_HEADERS="x=y"
    ).said
    named = ("authorization", "a", "e", "x")
    stock: list[Any] = [
        [langfuse.url + request.path, {k: request.headers.get(k) for k in named}]
        for request in langfuse.requests
    ]
    for _, sent in stock:  # the newest OpenTelemetry adds the variable's for every receiver,
        sent["x"] = None if sent["a"] else "y"  # we for Langfuse, and for who has none of his own
    stock.append(["http://localhost:4318/v1/traces", {**dict.fromkeys(named), "x": "y"}])
    assert len(stock) >= 5
    assert [[place, {k: sent.get(k) for k in named}] for place, sent in found] == stock * len(KINDS)
    assert set(KINDS) <= set(kinds)
    assert not [kind for kind in kinds if "grpc" in kind]
    assert all(module.startswith("opentelemetry.") for module in others)


def scenario_collector() -> None:
    spooled_callback()
    asyncio.run(answers({}, {}))
    say(None)


def test_the_operators_own_collector_is_spooled_as_a_route_beside_langfuse(path: Path) -> None:
    with StandIn() as langfuse, StandIn({"pk-lf-other": "sk-lf-other"}) as collector:
        other = basic_auth("pk-lf-other", "sk-lf-other")
        run_v2(
            scenario_collector,
            path,
            langfuse.url,
            OTEL_EXPORTER="otlp_http",
            OTEL_EXPORTER_OTLP_ENDPOINT=f"{collector.url}/api/public/otel",
            OTEL_EXPORTER_OTLP_HEADERS=f"Authorization={other}",
            SPOOL_DRAIN="on",
        )
        for receiver in (langfuse, collector):
            receiver.wait_for(lambda it: it.accepted >= 2)
            assert receiver.names() == {SPAN: 2}


def scenario_handler() -> None:
    import litellm

    import spool.litellm

    stock_callback()
    litellm.callbacks = [spool.litellm.handler, "langfuse_otel"]
    asyncio.run(answers({}, {"success_callback": ["langfuse_otel"]}))
    v2 = type(spool.litellm.handler).__module__
    say([[logger is spool.litellm.handler for logger in loggers()], v2])


def test_the_handler_is_litellms_v2_callback_so_no_call_is_traced_twice(
    path: Path, langfuse: StandIn
) -> None:
    same, module = run_v2(scenario_handler, path, langfuse.url).said
    assert same == [True]
    assert module.startswith("litellm.integrations.otel.")
    assert langfuse.requests == []
    assert drain(path, langfuse.url) == 2


def scenario_installed() -> None:
    say(warnings_of_install())


def scenario_too_late() -> None:
    stock_callback()
    asyncio.run(answers({}))
    say(warnings_of_install())


def test_install_is_quiet_but_says_loudly_when_it_comes_too_late(
    path: Path, langfuse: StandIn
) -> None:
    assert run_v2(scenario_installed, path, langfuse.url).said == []
    ran = run_v2(scenario_too_late, path, langfuse.url)
    [warning] = ran.said
    assert "LiteLLM has already made its own langfuse_otel callback (v2)" in warning
    assert f"langfuse-spool: {warning}" in ran.log  # a proxy's operator reads the log


def scenario_wrong() -> None:
    import spool.litellm

    errors = []
    set_ups: list[Callable[[], object]] = [spool.litellm.install, lambda: spool.litellm.handler]
    for set_up in set_ups:
        try:
            set_up()
        except spool.SettingsError as error:
            errors.append(str(error))
    say(errors)


def test_wrong_settings_are_said_at_setup(path: Path) -> None:
    ran = run_v2(scenario_wrong, path, "http://127.0.0.1:9", SPOOL_DRAIN="maybe")
    assert ran.said == ["SPOOL_DRAIN=maybe: must be on or off"] * 2
    assert not path.exists()
    ran = run_v2(
        scenario_wrong, path, "http://127.0.0.1:9", LITELLM_OTEL_LANGFUSE_SPAN_SCOPE="half"
    )
    for error in ran.said:
        assert "LiteLLM's v2 does not take its settings" in error
        assert "'half'" in error


def test_without_langfuse_keys_there_is_no_handler_and_the_log_says_what_is_not_spooled(
    path: Path,
) -> None:
    ran = run_v2(scenario_wrong, path, "", LANGFUSE_PUBLIC_KEY="", LANGFUSE_SECRET_KEY="")
    assert ran.said == [MISSING_KEYS]  # install() is for others' projects, too
    assert "takes its v1 callback for the name langfuse_otel, that one is not spooled" in ran.log
