"""The workload: spans like those of LiteLLM's `langfuse_otel` callback, the same in every run.

21 attributes, about 3.3 kB as OTLP. The words follow each other as in the paragraphs below (a
chain of pairs), so that the text compresses about as English does. System prompts repeat, every
fourth answer is a tool call, and the messages stand twice in a span, as LiteLLM writes them.
"""

from __future__ import annotations

import json
import random
import string
import time
from typing import TYPE_CHECKING, Final

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from spool.otlp.batch import encode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.trace import Tracer

# A pool is cycled through: it is longer by far than what gzip looks back at.
POOL: Final = 400

_SECONDS_BETWEEN_BURSTS: Final = 0.01
# Names, numbers and ids among the words: with them the text compresses to 0.38, as prose does.
_RARE: Final = 0.15

_PARAGRAPHS: Final = """
The customer wrote on Monday that the invoice for March lists two licences although only one was
ordered, and asks whether the second one can be cancelled before the next payment is due. Please
look up the contract, compare it with the order, and answer in a friendly and short letter. If the
contract says that a notice of thirty days is needed, explain this plainly and offer the next date.

Water boils at a lower temperature on a mountain because the pressure of the air above it is lower.
A cook who lives in a high valley therefore waits longer for potatoes and beans, although the pot
seems to boil as wildly as anywhere else. A closed pot with a valve keeps the steam in, raises the
pressure again, and saves about half of the time and a third of the fuel.

The function reads a file line by line and counts how often each word stands in it. It is slow since
it opens the file again for every word. Read it once, keep the counts in a dictionary, and sort the
keys at the end by count. For very large files a generator avoids holding everything in memory, and
a small test with three lines shows that upper and lower case are treated as the same word.

In the summer of that year the railway reached the coast, and the fishing village became a town
within ten years. Hotels were built along the beach, a market opened behind the church, and the
families who had mended nets for generations let rooms to visitors from the capital. Only in winter,
when storms closed the line for days, did the harbour look as the old painters had shown it.

A patient who takes this medicine should not drive for six hours, should drink enough water, and
should call a doctor if a rash appears or the heart beats irregularly. Studies with two thousand
volunteers found that the effect begins after forty minutes and that food delays it by twenty. The
dose for children depends on weight and is described in the table on the next page.

Our team meets every second Thursday to review what went wrong, without looking for somebody to
blame. Each incident gets a page with the time at which it began, what users saw, what we believed
then, and what we know now. Most causes turn out to be boring: a certificate that expired, a disk
that filled up, a change that nobody tested because it was only a comment.

To plant a hedge, dig a trench two spades wide, loosen the ground below, and mix in compost from the
heap. Put the roots into water overnight. Set the plants a foot apart, press the soil firmly with
your boots, and cut back everything by a third, which looks cruel but makes the branches grow dense.
"""

_SYSTEM_LENGTHS: Final = (380, 440, 500)
_MODELS: Final = ("gpt-4o-mini", "claude-sonnet-4-5", "mistral-large-latest")
_TOOLS: Final = ("search_orders", "get_weather", "create_ticket", "run_query")


def attributes(count: int = POOL, seed: int = 7) -> list[dict[str, str | int | float]]:
    """Make the attributes of `count` spans."""
    rng = random.Random(seed)
    words = _words()
    systems = [_text(rng, words, length) for length in _SYSTEM_LENGTHS]
    return [_span(rng, words, number, rng.choice(systems)) for number in range(count)]


def produce(
    tracer: Tracer, pool: Sequence[dict[str, str | int | float]], count: int, rate: float
) -> None:
    """End `count` spans, `rate` a second, in small bursts; 0 is as fast as it goes."""
    burst = max(1, int(rate * _SECONDS_BETWEEN_BURSTS))
    started = time.monotonic()
    for number in range(count):
        span = tracer.start_span("litellm_request")
        for key, value in pool[number % len(pool)].items():
            span.set_attribute(key, value)
        span.end()
        if rate and number % burst == burst - 1:
            time.sleep(max(0.0, started + (number + 1) / rate - time.monotonic()))


def payloads(count: int = POOL) -> list[bytes]:
    """Encode `count` spans, each as an OTLP request of its own."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    produce(provider.get_tracer("litellm"), attributes(count), count, rate=0)
    return [encode([span]).payload for span in exporter.get_finished_spans()]


def _span(
    rng: random.Random, words: dict[str, list[str]], number: int, system: str
) -> dict[str, str | int | float]:
    model = rng.choice(_MODELS)
    question = _text(rng, words, rng.randint(180, 480))
    answer = _text(rng, words, rng.randint(180, 420))
    output: object = {"role": "assistant", "content": answer}
    if number % 4 == 0:
        call = {
            "id": f"call_{rng.getrandbits(96):024x}",
            "name": rng.choice(_TOOLS),
            "type": "function_call",
            "arguments": {"query": answer[:180], "limit": rng.randint(1, 50), "exact": False},
        }
        output, answer = [call], json.dumps([call])
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    prompt_tokens, completion_tokens = (len(system) + len(question)) // 4, len(answer) // 4
    metadata = {
        "requester_ip_address": f"10.0.{rng.randint(0, 255)}.{rng.randint(0, 255)}",
        "user_api_key_alias": f"team-{rng.randint(1, 40)}",
        "prompt_version": rng.randint(1, 9),
    }
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.system": "openai",
        "gen_ai.request.model": model,
        "gen_ai.request.temperature": 0.2,
        "gen_ai.request.max_tokens": 1024,
        "gen_ai.response.id": f"chatcmpl-{rng.getrandbits(128):032x}",
        "gen_ai.response.model": f"{model}-2026-10-01",
        "gen_ai.prompt.0.role": "system",
        "gen_ai.prompt.0.content": system,
        "gen_ai.prompt.1.role": "user",
        "gen_ai.prompt.1.content": question,
        "gen_ai.completion.0.role": "assistant",
        "gen_ai.completion.0.content": answer,
        "llm.usage.prompt_tokens": prompt_tokens,
        "llm.usage.completion_tokens": completion_tokens,
        "llm.usage.total_tokens": prompt_tokens + completion_tokens,
        "langfuse.observation.type": "generation",
        "langfuse.observation.input": json.dumps(messages),
        "langfuse.observation.output": json.dumps(output),
        "langfuse.trace.metadata": json.dumps(metadata),
        "langfuse.session.id": f"session-{rng.getrandbits(64):016x}",
    }


def _words() -> dict[str, list[str]]:
    """Give the words that may follow one that ends in a letter."""
    words = _PARAGRAPHS.split()
    followers: dict[str, list[str]] = {}
    for word, following in zip(words, [*words[1:], words[0]], strict=True):
        followers.setdefault(word[-1], []).append(following)
    return followers


def _text(rng: random.Random, words: dict[str, list[str]], length: int) -> str:
    said = [rng.choice(words["."])]
    letters = len(said[0])
    while letters < length:
        said.append(_word(rng, words, said[-1]))
        letters += 1 + len(said[-1])
    return " ".join(said)


def _word(rng: random.Random, words: dict[str, list[str]], last: str) -> str:
    """Choose what follows; a name or a number now and then, since no text is all vocabulary."""
    if rng.random() < _RARE:
        return f"{rng.choice(string.ascii_uppercase)}{rng.getrandbits(16):04x}"
    return rng.choice(words[last[-1]] if last[-1] in words else words["."])
