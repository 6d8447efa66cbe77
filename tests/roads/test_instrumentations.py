"""Spans of the instrumentations that people use arrive unchanged, of calls by the real clients."""

from __future__ import annotations

from typing import Final

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

import model_calls
from instrumented import is_here
from model_server import model_server
from programs import run_python
from standin import StandIn
from users import spool

INSTRUMENTORS: Final = {
    "openinference": "openinference.instrumentation.openai:OpenAIInstrumentor",
    "openllmetry": "opentelemetry.instrumentation.openai:OpenAIInstrumentor",
    "OpenTelemetry's v2": "opentelemetry.instrumentation.openai_v2:OpenAIInstrumentor",
    "OpenTelemetry's GenAI": "opentelemetry.instrumentation.genai.openai:OpenAIInstrumentor",
    "OpenTelemetry's, of Anthropic": (
        "opentelemetry.instrumentation.genai.anthropic:AnthropicInstrumentor"
    ),
}
# So that they say in attributes what was asked and answered.
CONTENT: Final = {
    "OTEL_SEMCONV_STABILITY_OPT_IN": "gen_ai_latest_experimental",
    "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "SPAN_ONLY",
}


def one_by_one(resource_spans: list[ResourceSpans]) -> dict[str, bytes]:
    """Give what stands of each span in a request, its resource and scope included."""
    found = {}
    for resource in resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                found[span.span_id.hex()] = alone(resource, scope, span)
    return found


def alone(resource: ResourceSpans, scope: ScopeSpans, span: Span) -> bytes:
    of_scope = ScopeSpans(scope=scope.scope, spans=[span], schema_url=scope.schema_url)
    of_resource = ResourceSpans(
        resource=resource.resource, scope_spans=[of_scope], schema_url=resource.schema_url
    )
    request = ExportTraceServiceRequest(resource_spans=[of_resource])
    return request.SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", INSTRUMENTORS)
def test_the_spans_of_an_instrumentation_arrive_unchanged(
    environment: None, langfuse: StandIn, name: str
) -> None:
    module = INSTRUMENTORS[name].partition(":")[0]
    client = "anthropic" if module.endswith("anthropic") else "openai"
    if not (is_here(module) and is_here(client)):
        pytest.skip(f"{module} or the client of {client} is not installed here")
    with model_server() as address:
        called = (model_calls.__file__, INSTRUMENTORS[name], client, address)
        said = run_python(*called, **CONTENT).stdout
    requests = [ExportTraceServiceRequest.FromString(bytes.fromhex(x)) for x in said.split()]
    wanted = one_by_one([resource for one in requests for resource in one.resource_spans])
    spool("drain")
    assert one_by_one(langfuse.resource_spans) == wanted
    assert langfuse.span_ids() == dict.fromkeys(wanted, 1)
    calls = 6 if client == "openai" else 3
    assert len(wanted) > calls  # Anthropic's client makes spans of its own, too
    assert b"hello" in b"".join(wanted.values())
