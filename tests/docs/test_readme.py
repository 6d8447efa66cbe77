"""The README's first screen, its quick start and the roads in: each block runs as it stands.

What goes around it (a stand-in in place of Langfuse, a call, a look at what arrived) is the test's.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import textwrap
from pathlib import Path
from typing import Final

import pytest

from forked import run_forked
from instrumented import is_here, needs_configuration, needs_distro
from langfuse_scenarios import needs_langfuse
from litellm_scenarios import needs_litellm, needs_v2
from model_server import model_server
from pages import (
    README,
    ROOT,
    TESTS,
    block,
    blocks,
    drain,
    quoted,
    run,
    run_python,
    run_shell,
    table,
)
from spool import SpoolSpanExporter
from standin import StandIn

MOST_LINES: Final = 320

needs_openinference = pytest.mark.skipif(
    not is_here("openinference.instrumentation.openai") or not is_here("openai"),
    reason="openinference-instrumentation-openai and openai are not both installed here",
)

# The page as a whole


@pytest.mark.once
def test_the_readme_fits_its_page() -> None:
    assert len(README.read_text().splitlines()) <= MOST_LINES


@pytest.mark.once
def test_every_block_of_the_readme_has_its_test() -> None:
    assert [(b.section, b.kind) for b in blocks(README)] == [
        ("", ""),
        ("", "sh"),
        ("", "python"),
        ("Quick start", "python"),
        ("Quick start", "sh"),
        ("The roads in", "yaml"),
        ("The roads in", "python"),
        ("The roads in", "sh"),
        ("The roads in", "yaml"),
        ("The roads in", "python"),
        ("The roads in", "sh"),
        ("Commands", "sh"),
        ("Metrics", "python"),
    ]


# The first screen


@pytest.mark.once
def test_the_two_commands_are_there() -> None:
    lines = block("", "sh").splitlines()
    assert [line.split()[0] for line in lines] == ["scripts/demo", "scripts/test"]
    for line in lines:
        assert os.access(ROOT / line.split()[0], os.X_OK)


@needs_litellm
@pytest.mark.once
@pytest.mark.timeout(600)
def test_the_demo_prints_what_the_readme_shows(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clone)
    (command,) = [c for c in block("", "sh").splitlines() if c.startswith("scripts/demo")]
    said, shown = run_shell(f"exec 2>&1; {command}"), block("", "")
    assert without_figures(said) == without_figures(shown)


def without_figures(text: str) -> str:
    """Take out what differs: the port, and how long it took."""
    return re.sub(r"127\.0\.0\.1:\d+|and \d+\.\d s", "…", text)


# LiteLLM

LOGGED: Final = """
from litellm.litellm_core_utils.thread_pool_executor import executor
executor.shutdown(wait=True)  # the call is logged in LiteLLM's own threads
"""


def installing() -> str:
    """Give the code that keeps the name `langfuse_otel`, which the roads in say in a sentence."""
    statements = ["spool.litellm.install()", 'litellm.callbacks = ["langfuse_otel"]']
    assert set(statements) <= set(quoted(README.read_text()))
    return "\n".join(["import litellm, spool.litellm", *statements, ""])


def run_with_litellm(code: str, **more: str) -> None:
    """Run a program that imports LiteLLM first, as all of these do."""
    program = Path("program.py")
    program.write_text(code)
    ended, said = run_forked("litellm", [str(program)], {**os.environ, **more})
    assert ended == 0, said
    assert "Traceback" not in said, said


def python_with(words: str) -> str:
    """Give the README's program that has these words."""
    (found,) = [b.text for b in blocks(README) if b.kind == "python" and words in b.text]
    return found


@needs_litellm
@pytest.mark.once
def test_a_litellm_call_arrives_at_two_projects(environment: None, langfuse: StandIn) -> None:
    imports = """
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from spool import SpoolSpanExporter
    """
    *given, call = block("", "python").splitlines()
    with StandIn({"pk-lf-2": "sk-lf-2"}) as other:
        url, second, _, of_litellm = two_destinations(other)
        run_with_litellm(
            "\n".join([*given, textwrap.dedent(imports), url, second, of_litellm, call, LOGGED])
        )
        drain()
        assert langfuse.names() == other.names() == {"litellm_request": 1, "raw_gen_ai_request": 1}


