"""The draining: who sends what the spool holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from spool.commands.checks.finding import Finding
from spool.report import sentences
from spool.system.words import count_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from spool.store.drainers import SeenDrainer

_MOST_ROUTES: Final = 3


def who_drains(pending: int, seen: Sequence[SeenDrainer]) -> Iterator[Finding]:
    """Say who drains, and what waits for that; `seen` are the drainers."""
    waits = f"{count_of(pending, 'span')} wait{'s' if pending == 1 else ''}"
    yield Finding("spool", f"it can be read; {waits if pending else 'nothing waits'}")
    for one in seen:
        if one.is_stopped:
            words = f"{_named(one)} drains, but does not move"
            yield Finding.wrong("drainer", words, sentences.resume(one))
        else:
            yield Finding("drainer", f"{_named(one)} drains, {_routes(one)}")
    if not seen and pending:
        remedy = "start the application, or `python -m spool run`; or send it by `drain`"
        yield Finding.wrong("drainer", f"nobody drains, and {waits}", remedy)
    elif not seen:
        yield Finding("drainer", "nobody drains now, and nothing waits", is_well=None)


def _named(one: SeenDrainer) -> str:
    return f"{sentences.kind(one)}, {sentences.pid(one)},"


def _routes(one: SeenDrainer) -> str:
    if one.routes is None:
        return "with which secrets is not known"
    if not one.routes:
        return "but has no secret yet"
    few = sorted(one.routes)[:_MOST_ROUTES]
    more = len(one.routes) - len(few)
    return f"with secrets of {', '.join(few)}{f' and {more} more' if more else ''}"
