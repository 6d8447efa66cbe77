"""A program that calls models under an instrumentation, beside the spool kept in memory.

`python model_calls.py INSTRUMENTOR CLIENT ADDRESS`: it prints each span as OpenTelemetry's own
exporter encodes it, in hexadecimal.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import sys
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from model_server import BROKEN
from spool import SpoolSpanExporter

HELLO: Final[list[Any]] = [{"role": "user", "content": "hello 🙂"}]
WEATHER: Final[dict[str, Any]] = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def call_openai(openai: Any, address: str) -> None:
    named = {"base_url": f"{address}/v1", "api_key": "none", "max_retries": 0}
    client = openai.OpenAI(**named)
    chat = client.chat.completions
    chat.create(model="gpt-4o", messages=HELLO, temperature=0.5, max_tokens=9)
    chat.create(model="gpt-4o", messages=HELLO, tools=[WEATHER])
    usage = {"include_usage": True}
    list(chat.create(model="gpt-4o", messages=HELLO, stream=True, stream_options=usage))
    client.embeddings.create(model="text-embedding-3-small", input="hello")
    with contextlib.suppress(openai.BadRequestError):
        chat.create(model=BROKEN, messages=HELLO)

    async def call() -> None:
        async with openai.AsyncOpenAI(**named) as client:
            await client.chat.completions.create(model="gpt-4o", messages=HELLO)

    asyncio.run(call())


def call_anthropic(anthropic: Any, address: str) -> None:
    client = anthropic.Anthropic(base_url=address, api_key="none", max_retries=0)
    asked = {"model": "claude-sonnet-4-5", "messages": HELLO, "max_tokens": 9}
    client.messages.create(**asked)
    list(client.messages.create(**asked, stream=True))
    with contextlib.suppress(anthropic.BadRequestError):
        client.messages.create(**{**asked, "model": BROKEN})


def main() -> None:
    instrumentor, client, address = sys.argv[1:]
    memory, provider = InMemorySpanExporter(), TracerProvider()
    for exporter in (SpoolSpanExporter(), memory):
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    module, _, name = instrumentor.partition(":")
    getattr(importlib.import_module(module), name)().instrument()
    calls = {"openai": call_openai, "anthropic": call_anthropic}
    with trace.get_tracer("app").start_as_current_span("request"):
        calls[client](importlib.import_module(client), address)
    for span in memory.get_finished_spans():
        print(encode_spans([span]).SerializeToString(deterministic=True).hex())


if __name__ == "__main__":
    main()