@needs_litellm
@pytest.mark.once
def test_a_litellm_call_arrives(environment: None, langfuse: StandIn) -> None:
    run_with_litellm(block("", "python") + LOGGED)
    drain()
    assert langfuse.names() == {"litellm_request": 1, "raw_gen_ai_request": 1}


@needs_litellm
@pytest.mark.once
def test_a_litellm_call_arrives_under_the_name_langfuse_otel(
    environment: None, langfuse: StandIn
) -> None:
    (call,) = [c for c in block("", "python").splitlines() if c.startswith("litellm.completion")]
    run_with_litellm(installing() + call + LOGGED)
    drain()
    assert langfuse.names() == {"litellm_request": 1, "raw_gen_ai_request": 1}


ASYNC_CALLS: Final = """
import asyncio

async def main():
    message = {"role": "user", "content": "hello"}
    call = {"model": "gpt-4o-mini", "messages": [message], "mock_response": "hi"}
    await asyncio.gather(*(litellm.acompletion(**call) for _ in range(5)))
"""


@needs_litellm
@pytest.mark.once
def test_an_async_program_that_ends_after_its_calls_leaves_every_span(
    environment: None, langfuse: StandIn
) -> None:
    run_with_litellm(f"{installing()}{ASYNC_CALLS}\n\nasyncio.run(main())\n")
    drain()
    assert langfuse.names() == {"litellm_request": 5, "raw_gen_ai_request": 5}


@needs_litellm
@pytest.mark.once
@pytest.mark.parametrize("is_installed", [True, False], ids=["by install()", "by the handler"])
def test_async_calls_arrive_by_litellms_v2(
    environment: None, langfuse: StandIn, is_installed: bool
) -> None:
    needs_v2()
    said = "LITELLM_OTEL_V2=true"
    assert said in quoted(README.read_text())
    given, _, _ = block("", "python").partition("litellm.completion(")
    code = installing() if is_installed else given
    code = f"{code}{ASYNC_CALLS}\n\nasyncio.run(main())\n"
    run_with_litellm(code, **dict([said.split("=")]))
    drain()
    assert langfuse.names() == {"chat gpt-4o-mini": 5}


@needs_litellm
@pytest.mark.once
def test_the_proxys_ways_are_those_that_are_tried() -> None:
    """The YAML and they are tried with a real proxy in test_litellm_proxy."""
    from test_litellm_proxy import WAYS

    from proxies import SHIM

    text = " ".join(README.read_text().split())
    dotted, shim, hook = WAYS.values()
    assert f"`{SHIM.strip()}`" in text
    assert f"a file `{shim.callback.partition('.')[0]}.py` beside config.yaml" in text
    (assignment,) = [f"{name}={value}" for name, value in hook.environment.items()]
    assert f"`{assignment} litellm --config config.yaml`" in text
    for way in (shim, hook):
        assert f'`callbacks: ["{way.callback}"]`' in text
    for way in (dotted, shim, hook):
        assert ".".join(map(str, way.first)) in text


# OpenTelemetry, and the Langfuse SDK


def test_the_quick_start_ends_with_a_trace(
    environment: None, tmp_path: Path, langfuse: StandIn
) -> None:
    (tmp_path / "hello.py").write_text(block("Quick start", "python"))
    drained, *status = run_shell(block("Quick start", "sh")).splitlines()
    assert drained.startswith("delivered 1 span in")
    assert "delivered 2" in "\n".join(status)
    assert langfuse.names() == {"hello": 2}


