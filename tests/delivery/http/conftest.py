from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spool.delivery.http.sender import Sender
from spool.settings.settings import Settings
from spool.settings.target import Target
from standin import StandIn


@pytest.fixture
def sender_to() -> Iterator[Callable[..., Sender]]:
    """Make senders to a target, with other settings than the usual."""
    made = []

    def make(target: Target, **settings: Any) -> Sender:
        usual = Settings(path=Path("/nowhere/spool.db"), target=target, **settings)
        made.append(Sender(target, usual))
        return made[-1]

    yield make
    for sender in made:
        sender.close()


@pytest.fixture
def sender(sender_to: Callable[..., Sender], target: Target) -> Sender:
    return sender_to(target)


@pytest.fixture
def plain(sender_to: Callable[..., Sender], langfuse: StandIn) -> Sender:
    """Send to a receiver of which nobody knows that it is Langfuse."""
    return sender_to(Target.otlp(langfuse.url + "/v1/traces", {"api-key": "k"}))
