"""The concerns: what a person should see to, each with what is the matter and what to do.

Invariant: whoever shows concerns shows these, and adds none of its own about the spool.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from spool.delivery.route_state import SOON, RouteState
from spool.report import sentences
from spool.store import history
from spool.system.words import clock_of, count_of, duration_of, few_of, share_of, size_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from spool.report.facts import Facts
    from spool.store.records import Route

# So many seconds a span may wait without being a concern, unless a person says otherwise.
MAX_AGE: Final = 3600.0
# So long it is a concern that spans were evicted, refused or damaged; the ledger tells it for ever.
_A_DAY: Final = 86400.0
# What happened within so many seconds may be going on.
_NOW: Final = 600.0
# So much of the limit is all of it, but for what is under way.
_FULL: Final = 0.9


@dataclass(frozen=True, slots=True)
class Concern:
    """What a person should see to.

    `code` is public, as `status --json` has it, and stays; `words` say what is the matter, `remedy`
    what to do about it. `route` names the one whose it is, if it is one's.
    """

    code: str
    words: str
    remedy: str
    route: str = field(default="", compare=False)

    def __str__(self) -> str:
        """Give one line."""
        return f"{self.words}; {self.remedy}"

    def as_json(self) -> dict[str, str]:
        """Give the public shape."""
        return {"code": self.code, "words": self.words, "remedy": self.remedy}


def of_facts(facts: Facts, max_age: float) -> list[Concern]:
    """Give what a person should see to; `max_age` in seconds. Empty where all is well."""
    found = (_of_routes(facts, max_age), _of_clocks(facts), _of_losses(facts), _of_disk(facts))
    return [*itertools.chain(*found), *_of_files(facts), *_of_drainers(facts)]


def _of_routes(facts: Facts, max_age: float) -> Iterator[Concern]:
    for route, state in zip(facts.routes, facts.states, strict=True):
        if state is RouteState.HELD:
            ago = sentences.lasting(facts, route)
            words = f"route {route.name} is held{ago}: {sentences.why(route)}"
            yield Concern("held", words, sentences.remedy(route), route.name)
        elif state is RouteState.NO_SECRET:
            waits = sentences.waits(route.pending_spans)
            remedy = facts.missing_of(route).partition("; ")[2]
            words = f"route {route.name}: {waits}: {sentences.secret(facts, route)}"
            remedy = remedy or "correct SPOOL_CREDENTIALS_FILE"
            yield Concern("no-secret", words, remedy, route.name)
        elif _is_left_alone(facts, route):
            waits = sentences.waits(route.pending_spans)
            words = f"route {route.name}: {waits}: who drains has no secret for it, this shell has"
            yield Concern("no-secret", words, "send them by `python -m spool drain`", route.name)
        elif silence := _silence(facts, route, max_age):
            why = f": {sentences.why(route)}" if route.attempts else ""
            words = (
                f"route {route.name}: nothing was delivered for {duration_of(silence)}, and older "
                f"spans wait{why}"
            )
            yield Concern("stuck", words, sentences.remedy(route), route.name)


def _is_left_alone(facts: Facts, route: Route) -> bool:
    """Say whether others drain, and nobody of them can send what has waited a while."""
    if route.oldest_at is None or not facts.is_running or facts.is_sent(route):
        return False
    return facts.now - route.oldest_at > SOON


def _silence(facts: Facts, route: Route, max_age: float) -> float:
    """Tell for how long spans wait, and nothing was delivered; 0 where that is no concern."""
    began = route.oldest_at
    if began is None:
        return 0.0
    if sentences.is_wrong(began, facts.now):  # then only what this spool saw counts
        began = route.failing_since if route.attempts else None
        began = None if began is None or sentences.is_wrong(began, facts.now) else began
    silence = 0.0 if began is None else facts.now - max(began, route.last_success_at or began)
    return silence if silence > max_age else 0.0


def _of_clocks(facts: Facts) -> Iterator[Concern]:
    if facts.now < sentences.PLAUSIBLE_AT:
        words = f"this machine's clock is wrong: it says {clock_of(facts.now)}"
        yield Concern("clock", words, "set it, or let NTP do that; spans go all the same")
        return
    times = [one.oldest_at for one in facts.routes if one.oldest_at is not None]
    if wrong := [at for at in times if sentences.is_wrong(at, facts.now)]:
        words = (
            f"spans that wait are of {clock_of(wrong[0], facts.now)}, and now is "
            f"{clock_of(facts.now)}: the clock was wrong, or is"
        )
        remedy = "let NTP set it; these spans are delivered all the same, with that time"
        yield Concern("clock", words, remedy)


def _of_losses(facts: Facts) -> Iterator[Concern]:
    ledger, trouble = facts.ledger, facts.trouble
    if ledger.dead:
        verb = "is a dead letter" if ledger.dead == 1 else "are dead letters"
        words = f"{count_of(ledger.dead, 'span')} {verb}: refused, where others were taken"
        remedy = "see `python -m spool dead list`, then `dead retry` or `dead purge`"
        yield Concern("dead-letters", words, remedy)
    if _is_recent(facts, trouble.damaged_at):
        lost = count_of(ledger.damaged, "span") if ledger.damaged else "no span"
        words = f"the file was damaged and salvaged, {lost} known to be lost"
        yield Concern("damaged", words, f"see to the disk; the old file is {facts.path}.corrupt-…")
    if _is_recent(facts, trouble.evicted_at):
        verb, why = _are(facts, trouble.evicted_at), _fullness(facts)
        words = f"spans {verb} evicted, the oldest {ledger.evicted:,}, which are lost: {why}"
        remedy = "end the outage, or raise the programs' SPOOL_MAX_BYTES or SPOOL_MAX_AGE_SECONDS"
        yield Concern("evicted", words, f"{remedy}{_for_a_day(facts, trouble.evicted_at)}")
    if _is_recent(facts, trouble.refused_at):
        why, remedy = _why_refused(facts)
        verb = _are(facts, trouble.refused_at)
        words = f"spans {verb} refused, {ledger.refused:,} in all, which are lost: {why}"
        yield Concern("refused", words, f"{remedy}{_for_a_day(facts, trouble.refused_at)}")


def _why_refused(facts: Facts) -> tuple[str, str]:
    """Tell what refused spans last, and what to do."""
    if facts.refused_by == history.LIMIT_OF_SIZE:
        return _fullness(facts), "end the outage, or raise SPOOL_MAX_BYTES"
    if facts.refused_by == history.BY_DISK:
        return "disk and memory were full", f"make room at {facts.path.parent}"
    said = facts.refused_by or "the programs' logs say why"
    return said, "correct that in the program that makes these spans; its log names them"


def _fullness(facts: Facts) -> str:
    """Say how full it is: the limit is known as the environment has it, not that of programs."""
    share, limit = share_of(facts.used_bytes, facts.max_bytes), size_of(facts.max_bytes)
    if facts.used_bytes >= _FULL * facts.max_bytes:
        return f"the limit of {limit} is used by {share}"
    return f"a program has reached a limit of its own (this shell's, {limit}, is used by {share})"


def _of_disk(facts: Facts) -> Iterator[Concern]:
    where = facts.path.parent
    words = f"{sentences.disk(facts)}: what ends now may be in memory only, up to 16 MiB a program"
    if facts.disk == "almost-full":
        yield Concern("disk-full", words, f"make room at {where}")
    elif facts.disk == "read-only":
        yield Concern("read-only", words, f"mount {where} for writing")


def _of_files(facts: Facts) -> Iterator[Concern]:
    if facts.strangers:
        words = f"passed over, as none of the spool's: {_summed(facts.strangers)}"
        yield Concern("stranger", words, "look who put it there, and remove it")
    if facts.unreadable:
        which = _summed(facts.unreadable)
        words = f"a journal cannot be read, what it holds is in no count: {which}"
        yield Concern("unreadable", words, "see to the file and the disk")


def _summed(files: Sequence[str]) -> str:
    """Give the one with its reason, or of many the first names."""
    if len(files) == 1:
        return files[0]
    names = [one.partition(": ")[0].rpartition("/")[2] for one in files]
    return f"{count_of(len(files), 'file')}: {few_of(names)}"


def _of_drainers(facts: Facts) -> Iterator[Concern]:
    for one in facts.drainers:
        if one.is_stopped:
            words = f"the drainer does not move: {sentences.who(one)} is stopped, frozen or hangs"
            yield Concern("drainer-stopped", words, sentences.resume(one))
    if facts.ledger.pending and not facts.is_running and not facts.drainers:
        words = f"{sentences.waits(facts.ledger.pending)} and no process drains"
        yield Concern("nobody-drains", words, _remedy_of_nobody(facts))


def _remedy_of_nobody(facts: Facts) -> str:
    """Recommend a drain only where it can help: with the keys, and where nothing else fails."""
    routes = zip(facts.routes, facts.states, strict=True)
    ready = [
        facts.missing_of(one) for one, of in routes if one.pending_spans and of is RouteState.OK
    ]
    if not ready:
        return "see to their routes, and let `python -m spool run` send them when that helps"
    if all(ready):
        return "send them by `python -m spool drain` or `run` with their keys: none are set here"
    return "send them by `python -m spool drain`, or let `python -m spool run` do that"


def _are(facts: Facts, at: float | None) -> str:
    """Say of a loss whether it goes on."""
    ago = facts.now - (at or facts.now)
    return "are" if ago < _NOW else f"were, until {duration_of(ago)} ago,"


def _for_a_day(facts: Facts, at: float | None) -> str:
    """Say of a loss that is over how long it is told."""
    return "" if facts.now - (at or facts.now) < _NOW else "; this line goes a day after the last"


def _is_recent(facts: Facts, at: float | None) -> bool:
    return at is not None and facts.now - at < _A_DAY