@pytest.mark.once
def test_the_quick_start_leaves_the_right_host_behind(
    environment: None, tmp_path: Path, langfuse: StandIn
) -> None:
    (tmp_path / "hello.py").write_text(block("Quick start", "python"))
    run_shell(block("Quick start", "sh"))
    status = run("python", "-m", "spool", "status", "--json").stdout
    assert langfuse.url in status
    assert "127.0.0.1:9/" not in status


@pytest.mark.once
def test_where_no_langfuse_is_at_hand_the_stand_in_plays_one(
    environment: None, tmp_path: Path
) -> None:
    text = README.read_text()
    (command,) = [said for said in quoted(text) if said.startswith("python tests/support/standin")]
    url, *keys, shown = re.findall(r"`([^`]+)`", text.partition(f"`{command}`")[2])[:4]
    public_key, secret_key = [key.replace("…", "test") for key in keys]
    assert command in quoted(TESTS.read_text())
    program = ["bash", "-c", f"cd {ROOT}; exec {command}"]
    pipe, same = subprocess.PIPE, subprocess.STDOUT
    with subprocess.Popen(program, stdout=pipe, stderr=same, text=True) as served:
        assert served.stdout is not None
        first = served.stdout.readline()
        if first != f"{url}\n":
            assert "already in use" in served.stdout.read(), first
            pytest.skip("somebody else listens on this port")
        (tmp_path / "hello.py").write_text(block("Quick start", "python"))
        named = {"LANGFUSE_PUBLIC_KEY": public_key, "LANGFUSE_SECRET_KEY": secret_key}
        run("python", "hello.py", LANGFUSE_HOST=url, **named)
        assert served.stdout.readline() == f"{shown}\n"
        served.terminate()
    assert "delivered 1" in run("python", "-m", "spool", "status").stdout


@needs_openinference
def test_an_instrumentation_is_turned_on_once_the_provider_is_set(
    environment: None, langfuse: StandIn
) -> None:
    call = """
    import openai
    client = openai.OpenAI(base_url="{address}/v1", api_key="none")
    client.chat.completions.create(model="gpt-4o", messages=[{{"role": "user", "content": "hi"}}])
    """
    statements = [said for said in quoted(README.read_text()) if "OpenAIInstrumentor" in said]
    code = "\n".join([block("Quick start", "python"), *statements, ""])
    with model_server() as address:
        run_python(code + textwrap.dedent(call.format(address=address)))
    drain()
    assert langfuse.names() == {"hello": 1, "ChatCompletion": 1}


@pytest.mark.once
def test_what_can_be_given_to_the_exporter_is_what_the_readme_says() -> None:
    (call,) = [
        said for said in quoted(README.read_text()) if said.startswith("SpoolSpanExporter(p")
    ]
    taken = inspect.signature(SpoolSpanExporter).parameters
    assert re.findall(r"(\w+)=", call) == [name for name in taken if name != "settings"]


@pytest.mark.once
def test_extra_headers_are_sent_either_way(environment: None, langfuse: StandIn) -> None:
    said = quoted(README.read_text())
    (variable,) = [one for one in said if one.startswith("OTEL_EXPORTER_OTLP_HEADERS=")]
    (call,) = [one for one in said if one.startswith("SpoolSpanExporter(headers=")]
    program = block("Quick start", "python")
    run_python(program, **dict([variable.split("=", 1)]))
    run_python(program.replace("SpoolSpanExporter()", call))
    drain()
    assert [r.headers.get("x-gateway") for r in langfuse.requests] == ["let me in"] * 2
    assert langfuse.names() == {"hello": 2}


def two_destinations(server: StandIn, keys: str = "pk-lf-2:sk-lf-2") -> list[str]:
    """Give the README's lines, for this server in place of a Langfuse."""
    host = server.url.removeprefix("http://")
    lines = python_with("url = ").replace("https://", "http://").replace("langfuse.example", host)
    return lines.replace("pk-lf-2:sk-lf-2", keys).splitlines()


