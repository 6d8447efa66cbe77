"""LiteLLM's spans for two Langfuse projects at once, from one spool."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from litellm_scenarios import TEAM, ask, drain, finish, needs_litellm, run, say, spool_handler
from spool import Settings, SpoolSpanExporter
from standin import Behaviour, StandIn, mute, status, unavailable

pytestmark = needs_litellm


def scenario_two_projects() -> None:
    handler = spool_handler()
    other = Settings.from_env(environ={**os.environ, **json.loads(os.environ["OTHER"])})
    exporter = SpoolSpanExporter(settings=other)
    handler.tracer_provider.add_span_processor(SimpleSpanProcessor(exporter))
    ask("both")
    ask("team", **TEAM)
    finish()
    say(exporter.force_flush(60_000))


@pytest.mark.parametrize(
    "trouble",
    [None, unavailable(), status(401), mute()],
    ids=["well", "answering 503", "refusing", "hanging"],
)
def test_a_second_project_gets_the_same_spans_whatever_the_first_one_answers(
    path: Path, langfuse: StandIn, trouble: Behaviour | None
) -> None:
    langfuse.keys.update({"pk-lf-team": "sk-lf-team"})
    langfuse.behave(trouble)
    with StandIn({"pk-lf-other": "sk-lf-other"}) as other:
        keys = {"LANGFUSE_PUBLIC_KEY": "pk-lf-other", "LANGFUSE_SECRET_KEY": "sk-lf-other"}
        ran = run(
            scenario_two_projects,
            path,
            langfuse.url,
            OTHER=json.dumps({**keys, "LANGFUSE_OTEL_HOST": other.url}),
            SPOOL_DRAIN="on",
            SPOOL_TIMEOUT_SECONDS="2",
        )
        assert ran.said
        there = other.span_ids()
        assert other.names() == {"litellm_request": 1, "raw_gen_ai_request": 1}
    langfuse.behave(None)
    secrets = path.parent / "secrets"
    secrets.write_text(f"pk-lf-team: sk-lf-team {langfuse.url}\n")
    secrets.chmod(0o600)
    drain(path, langfuse.url, SPOOL_CREDENTIALS_FILE=str(secrets))
    assert langfuse.names() == {"litellm_request": 2, "raw_gen_ai_request": 2}
    assert there < langfuse.span_ids()
