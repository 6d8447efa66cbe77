"""Programs that use the real Langfuse SDK, each in a process of its own: this file as a script.

`python langfuse_scenarios.py NAME EXPORTER` runs one, with the SDK's own exporter (`stock`) or
with the spool's (`spool`).
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import pytest

from forked import run_forked

needs_langfuse: Final = pytest.mark.skipif(
    importlib.util.find_spec("langfuse") is None, reason="the Langfuse SDK is not installed here"
)


def run(scenario: str, exporter: str = "spool", **more: str) -> str:
    """Run a program to its end, which is a good one, and give what it printed."""
    code, said = run_forked("langfuse", [__file__, scenario, exporter], {**os.environ, **more})
    assert code == 0, said
    assert "Traceback" not in said, said
    return said


def client(**more: Any) -> Any:
    """Make the client, with the exporter that the program was told to take."""
    from langfuse import Langfuse

    from spool import SpoolSpanExporter

    if sys.argv[2] == "spool":
        more["span_exporter"] = SpoolSpanExporter()
    return Langfuse(**more)


def nested() -> None:
    """Nest every type of observation, with all that each may say; end in order and out of it."""
    langfuse = client(environment="of-the-tests", release="r-1.2")
    with langfuse.start_as_current_observation(
        name="outer", input={"q": "\u00e9", "n": [1, 2.5, None, True]}, metadata={"a": {"b": 1}}
    ) as outer:
        for kind in ("agent", "tool", "chain", "retriever", "evaluator", "guardrail"):
            outer.start_observation(name=kind, as_type=kind, output=kind).end()
        embedding = outer.start_observation(
            name="embedding", as_type="embedding", model="m", usage_details={"input": 3}
        )
        with langfuse.start_as_current_observation(name="inner", level="WARNING") as inner:
            embedding.end()
            inner.update(output="x" * 10_000, status_message="slow", version="3")
        langfuse.create_event(name="event", level="DEBUG", metadata={"k": "v"})
    langfuse.shutdown()


def generations() -> None:
    """Say a generation's model, parameters, usage, cost and first token."""
    import datetime as dt

    langfuse = client()
    with langfuse.start_as_current_observation(
        name="generation",
        as_type="generation",
        model="gpt-4o",
        model_parameters={"temperature": 0.5, "stop": ["a", "b"]},
        input=[{"role": "user", "content": "hello"}],
    ) as generation:
        generation.update(
            output={"role": "assistant", "content": "hi"},
            usage_details={"input": 10, "output": 5, "cache_read_input_tokens": 2},
            cost_details={"input": 0.001, "output": 0.0025, "total": 0.0035},
            completion_start_time=dt.datetime(2026, 1, 2, tzinfo=dt.timezone.utc),
        )
        langfuse.update_current_generation(metadata={"later": "yes"})
    langfuse.shutdown()


def traces() -> None:
    """Say what belongs to the whole trace, also from an id of the caller's own."""
    from langfuse import propagate_attributes

    langfuse = client()
    trace_id = langfuse.create_trace_id(seed="a seed")
    with (
        propagate_attributes(
            user_id="u-1",
            session_id="s-1",
            tags=["one", "two"],
            metadata={"tier": "gold"},
            trace_name="the trace",
            version="v7",
        ),
        langfuse.start_as_current_observation(name="root", trace_context={"trace_id": trace_id}),
    ):
        langfuse.start_observation(name="child").end()
        langfuse.set_current_trace_as_public()
    remote = {"trace_id": trace_id, "parent_span_id": "00f067aa0ba902b7"}
    langfuse.start_observation(name="of a remote parent", trace_context=remote).end()
    langfuse.shutdown()


def observed() -> None:
    """Decorate functions; some yield, and some raise."""
    from langfuse import get_client, observe

    langfuse = client()

    @observe()
    def plain(x: int) -> dict[str, int]:
        get_client().update_current_span(metadata={"from": "inside"})
        return {"twice": 2 * x}

    @observe(name="renamed", as_type="generation", capture_input=False)
    def renamed(secret: str) -> str:
        get_client().update_current_generation(model="m", usage_details={"total": 1})
        return secret.upper()

    @observe()
    def generator() -> Iterator[str]:
        yield "a"
        yield renamed("b")

    @observe()
    def failing() -> None:
        plain(1)
        raise ValueError("it failed")

    assert list(generator()) == ["a", "B"]
    with contextlib.suppress(ValueError):
        failing()
    langfuse.shutdown()


def observed_async() -> None:
    """Decorate coroutines, which run beside each other; some yield, and some raise."""
    from langfuse import observe

    langfuse = client()

    @observe(capture_output=False)
    async def asynchronous(x: int) -> int:
        await asyncio.sleep(0)
        return 2 * x

    @observe()
    async def generator() -> AsyncIterator[int]:
        for number in range(3):
            yield await asynchronous(number)

    @observe()
    async def failing() -> None:
        raise RuntimeError("it failed")

    @observe()
    async def everything() -> None:
        await asyncio.gather(*(asynchronous(x) for x in range(3)))
        assert [x async for x in generator()] == [0, 2, 4]
        await failing()

    with contextlib.suppress(RuntimeError):
        asyncio.run(everything())
    langfuse.shutdown()


