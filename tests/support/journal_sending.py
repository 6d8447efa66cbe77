"""A span that is being sent from the journal."""

from __future__ import annotations

import time

import standin
from spans import span
from spool import SpoolSpanExporter
from standin import StandIn
from waits import wait_until


def send_from_journal(
    exporter: SpoolSpanExporter, langfuse: StandIn, behaviour: standin.Behaviour
) -> None:
    """End span "a" while its route is well, and wait until the drainer is sending it."""
    exporter.export([span("first")])
    assert exporter.force_flush(10_000)
    wait_until(lambda: exporter._pipeline.store.journal.served_until > time.monotonic())
    langfuse.behave(behaviour)
    exporter.export([span("a")])
    langfuse.wait_for(lambda server: len(server.requests) == 2)
