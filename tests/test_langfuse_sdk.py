"""The real Langfuse SDK with the spool at its own plug point, in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import standin
from langfuse_scenarios import needs_langfuse
from programs import line_of, talking
from standin import StandIn

pytestmark = needs_langfuse

SCRIPT = """
import sys
from langfuse import Langfuse
from spool import SpoolSpanExporter

exporter = SpoolSpanExporter()
client = Langfuse(span_exporter=exporter)
with client.start_as_current_observation(name="outer"):
    with client.start_as_current_observation(name="inner", as_type="generation"):
        pass
client.flush()
print("flushed", flush=True)
sys.stdin.read()
exporter.shutdown()
"""


def test_observations_of_the_langfuse_sdk_survive_an_outage(
    environment: None, path: Path, langfuse: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LANGFUSE_HOST")
    monkeypatch.setenv("LANGFUSE_BASE_URL", langfuse.url)
    langfuse.behave(standin.server_error())
    with talking(sys.executable, "-c", SCRIPT) as process:
        assert line_of(process) == "flushed"
        langfuse.wait_for(lambda server: len(server.requests) > 0)
        assert langfuse.accepted == 0
        langfuse.behave(None)
        langfuse.wait_for(lambda server: server.accepted == 2)
    assert process.returncode == 0
    assert set(langfuse.names()) == {"outer", "inner"}