def prompts() -> None:
    """Link prompts: fetched from the API, made here, and a fallback, which is linked to nothing."""
    from langfuse.api import Prompt_Text
    from langfuse.model import TextPromptClient

    langfuse = client()
    made = TextPromptClient(
        Prompt_Text(name="made", version=7, prompt="Hi {{x}}", config={}, labels=[], tags=[])
    )
    fetched = langfuse.get_prompt("greeting")
    fallback = langfuse.get_prompt("missing", fallback="Hello", max_retries=0)
    for prompt in (made, fetched, fallback):
        with langfuse.start_as_current_observation(
            name=prompt.name, as_type="generation", prompt=prompt, input=prompt.compile(x="y")
        ):
            pass
    with langfuse.start_as_current_observation(name="later", as_type="generation"):
        langfuse.update_current_generation(prompt=fetched)
    langfuse.shutdown()


def masked() -> None:
    """Mask what the SDK's calls say."""

    def mask(*, data: Any, **_: Any) -> Any:
        return data.replace("s3cret", "***") if isinstance(data, str) else data

    langfuse = client(mask=mask)
    with langfuse.start_as_current_observation(name="masked", input="a s3cret") as span:
        span.update(output="s3cret, too", metadata={"m": "s3cret"})
    langfuse.shutdown()


def sampled() -> None:
    """Sample by trace ids that are known."""
    langfuse = client(sample_rate=0.5)
    for number in range(40):
        trace_id = langfuse.create_trace_id(seed=str(number))
        langfuse.start_observation(name=f"{number}", trace_context={"trace_id": trace_id}).end()
    langfuse.shutdown()


def filtered() -> None:
    """Leave out what a filter says, and spans of others that are none of an LLM's."""
    from opentelemetry import trace

    langfuse = client(should_export_span=lambda span: not span.name.startswith("no "))
    tracer = trace.get_tracer("another.library", "1", attributes={"of": "the scope"})
    for name in ("yes", "no never"):
        langfuse.start_observation(name=name).end()
        with tracer.start_as_current_span(name, attributes={"gen_ai.system": "x"}) as span:
            span.add_event("event", {"k": 1})
            span.add_link(trace.SpanContext(1, 2, is_remote=True), {"l": "m"})
    langfuse.shutdown()


def media() -> None:
    """Say an image; it goes its own way, and a reference to it stays."""
    import base64

    image = "data:image/png;base64," + base64.b64encode(b"\x89PNG and so on").decode()
    langfuse = client()
    langfuse.start_observation(name="seen", input={"image": image}).end()
    langfuse.flush()
    print("flushed", flush=True)
    langfuse.shutdown()


def scored() -> None:
    """Score a trace; that goes its own way."""
    langfuse = client()
    with langfuse.start_as_current_observation(name="scored") as span:
        span.score(name="quality", value=0.5)
    langfuse.flush()
    print("flushed", flush=True)
    langfuse.shutdown()


def ended() -> None:
    """End spans, and wait to be killed."""
    langfuse = client()
    for number in range(5):
        langfuse.start_observation(name=f"{number}").end()
    print("ended", flush=True)
    sys.stdin.read()


def flushed() -> None:
    """End spans, flush, and wait to be killed."""
    langfuse = client()
    for number in range(5):
        langfuse.start_observation(name=f"{number}").end()
    langfuse.flush()
    print("flushed", flush=True)
    sys.stdin.read()


def short() -> None:
    """End as a script does that neither flushes nor shuts anything down."""
    client().start_observation(name="short").end()


def forked() -> None:
    """Fork with the client made, as servers that load the application first do."""
    langfuse = client()
    langfuse.start_observation(name="before").end()
    pid = os.fork()
    langfuse.start_observation(name="after in the " + ("parent" if pid else "child")).end()
    langfuse.flush()
    if not pid:
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def two_projects() -> None:
    """Trace for two projects, whose keys are not in the environment."""
    from langfuse import Langfuse

    from spool import SpoolSpanExporter

    host = os.environ["HOST"]
    clients = {}
    for owner in ("test", "team"):
        keys: dict[str, Any] = {"public_key": f"pk-lf-{owner}", "secret_key": f"sk-lf-{owner}"}
        user = "{public_key}:{secret_key}".format(**keys)
        endpoint = f"http://{user}@{host}/api/public/otel/v1/traces"
        exporter = SpoolSpanExporter(endpoint=endpoint)
        clients[owner] = Langfuse(**keys, base_url=f"http://{host}", span_exporter=exporter)
    for owner, langfuse in clients.items():
        langfuse.start_observation(name=f"of {owner}").end()
    for langfuse in clients.values():
        langfuse.shutdown()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
