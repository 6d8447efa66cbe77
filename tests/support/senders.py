"""What tests send, and within which time."""

from __future__ import annotations

import time
from typing import Any, Protocol

from spans import batch
from spool.delivery.http.classification import Outcome, Verdict
from spool.delivery.http.sender import Sender
from spool.otlp.batch import join
from spool.settings.target import Target

BODY = join([batch("call")], compress=True)
DEADLINE = 0.5
# What a busy machine may take beyond the deadline; what hangs here hangs for longer.
GRACE = 15.0


class MakeSender(Protocol):
    """Makes a sender to a target, or to Langfuse at a URL; it is closed after the test."""

    def __call__(self, where: Target | str, **settings: Any) -> Sender: ...


def send_in_time(sender: Sender, body: bytes = BODY) -> Outcome:
    """Send with a short deadline, and see that it is kept."""
    started = time.monotonic()
    outcome = sender.send(body, DEADLINE)
    assert time.monotonic() - started < DEADLINE + GRACE
    return outcome


def assert_timed_out(outcome: Outcome) -> None:
    assert outcome.verdict is Verdict.WAIT
    assert outcome.is_timeout
    assert outcome.reason.startswith("no complete answer within 0.5 s")