@pytest.mark.once
def test_two_exporters_are_two_destinations(environment: None, langfuse: StandIn) -> None:
    program = block("Quick start", "python")
    (first,) = [line for line in program.splitlines() if "add_span_processor" in line]
    with StandIn({"pk-lf-2": "sk-lf-2"}) as other:
        url, second, of_opentelemetry, _ = two_destinations(other)
        run_python(program.replace(first, f"{first}\n{url}\n{second}\n{of_opentelemetry}"))
        assert langfuse.names() == other.names() == {"hello": 1}


WITHOUT_CODE: Final = """
from opentelemetry import trace

trace.get_tracer("x").start_span("without code").end()
"""


@needs_distro
def test_without_code_the_command_finds_the_exporter(
    environment: None, tmp_path: Path, langfuse: StandIn
) -> None:
    (tmp_path / "app.py").write_text(WITHOUT_CODE)
    run_shell(block("The roads in", "sh"))
    drain()
    assert langfuse.names() == {"without code": 1}


def test_without_code_opentelemetry_finds_the_exporter(
    environment: None, langfuse: StandIn
) -> None:
    configure = """
    from opentelemetry.sdk._configuration import _OTelSDKConfigurator  # what the command calls
    _OTelSDKConfigurator().configure(auto_instrumentation_version="")
    """
    named = dict(re.findall(r"(OTEL_\w+)=(\w+)", block("The roads in", "sh")))
    run_python(textwrap.dedent(configure) + WITHOUT_CODE, **named)
    drain()
    assert langfuse.names() == {"without code": 1}


@needs_configuration
def test_by_a_configuration_file_a_span_is_durable_at_its_end(
    environment: None, tmp_path: Path, langfuse: StandIn
) -> None:
    (tmp_path / "otel.yaml").write_text(block("The roads in", "yaml", 1))
    (tmp_path / "app.py").write_text(WITHOUT_CODE + "import os\nos.kill(os.getpid(), 9)")
    (command,) = [said for said in quoted(README.read_text()) if said.startswith("OTEL_CONFIG_F")]
    run("bash", "-ec", f"exec env {command}", code=-9, OTEL_SERVICE_NAME="shop")
    drain()
    assert langfuse.names() == {"without code": 1}
    assert "shop" in str(langfuse.resource_spans)


@needs_langfuse
def test_the_langfuse_sdk_takes_an_exporter_for_each_project(
    environment: None, langfuse: StandIn
) -> None:
    code = """
    langfuse.start_observation(name="of the first").end()
    second.start_observation(name="of the second").end()
    for one in (langfuse, second):
        one.shutdown()
    """
    with StandIn({"pk-lf-2": "sk-lf-2"}) as other:
        url, *_ = two_destinations(other)
        made = python_with("import Langfuse").replace("https://langfuse.example", other.url)
        run_python(f"{url}\n{made}{textwrap.dedent(code)}", LANGFUSE_FLUSH_AT="1")
        drain()
        assert langfuse.names() == {"of the first": 1}
        assert other.names() == {"of the second": 1}


# Metrics

READER: Final = """
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
reader = InMemoryMetricReader()
"""
COLLECT: Final = """
trace.get_tracer("x").start_span("later").end()
exporter = provider._active_span_processor._span_processors[0].span_exporter
exporter.force_flush()
before = reader.get_metrics_data()  # who is shut down tells only what it has refused
provider.shutdown()
exporter.export(["too late"])
print({
    metric.name
    for data in (before, reader.get_metrics_data())
    for of_scope in data.resource_metrics[0].scope_metrics
    for metric in of_scope.metrics
})
"""


@pytest.mark.once
@pytest.mark.parametrize("is_first", [True, False], ids=["before", "after the exporter"])
def test_a_meter_provider_gets_the_metrics_that_the_readme_names(
    environment: None, is_first: bool
) -> None:
    blocks = block("Metrics", "python"), block("Quick start", "python")
    said = run_python(READER + "\n".join(blocks if is_first else reversed(blocks)) + COLLECT)
    told = ast.literal_eval(said)
    assert told == {name for row in table(README, "metric") for name in quoted(row[0])}
