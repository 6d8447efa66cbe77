"""The LiteLLM callback, with real LiteLLM calls whose answers are mocks.

LiteLLM keeps its state in module globals, so each scenario runs in a process of its own. Run as a
script, this file is such a process: `python tests/test_litellm.py SCENARIO`. As LiteLLM takes
seconds to import, most are forked from one process that has done so: the script without a scenario.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import importlib.metadata
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final
from unittest.mock import patch

import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry.sdk.trace import TracerProvider

from spool import SettingsError
from spool.pipeline import registry
from spool.settings import known_targets
from spool.settings.endpoints import LANGFUSE_PATH
from spool.settings.headers import basic_auth
from spool.settings.target import Target
from standin import HOST, Behaviour, Request, StandIn, mute, parse, spans_of, unavailable

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("litellm") is None,
    reason="litellm is not installed; pip install 'langfuse-spool[litellm]'",
)

KEYS: Final = {"LANGFUSE_PUBLIC_KEY": "pk-lf-test", "LANGFUSE_SECRET_KEY": "sk-lf-test"}
TEAM: Final = {"langfuse_public_key": "pk-lf-team", "langfuse_secret_key": "sk-lf-team"}
PROJECTS: Final = {"pk-lf-test": "sk-lf-test", "pk-lf-team": "sk-lf-team"}
OWN_KEY: Final = basic_auth("pk-lf-test", "sk-lf-test")
TEAM_KEY: Final = basic_auth("pk-lf-team", "sk-lf-team")
SAID: Final = "The scenario says: "
# What these are about is how a program imports LiteLLM, forks or ends.
FRESH: Final = {
    "import", "once", "fork", "last_call", "last_async_call", "short", "patient", "end",
}  # fmt: skip
MISSING_KEYS: Final = (
    "LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY must be set for Langfuse OpenTelemetry "
    "integration."
)


def litellm_version() -> tuple[int, ...]:
    return tuple(int(part) for part in importlib.metadata.version("litellm").split(".")[:2])


def needs(major: int, minor: int, what: str) -> None:
    if litellm_version() < (major, minor):
        pytest.skip(f"litellm below {major}.{minor} {what}")


# Processes


@dataclass(frozen=True)
class Ran:
    """What a scenario said at its end, and all else that it printed."""

    said: Any
    log: str


def run(scenario: str, path: Path, host: str, **more: str) -> Ran:
    """Run a scenario in a process that only spools."""
    here = {"SPOOL_PATH": str(path), "SPOOL_DRAIN": "off", "LANGFUSE_HOST": host}
    environment = {**os.environ, **KEYS, **here, **more}
    start = run_afresh if scenario in FRESH else run_preloaded
    with tempfile.NamedTemporaryFile("w+") as output:
        code = start(scenario, environment, output)
        log = Path(output.name).read_text()
    assert code == 0, log
    _, _, said = log.rpartition(SAID)  # LiteLLM logs to stdout too, even during exit
    return Ran(json.loads(said.splitlines()[0]), log)


def run_afresh(scenario: str, environment: dict[str, str], output: IO[str]) -> int:
    command = [sys.executable, __file__, scenario]
    done = subprocess.run(
        command, env=environment, stdout=output, stderr=output, timeout=100, check=False
    )
    return done.returncode


def run_preloaded(scenario: str, environment: dict[str, str], output: IO[str]) -> int:
    process = preloaded()
    assert process.stdin is not None
    assert process.stdout is not None
    json.dump([scenario, environment, output.name], process.stdin)
    process.stdin.write("\n")
    process.stdin.flush()
    return int(process.stdout.readline())


@functools.cache
def preloaded() -> subprocess.Popen[str]:
    """Start the process that others are forked from; it ends with the tests."""
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, __file__], stdin=pipe, stdout=pipe, text=True)


def fork_scenarios() -> None:
    """Fork a process for each order that is read, and print its exit code."""
    import litellm  # noqa: F401 - for all of them

    assert threading.active_count() == 1, "no other thread would cross a fork"
    for order in sys.stdin:
        scenario, environment, output = json.loads(order)
        pid = os.fork()
        if pid == 0:
            os.environ.clear()
            os.environ.update(environment)
            for fd in (1, 2):
                os.dup2(os.open(output, os.O_WRONLY | os.O_APPEND), fd)
            SCENARIOS[scenario]()
            return  # and ends as any program does
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def spool(path: Path, host: str, command: str, **more: str) -> tuple[int, Any]:
    """Run a command as a user would, when all is well again."""
    done = subprocess.run(
        [sys.executable, "-m", "spool", "--path", str(path), command, "--json"],
        env={**os.environ, **KEYS, "LANGFUSE_HOST": host, **more},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def drain(path: Path, host: str, **more: str) -> int:
    """Send all that is left, and say how much it was."""
    code, result = spool(path, host, "drain", **more)
    assert code == 0, result
    delivered = result["delivered"]
    assert isinstance(delivered, int)
    return delivered


def say(value: object) -> None:
    print(SAID + json.dumps(value), flush=True)


def stock_callback() -> None:
    import litellm

    # As where only litellm itself is installed: it imports the proxy otherwise, for seconds.
    sys.modules["litellm.proxy.proxy_server"] = None  # type: ignore[assignment]
    litellm.callbacks = ["langfuse_otel"]


def spool_handler() -> Any:
    import litellm

    import spool.litellm

    litellm.callbacks = [spool.litellm.handler]
    return spool.litellm.handler


def question(text: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": "gpt-4o", "messages": messages, "mock_response": f"re: {text}", **more}


def ask(text: str = "hello", **more: Any) -> Any:
    import litellm

    return litellm.completion(**question(text, **more))


async def ask_async(text: str = "hello", **more: Any) -> Any:
    import litellm

    return await litellm.acompletion(**question(text, **more))


def finish() -> None:
    """Wait until LiteLLM has logged all synchronous calls."""
    from litellm.litellm_core_utils.thread_pool_executor import executor

    executor.shutdown(wait=True)


# The same spans as the stock callback

METADATA: Final = {
    "generation_name": "a name",
    "generation_id": "a-generation",
    "parent_observation_id": "a-parent",
    "existing_trace_id": "a-trace",
    "trace_id": "0123-4567",
    "trace_name": "a trace",
    "trace_user_id": "a user",
    "trace_metadata": {"key": ["value"]},
    "trace_release": "1.0",
    "session_id": "a-session",
    "tags": ["one", "two"],
    "version": "2",
    "mask_input": True,
    "something_else": {"deep": [1, None]},
}
TOOLS: Final = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tell the weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
TOOL_CALLS: Final = [
    {
        "id": "call_1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Rome"}'},
    }
]
KINDS: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "metadata": {"metadata": METADATA, "user": "a user", "temperature": 0.5},
    "tools": {"tools": TOOLS, "mock_tool_calls": TOOL_CALLS},
}
IGNORED: Final = {
    "service.instance.id": "OpenTelemetry draws it for each process",
    "llm.response.id": "LiteLLM draws it for each mock answer",
    "litellm.trace_id": "LiteLLM draws it for each call that names no session",
    "langfuse.observation.completion_start_time": "a time",
    "langfuse.observation.output": "in a tool call it holds the drawn llm.response.id: only that",
    "langfuse.trace.output": "as that",
}
DRAWN: Final = re.compile(r"chatcmpl-[0-9a-f-]{36}")


def scenario_stock() -> None:
    stock_callback()
    make_all_kinds_of_calls()
    say(None)


def scenario_spooled() -> None:
    spool_handler()
    make_all_kinds_of_calls()
    say(None)


def make_all_kinds_of_calls() -> None:
    for kind, more in KINDS.items():
        ask(kind, **json.loads(json.dumps(more)))
    assert list(ask("streaming", stream=True))
    with pytest.raises(Exception, match="boom"):
        ask("failure", mock_response=Exception("boom"))
    asyncio.run(make_all_kinds_of_async_calls())
    finish()


async def make_all_kinds_of_async_calls() -> None:
    from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER

    for kind, more in KINDS.items():
        await ask_async(f"async {kind}", **json.loads(json.dumps(more)))
    assert [chunk async for chunk in await ask_async("async streaming", stream=True)]
    with pytest.raises(Exception, match="boom"):
        await ask_async("async failure", mock_response=Exception("boom"))
    await asyncio.sleep(0.1)
    await GLOBAL_LOGGING_WORKER.flush()


def described(langfuse: StandIn) -> list[str]:
    """Describe each span but for ids, times and what is drawn anew each time, in some order."""
    names = {span.span_id: span.name for span in langfuse.spans}
    names[b""] = "none"
    return sorted(
        json.dumps(
            {
                "name": span.name,
                "kind": span.kind,
                "status": MessageToDict(span.status),
                "parent": names[span.parent_span_id],
                "attributes": values(span.attributes),
                "events": [(event.name, values(event.attributes)) for event in span.events],
                "links": len(span.links),
                "resource": values(resource_spans.resource.attributes),
                "scope": MessageToDict(scope_spans.scope),
            },
            indent=1,
            sort_keys=True,
        )
        for resource_spans in langfuse.resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
    )


def values(attributes: Iterable[Any]) -> dict[str, str]:
    found = {a.key: json.dumps(MessageToDict(a.value)) for a in attributes}
    drawn = {key: DRAWN.sub("(drawn)", found[key]) for key in found.keys() & IGNORED.keys()}
    drawn |= {key: "(drawn)" for key in drawn if not key.endswith(".output")}
    return found | drawn


def test_the_spans_are_those_of_the_stock_callback(path: Path) -> None:
    with StandIn() as langfuse:
        run("stock", path, langfuse.url)
        stock = described(langfuse)
    with StandIn() as langfuse:
        run("spooled", path, langfuse.url)
        assert langfuse.accepted == 0
        drain(path, langfuse.url)
        spooled = described(langfuse)
    failures = [span for span in stock if "STATUS_CODE_ERROR" in span and '"exception"' in span]
    assert (len(stock), len(failures)) == (18, 2)
    assert spooled == stock


# Outages


def scenario_twenty() -> None:
    spool_handler()
    for number in range(20):
        ask(f"question {number}")
    finish()
    say(None)


def refused_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
    assert isinstance(port, int)
    return port


def test_all_spans_of_a_refusing_endpoint_arrive_later(path: Path, langfuse: StandIn) -> None:
    run("twenty", path, f"http://{HOST}:{refused_port()}", SPOOL_DRAIN="on")
    assert drain(path, langfuse.url) == 40
    assert len(langfuse.span_ids()) == langfuse.accepted == 40


@pytest.mark.parametrize("trouble", [unavailable(), mute()], ids=["answering 503", "hanging"])
def test_all_spans_of_an_endpoint_in_trouble_arrive_later(
    path: Path, langfuse: StandIn, trouble: Behaviour
) -> None:
    langfuse.behave(trouble)
    run("twenty", path, langfuse.url, SPOOL_DRAIN="on")
    assert langfuse.requests
    assert langfuse.accepted == 0
    langfuse.behave(None)
    assert drain(path, langfuse.url) == 40
    assert len(langfuse.span_ids()) == langfuse.accepted == 40


def scenario_last_call() -> None:
    spool_handler()
    ask()
    say(None)


def scenario_last_async_call() -> None:
    spool_handler()
    asyncio.run(ask_async())
    say(None)


@pytest.mark.parametrize("scenario", ["last_call", "last_async_call"])
def test_the_last_call_before_the_program_ends_is_not_lost(
    path: Path, langfuse: StandIn, scenario: str
) -> None:
    run(scenario, path, langfuse.url)
    assert drain(path, langfuse.url) == 2


def scenario_short() -> None:
    spool_handler()
    ask()
    say(None)


def scenario_patient() -> None:
    spool_handler()
    ask()
    finish()
    say(None)


def test_a_call_right_before_the_program_ends_has_all_attributes_and_no_traceback(
    path: Path,
) -> None:
    found = []
    for scenario in ("short", "patient"):
        with StandIn() as langfuse:
            ran = run(scenario, path, langfuse.url)
            assert "Traceback" not in ran.log
            assert drain(path, langfuse.url) == 2
            found.append({span.name: {a.key for a in span.attributes} for span in langfuse.spans})
    assert found[0] == found[1]
    assert "langfuse.observation.input" in found[0]["litellm_request"]


def scenario_end() -> None:
    atexit.register(lambda: say(handler._exporter.export([]).name))  # hooks run last to first
    handler = spool_handler()
    asyncio.run(ask_async())


def test_the_exporter_is_shut_down_when_the_program_ends(path: Path, langfuse: StandIn) -> None:
    assert run("end", path, langfuse.url).said == "FAILURE"


def scenario_reused_metadata() -> None:
    spool_handler()
    metadata = {"session_id": "one"}
    for number in range(3):
        ask(f"question {number}", metadata=metadata)
    say(None)


def test_calls_that_share_a_metadata_dict_are_all_there(path: Path, langfuse: StandIn) -> None:
    run("reused_metadata", path, langfuse.url)
    drain(path, langfuse.url)
    assert len({span.trace_id for span in langfuse.spans}) == 3
    assert langfuse.accepted == 6


def scenario_reused_metadata_for_ever() -> None:
    handler = spool_handler()
    metadata: dict[str, Any] = {}
    calls = [
        {"litellm_call_id": str(n), "litellm_params": {"metadata": metadata}} for n in range(5000)
    ]
    first = [handler._emit_once(call, "success") for call in calls]
    again = [handler._emit_once(call, "success") for call in calls[-100:]]
    say([all(first), any(again), len(metadata["_otel_internal"]["spans_logged"])])


def test_a_metadata_dict_that_is_used_for_ever_does_not_grow_for_ever(path: Path) -> None:
    from litellm.integrations.opentelemetry import OpenTelemetry

    if not hasattr(OpenTelemetry, "_emit_once"):
        pytest.skip("this litellm marks nothing in the metadata dict")
    all_first, any_again, size = run("reused_metadata_for_ever", path, "http://127.0.0.1:9").said
    assert all_first
    assert not any_again
    assert size <= 2000


# Setting up


def scenario_import() -> None:
    import litellm
    from litellm.litellm_core_utils import litellm_logging

    threads = threading.active_count()
    import spool.litellm

    made = "handler" in vars(spool.litellm)
    new_threads = threading.active_count() - threads
    say([litellm_logging._in_memory_loggers, litellm.callbacks, made, new_threads])


def test_importing_makes_no_callback_no_file_and_no_thread(path: Path) -> None:
    assert run("import", path, "").said == [[], [], False, 0]
    assert not path.exists()


def scenario_once() -> None:
    import spool.litellm

    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(id(spool.litellm.handler))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    from spool.litellm import handler

    proxy = "litellm.proxy.proxy_server" in sys.modules
    say([len({*found, id(handler)}), hasattr(spool.litellm, "no_such_thing"), proxy])


def test_a_process_has_one_handler_even_if_threads_ask_at_once(path: Path) -> None:
    handlers, has_more, has_loaded_the_proxy = run("once", path, "http://127.0.0.1:9").said
    assert handlers == 1
    assert not has_more
    assert not has_loaded_the_proxy  # which the stock callback does, for seconds


def scenario_fork() -> None:
    spool_handler()
    child = os.fork()
    if child == 0:
        ask("child")
        finish()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    ask("parent")
    say(status)


def test_a_handler_made_before_a_fork_serves_parent_and_child(
    path: Path, langfuse: StandIn
) -> None:
    assert run("fork", path, langfuse.url).said == 0
    assert drain(path, langfuse.url) == 4


WRONG: Final[dict[str, tuple[dict[str, str], str]]] = {
    "no public key": ({"LANGFUSE_PUBLIC_KEY": ""}, MISSING_KEYS),
    "no secret key": ({"LANGFUSE_SECRET_KEY": ""}, MISSING_KEYS),
    "another protocol": (
        {
            "LANGFUSE_SECRET_KEY": "",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        },
        "OTEL_EXPORTER_OTLP_PROTOCOL=grpc: must be http/protobuf",
    ),
    "a wrong value": (
        {"SPOOL_DRAIN": "maybe"},
        "SPOOL_DRAIN=maybe: must be on or off",
    ),
}


def scenario_wrong() -> None:
    import spool.litellm

    before = dict(os.environ)
    errors: dict[str, list[str]] = {}
    for what, (variables, _) in WRONG.items():
        os.environ.update(variables)
        for set_up in (lambda: spool.litellm.handler, spool.litellm.install):
            try:
                set_up()
            except SettingsError as error:
                errors.setdefault(what, []).append(str(error))
        os.environ.clear()
        os.environ.update(before)
    say(errors)


def test_what_is_missing_or_wrong_is_said_at_setup_in_litellms_words(path: Path) -> None:
    said = run("wrong", path, "http://127.0.0.1:9").said
    assert said == {what: [words] * 2 for what, (_, words) in WRONG.items()}
    assert not path.exists()


def scenario_name() -> None:
    import litellm
    from litellm.litellm_core_utils import litellm_logging

    import spool.litellm

    spool.litellm.install()
    spool.litellm.install()
    litellm.callbacks = ["langfuse_otel"]
    ask("hello", success_callback=["langfuse_otel"], **TEAM)  # as a proxy's key does it
    finish()
    say([logger is spool.litellm.handler for logger in litellm_logging._in_memory_loggers])


def test_after_install_the_name_langfuse_otel_means_ours_everywhere(
    path: Path, langfuse: StandIn
) -> None:
    assert run("name", path, langfuse.url).said == [True]
    assert langfuse.requests == []  # as the stock callback would have sent
    assert spool(path, langfuse.url, "status")[1]["pending"]["spans"] == 2


def scenario_too_late() -> None:
    stock_callback()
    ask()
    say(warnings_of_install())


def scenario_version_2() -> None:
    say(warnings_of_install())


def warnings_of_install() -> list[str]:
    import spool.litellm

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        spool.litellm.install()
        spool.litellm.install()
    return [str(warning.message) for warning in caught if "langfuse_otel" in str(warning.message)]


def test_install_warns_when_the_stock_callback_was_made_before(
    path: Path, langfuse: StandIn
) -> None:
    [warning] = run("too_late", path, langfuse.url).said
    assert "LiteLLM has already made its own langfuse_otel callback" in warning


def test_install_warns_when_litellms_v2_callback_is_on(path: Path) -> None:
    [warning] = run("version_2", path, "http://127.0.0.1:9", LITELLM_OTEL_V2="true").said
    assert "LITELLM_OTEL_V2 is set" in warning


def scenario_debug() -> None:
    import litellm

    litellm._turn_on_debug()
    spool_handler()
    ask()
    finish()
    say(None)


def test_debug_output_tells_endpoint_and_spans_but_no_secret(path: Path, langfuse: StandIn) -> None:
    log = run("debug", path, langfuse.url, SPOOL_DRAIN="on").log
    assert f"spans of pk-lf-test go to {langfuse.endpoint}; authorization header: made" in log
    assert "['litellm_request'] of pk-lf-test: spooled" in log
    assert f"to {langfuse.endpoint}: delivered" in log
    assert "sk-lf-test" not in log
    [authorization] = {request.headers["authorization"] for request in langfuse.requests}
    assert authorization.removeprefix("Basic ") not in log


# Where the spans go

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
    places = run("places", path, "").said
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
    assert run("default", path, host).said == named


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


def credentials_file(path: Path, host: str = "") -> str:
    path.write_text(f"pk-lf-team: sk-lf-team {host}\n")
    path.chmod(0o600)
    return str(path)


def test_spans_of_a_key_with_its_own_project_go_to_that_project_only(
    path: Path, tmp_path: Path
) -> None:
    with StandIn(PROJECTS) as langfuse:
        threads = run("team", path, langfuse.url, SPOOL_DRAIN="on", TEAM_MORE="{}").said
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
        left, spools, users = run("many_keys", path, langfuse.url, SPOOL_DRAIN="on").said
        assert langfuse.accepted == 600
    assert left <= known_targets.MANY
    assert (spools, users) == (1, 1)


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
    run("dropped", path, langfuse.url)
    assert spool(path, langfuse.url, "status")[1]["pending"]["spans"] == 2


def test_a_key_that_names_a_public_key_not_its_own_gets_none_of_its_spans(
    path: Path, langfuse: StandIn
) -> None:
    langfuse.keys["pk-lf-thief"] = "sk-lf-thief"
    theft = {"langfuse_public_key": "pk-lf-test", "langfuse_secret_key": "sk-lf-thief"}
    run("team", path, langfuse.url, SPOOL_DRAIN="on", TEAM_MORE=json.dumps(theft))
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
        run("team", path, langfuse.url, TEAM_MORE=json.dumps({"langfuse_host": other.url}))
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
    ran = run("team", path, langfuse.url, TEAM_MORE='{"langfuse_host": "not a host"}')
    assert "spans were refused and are lost: endpoint=https://not a host/" in ran.log
    drain(path, langfuse.url)
    assert langfuse.names() == {"own": 4}
    assert spool(path, langfuse.url, "status")[1]["ledger"]["refused"] == 2


SCENARIOS: Final[dict[str, Callable[[], None]]] = {
    name.removeprefix("scenario_"): function
    for name, function in list(globals().items())
    if name.startswith("scenario_")
}

if __name__ == "__main__":
    if sys.argv[1:]:
        SCENARIOS[sys.argv[1]]()
    else:
        fork_scenarios()
