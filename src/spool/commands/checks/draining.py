"""The draining: who sends what the spool holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spool.commands.checks.finding import Finding
from spool.store import drainer_presence
from spool.system.words import count_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spool.store.store import Store


def who_drains(store: Store) -> Iterator[Finding]:
    """Say who drains, and what waits for that. Raises SpoolFileError."""
    pending = store.ledger().pending
    waits = f"{count_of(pending, 'span')} wait{'s' if pending == 1 else ''}"
    yield Finding("spool", f"it can be read; {waits if pending else 'nothing waits'}")
    is_running, pid = drainer_presence.drainer(store)
    if is_running:
        yield Finding("drainer", f"pid {pid} drains")
    elif pending:
        remedy = "start the application, or `python -m spool run`; or send it by `drain`"
        yield Finding.wrong("drainer", f"nobody drains, and {waits}", remedy)
    else:
        yield Finding("drainer", "nobody drains now, and nothing waits", is_well=None)
