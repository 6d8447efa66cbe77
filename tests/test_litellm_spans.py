"""The spans of the LiteLLM callback: those of the stock one, and none is lost."""

from __future__ import annotations

import asyncio
import atexit
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import pytest
from google.protobuf.json_format import MessageToDict

from litellm_scenarios import (
    ask,
    ask_async,
    drain,
    finish,
    finish_async,
    litellm_version,
    needs_litellm,
    run,
    say,
    spool_handler,
    stock_callback,
)
from ports import HOST, free_port
from standin import Behaviour, StandIn, mute, unavailable

pytestmark = needs_litellm

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
    "trace_version": "3",
    "session_id": "a-session",
    "tags": ["one", "two"],
    "version": "2",
    "mask_input": True,
    "mask_output": True,
    "update_trace_keys": ["name"],
    "debug_langfuse": True,
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

# LiteLLM's functions besides `completion`; each has an async one, with an `a` before its name.
OTHERS: Final[dict[str, dict[str, Any]]] = {
    "text_completion": {"model": "gpt-3.5-turbo-instruct", "prompt": "hi", "mock_response": "re"},
    "embedding": {"model": "text-embedding-3-small", "input": ["hi"], "mock_response": [0.5]},
    "responses": {"model": "gpt-4o", "input": "hi", "mock_response": "re"},
}

IGNORED: Final = {
    "service.instance.id": "OpenTelemetry draws it for each process",
    "llm.response.id": "LiteLLM draws it for each mock answer",
    "litellm.trace_id": "LiteLLM draws it for each call that names no session",
    "langfuse.observation.completion_start_time": "a time",
    "langfuse.observation.output": "in a tool call it holds the drawn llm.response.id: only that",
    "langfuse.trace.output": "as that",
    "gen_ai.response.id": "as llm.response.id, in v2",
    "gen_ai.response.time_to_first_chunk": "a time, in v2",
    "langfuse.observation.id": "LiteLLM draws it for each call, in v2",
    "litellm.call_id": "as that",
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
    import litellm

    for kind, more in KINDS.items():
        ask(kind, **json.loads(json.dumps(more)))
    for name, arguments in others().items():
        getattr(litellm, name)(**arguments, metadata={"generation_name": name})
    assert list(ask("streaming", stream=True))
    with pytest.raises(Exception, match="boom"):
        ask("failure", mock_response=Exception("boom"))
    asyncio.run(make_all_kinds_of_async_calls())
    finish()


def others() -> dict[str, dict[str, Any]]:
    """Leave out what 1.82 logs once or twice, as its threads happen to run."""
    left_out = {"text_completion"} if litellm_version() < (1, 94) else set()
    return {name: OTHERS[name] for name in OTHERS.keys() - left_out}


async def make_all_kinds_of_async_calls() -> None:
    import litellm

    for kind, more in KINDS.items():
        await ask_async(f"async {kind}", **json.loads(json.dumps(more)))
    for name, arguments in others().items():
        await getattr(litellm, f"a{name}")(**arguments, metadata={"generation_name": f"a{name}"})
    assert [chunk async for chunk in await ask_async("async streaming", stream=True)]
    with pytest.raises(Exception, match="boom"):
        await ask_async("async failure", mock_response=Exception("boom"))
    await finish_async()


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
        run(scenario_stock, path, langfuse.url, LANGFUSE_TRACING_ENVIRONMENT="testing")
        stock = described(langfuse)
    with StandIn() as langfuse:
        run(scenario_spooled, path, langfuse.url, LANGFUSE_TRACING_ENVIRONMENT="testing")
        assert langfuse.accepted == 0
        drain(path, langfuse.url)
        spooled = described(langfuse)
    failures = [span for span in stock if "STATUS_CODE_ERROR" in span and '"exception"' in span]
    assert len(stock) >= 18 + 4 * len(others())
    assert len(failures) == 2
    assert spooled == stock


def scenario_reused_metadata() -> None:
    spool_handler()
    metadata = {"session_id": "one"}
    for number in range(3):
        ask(f"question {number}", metadata=metadata)
    say(None)


def test_calls_that_share_a_metadata_dict_are_all_there(path: Path, langfuse: StandIn) -> None:
    run(scenario_reused_metadata, path, langfuse.url)
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
    all_first, any_again, size = run(
        scenario_reused_metadata_for_ever, path, "http://127.0.0.1:9"
    ).said
    assert all_first
    assert not any_again
    assert size <= 2000


def scenario_twenty() -> None:
    spool_handler()
    for number in range(20):
        ask(f"question {number}")
    finish()
    say(None)


def test_all_spans_of_a_refusing_endpoint_arrive_later(path: Path, langfuse: StandIn) -> None:
    run(scenario_twenty, path, f"http://{HOST}:{free_port()}", SPOOL_DRAIN="on")
    assert drain(path, langfuse.url) == 40
    assert len(langfuse.span_ids()) == langfuse.accepted == 40


@pytest.mark.parametrize("trouble", [unavailable(), mute()], ids=["answering 503", "hanging"])
def test_all_spans_of_an_endpoint_in_trouble_arrive_later(
    path: Path, langfuse: StandIn, trouble: Behaviour
) -> None:
    langfuse.behave(trouble)
    run(scenario_twenty, path, langfuse.url, SPOOL_DRAIN="on")
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


@pytest.mark.parametrize("scenario", [scenario_last_call, scenario_last_async_call])
def test_the_last_call_before_the_program_ends_is_not_lost(
    path: Path, langfuse: StandIn, scenario: Callable[[], None]
) -> None:
    run(scenario, path, langfuse.url, is_fresh=True)
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
    for scenario in (scenario_short, scenario_patient):
        with StandIn() as langfuse:
            ran = run(scenario, path, langfuse.url, is_fresh=True)
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
    assert run(scenario_end, path, langfuse.url, is_fresh=True).said == "FAILURE"
