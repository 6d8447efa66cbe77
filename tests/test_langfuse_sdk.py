"""The real Langfuse SDK with the spool at its own plug point."""

from __future__ import annotations

import pytest

import standin
from spool import Settings, SpoolSpanExporter
from standin import StandIn

langfuse_sdk = pytest.importorskip("langfuse", reason="the Langfuse SDK needs Python 3.11")


def test_observations_of_the_langfuse_sdk_survive_an_outage(
    settings: Settings, langfuse: StandIn
) -> None:
    langfuse.behave(standin.server_error())
    exporter = SpoolSpanExporter(settings=settings)
    client = langfuse_sdk.Langfuse(
        public_key="pk-lf-test",
        secret_key="sk-lf-test",
        base_url=langfuse.url,
        span_exporter=exporter,
    )
    with (
        client.start_as_current_observation(name="outer"),
        client.start_as_current_observation(name="inner", as_type="generation"),
    ):
        pass
    client.flush()
    langfuse.wait_for(lambda server: len(server.requests) > 0)
    assert langfuse.accepted == 0
    langfuse.behave(None)
    langfuse.wait_for(lambda server: server.accepted == 2, timeout=30)
    assert set(langfuse.names()) == {"outer", "inner"}
    client.shutdown()
    exporter.shutdown()
