"""Our own requests are no part of the traces that they carry."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from opentelemetry import context

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def hidden_from_instrumentation() -> Iterator[None]:
    """Keep this thread's HTTP calls out of the traces that they carry."""
    suppressed = context.set_value("suppress_instrumentation", True)
    suppressed = context.set_value("suppress_http_instrumentation", True, suppressed)
    token = context.attach(suppressed)
    try:
        yield
    finally:
        context.detach(token)
