"""The draining: who sends what the spool holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spool.commands.checks.finding import Finding
from spool.store import drainers
from spool.system.words import count_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spool.store.store import Store


def who_drains(store: Store) -> Iterator[Finding]:
    """Say who drains, and what waits for that. Raises SpoolFileError."""
    pending = store.ledger().pending
    waits = f"{count_of(pending, 'span')} wait{'s' if pending == 1 else ''}"
    yield Finding("spool", f"it can be read; {waits if pending else 'nothing waits'}")
    seen = drainers.seen(store)
    working = [one for one in seen if not one.is_stopped]
    if working:
        said = ", ".join(f"pid {one.pid}" for one in working)
        yield Finding("drainer", f"{said} drain{'s' if len(working) == 1 else ''}")
    elif seen:
        remedy = f"`kill -CONT {seen[0].pid}`, or end it and start it anew"
        yield Finding.wrong("drainer", f"pid {seen[0].pid} drains, but does not move", remedy)
    elif pending:
        remedy = "start the application, or `python -m spool run`; or send it by `drain`"
        yield Finding.wrong("drainer", f"nobody drains, and {waits}", remedy)
    else:
        yield Finding("drainer", "nobody drains now, and nothing waits", is_well=None)
