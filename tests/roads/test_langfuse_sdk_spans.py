"""The Langfuse SDK's spans through the spool are those that its own exporter sends.

Attribute by attribute, with resource and scope; but for ids and times, which no two runs share.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import pytest

from langfuse_scenarios import needs_langfuse, run
from standin import Exchange, Reply, StandIn, healthy, json_format
from users import spool

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

pytestmark = needs_langfuse

SCENARIOS: Final = (
    "nested", "generations", "traces", "observed", "observed_async", "prompts", "masked",
    "sampled", "filtered",
)  # fmt: skip
GREETING: Final = {
    "type": "text", "name": "greeting", "version": 3, "prompt": "Hello {{x}}", "config": {},
    "labels": ["production"], "tags": [],
}  # fmt: skip


def with_prompts(exchange: Exchange) -> None:
    """Serve one prompt beside the traces, as Langfuse's API does."""
    request = exchange.read()
    if request.path.startswith("/api/public/v2/prompts/greeting"):
        exchange.answer(Reply.json(200, GREETING))
    elif request.method == "GET":
        exchange.answer(Reply.json(404, {"message": "not found", "error": "NotFoundError"}))
    else:
        healthy(exchange)


def comparable(resources: Iterable[ResourceSpans]) -> Counter[str]:
    """Give each span with resource and scope, its parent by name, and without ids and times."""
    found = []
    for resource in resources:
        for scope in resource.scope_spans:
            around = [json_format.MessageToDict(one) for one in (resource.resource, scope.scope)]
            around += [resource.schema_url, scope.schema_url]
            found += [(span, around) for span in scope.spans]
    names = {span.span_id: span.name for span, _ in found}
    return Counter(
        json.dumps([*around, without_ids_and_times(span, names)], sort_keys=True)
        for span, around in found
    )


def without_ids_and_times(span: Span, names: dict[bytes, str]) -> dict[str, Any]:
    told: dict[str, Any] = json_format.MessageToDict(span)
    assert {told.pop(name) != "" for name in ("traceId", "spanId")} == {True}
    for of_times in (told, *told.get("events", [])):
        for name in ("startTimeUnixNano", "endTimeUnixNano", "timeUnixNano"):
            of_times.pop(name, None)
    if "parentSpanId" in told:
        told["parentSpanId"] = names.get(span.parent_span_id, "elsewhere")
    return told


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_they_are_the_same(environment: None, langfuse: StandIn, scenario: str) -> None:
    langfuse.behave(with_prompts)
    variables = {
        "LANGFUSE_TRACING_ENVIRONMENT": "tests",
        "LANGFUSE_RELEASE": "r-0",
        "OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=else-a-random-one",
    }
    run(scenario, "stock", **variables)
    stock = langfuse.resource_spans
    assert stock
    run(scenario, "spool", **variables)
    spool("drain")
    ours = langfuse.resource_spans[len(stock) :]
    assert comparable(ours) == comparable(stock)


def test_prompts_are_linked(environment: None, langfuse: StandIn) -> None:
    langfuse.behave(with_prompts)
    run("prompts")
    spool("drain")
    linked = {}
    for span in langfuse.spans:
        said = {one.key: one.value for one in span.attributes}
        if (prompt := said.get("langfuse.observation.prompt.name")) is not None:
            version = said["langfuse.observation.prompt.version"].int_value
            linked[span.name] = (prompt.string_value, version)
    greeting = ("greeting", 3)
    assert linked == {"made": ("made", 7), "greeting": greeting, "later": greeting}
