"""The concerns: what a person should see to, each with what is the matter and what to do.

Invariant: whoever shows concerns shows these, and adds none of its own about the spool.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from spool.delivery.route_state import RouteState
from spool.system.words import count_of, duration_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spool.report.facts import Facts
    from spool.store.records import Route

# So many seconds a span may wait without being a concern, unless a person says otherwise.
MAX_AGE: Final = 3600.0
# So long it is a concern that spans were evicted, refused or damaged; the ledger tells it for ever.
_A_DAY: Final = 86400.0


@dataclass(frozen=True, slots=True)
class Concern:
    """What a person should see to.

    `code` is public, as `status --json` has it, and stays; `words` say what is the matter, `remedy`
    what to do about it.
    """

    code: str
    words: str
    remedy: str

    def __str__(self) -> str:
        """Give one line."""
        return f"{self.words}; {self.remedy}"


def of_facts(facts: Facts, max_age: float) -> list[Concern]:
    """Give what a person should see to; `max_age` in seconds. Empty where all is well."""
    return [*_of_routes(facts, max_age), *_of_losses(facts), *_of_surroundings(facts)]


def _of_routes(facts: Facts, max_age: float) -> Iterator[Concern]:
    for route, state, missing in zip(facts.routes, facts.states, facts.missing, strict=True):
        if state is RouteState.HELD:
            # What single spans were refused for may be theirs: others that come will tell.
            cure = "headers, or what stands between" if route.suspect_to else "keys"
            words = f"route {route.name} is held: {route.last_error}"
            yield Concern("held", words, f"correct the host or the {cure}")
        elif state is RouteState.NO_SECRET:
            waits = _waits(route.pending_spans)
            secret, _, remedy = missing.partition("; ")
            yield Concern("no-secret", f"route {route.name}: {waits}: {secret}", remedy)
        elif _is_stuck(facts, route, max_age):
            why = f": {route.last_error}" if route.last_error else ""
            span = duration_of(max_age)
            words = f"route {route.name}: nothing was delivered for {span}, and older spans wait"
            yield Concern("stuck", f"{words}{why}", "see to the receiver, or the way there")


def _of_losses(facts: Facts) -> Iterator[Concern]:
    ledger, trouble = facts.ledger, facts.trouble
    if ledger.dead:
        verb = "is a dead letter" if ledger.dead == 1 else "are dead letters"
        words = f"{count_of(ledger.dead, 'span')} {verb}"
        yield Concern("dead-letters", words, "see `python -m spool dead list`")
    if _is_recent(facts, trouble.damaged_at):
        lost = f"{count_of(ledger.damaged, 'span')} known to be lost"
        words = f"the file was damaged and salvaged, with {lost}"
        yield Concern("damaged", words, "see to the disk")
    if _is_recent(facts, trouble.evicted_at):
        words = f"spans are evicted, {ledger.evicted:,} in all"
        yield Concern("evicted", words, "raise SPOOL_MAX_BYTES or SPOOL_MAX_AGE_SECONDS")
    if _is_recent(facts, trouble.refused_at):
        words = f"spans are refused, {ledger.refused:,} in all"
        yield Concern("refused", words, "raise SPOOL_MAX_BYTES, or see to the disk")


def _of_surroundings(facts: Facts) -> Iterator[Concern]:
    if facts.is_disk_cramped:
        words = "the disk is almost full: spans are held in memory"
        yield Concern("disk-full", words, "make room there")
    for one in facts.strangers:
        words = f"passed over, as it is none of the spool's: {one}"
        yield Concern("stranger", words, "remove it")
    for one in facts.unreadable:
        words = f"a journal cannot be read, what it holds is in no count: {one}"
        yield Concern("unreadable", words, "see to the disk")
    if facts.ledger.pending and not facts.is_running:
        words = f"{_waits(facts.ledger.pending)} and no process drains"
        yield Concern("nobody-drains", words, "`python -m spool drain`")


def _is_stuck(facts: Facts, route: Route, max_age: float) -> bool:
    if route.oldest_at is None or facts.now - route.oldest_at <= max_age:
        return False
    return route.last_success_at is None or facts.now - route.last_success_at > max_age


def _is_recent(facts: Facts, at: float | None) -> bool:
    return at is not None and facts.now - at < _A_DAY


def _waits(spans: int) -> str:
    return f"{count_of(spans, 'span')} {'waits' if spans == 1 else 'wait'}"
