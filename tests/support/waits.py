"""Waits for a condition: bounded, and so patiently that a busy machine fails no test."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 120.0  # seconds


def wait_until(holds: Callable[[], bool], every: float = 0.01, within: float = PATIENCE) -> None:
    """Wait until something holds; look every so many seconds, for so many."""
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(every)
