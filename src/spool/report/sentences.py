"""The sentences: how a spool and its routes stand, as a person reads it.

Invariant: each is one line without control characters' meaning: whoever prints it escapes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from spool.delivery.causes import Cause
from spool.delivery.route_state import RouteState
from spool.system.words import clock_of, count_of, duration_of, share_of, size_of

if TYPE_CHECKING:
    from spool.report.facts import Facts, Pace
    from spool.store.drainers import SeenDrainer
    from spool.store.records import Route

# 2020 began then: a clock that says less is wrong.
PLAUSIBLE_AT: Final = 1_577_836_800.0
# What clocks of several processes may differ.
_JITTER: Final = 60.0
_KINDS: Final = {"run": "`run`", "drain": "`drain`", "application": "an application"}
# What makes up what came, and what is beside it.
_CAME: Final = ("accepted", "imported")
_BESIDE: Final = ("refused", "in_memory")


# The spool


def usage(facts: Facts) -> str:
    """Say where it is, how full it is, and what the disk has left."""
    share = share_of(facts.used_bytes, facts.max_bytes)
    return (
        f"{facts.path}: {size_of(facts.used_bytes)}, {share} of {size_of(facts.max_bytes)}; "
        f"the disk has {size_of(facts.free_bytes)} left"
    )


def pending(facts: Facts) -> str:
    """Say what waits, and for how long."""
    spans = facts.ledger.pending
    if not spans:
        return "nothing waits"
    oldest = min((one.oldest_at for one in facts.routes if one.oldest_at is not None), default=None)
    age = "" if oldest is None else f", the oldest {since(oldest, facts.now)}"
    size = size_of(sum(one.pending_bytes for one in facts.routes))
    return f"{waits(spans)} ({size} before compression){age}"


def ledger(facts: Facts, *, is_whole: bool = False) -> str:
    """Say what became of all spans; with `is_whole` also that nothing became so of any."""
    counts = {name: getattr(facts.ledger, name) for name in facts.ledger.__slots__}
    shown = {name: n for name, n in counts.items() if n or is_whole}
    came = [f"{name} {n:,}" for name, n in shown.items() if name in _CAME]
    went = [f"{name} {n:,}" for name, n in shown.items() if name not in (*_CAME, *_BESIDE)]
    beside = [f"{name} {n:,}" for name, n in shown.items() if name in _BESIDE]
    if not came and not beside:
        return "nothing has come yet"
    said = f"{' + '.join(came)} = {' + '.join(went)}" if came else ""
    return "; beside it ".join(filter(None, (said, ", ".join(beside))))


def drains(facts: Facts) -> str:
    """Say who drains."""
    if not facts.drainers:
        return "nobody"
    return "; ".join(drainer(one, facts.now) for one in facts.drainers)


def drainer(one: SeenDrainer, now: float) -> str:
    """Say which process drains, and for how long."""
    if one.is_stopped:
        return f"{who(one)}, which does not move"
    began = "" if one.since is None else f", for {duration_of(max(0.0, now - one.since))}"
    return f"{who(one)}{began}"


def who(one: SeenDrainer) -> str:
    """Say which process it is."""
    known = "" if one.pid is None else f" ({pid(one)})"
    return f"{kind(one)}{known}"


def kind(one: SeenDrainer) -> str:
    """Say what it is that drains."""
    return _KINDS.get(one.kind or "", "a process")


def pid(one: SeenDrainer) -> str:
    """Give "pid 12"; of another container, where the number is another process's here, that."""
    return f"pid {one.pid}" if one.is_here else f"pid {one.pid} of another container"


def resume(one: SeenDrainer) -> str:
    """Say how to let a process go on that does not move."""
    if not one.is_here:
        return "resume or restart that container: this pid is not its pid here"
    if one.pid is None:
        return "let it go on; where that does not help end it, and start another"
    return f"`kill -CONT {one.pid}`; where that does not help end it, and start another"


def disk(facts: Facts) -> str:
    """Say what is the matter with the disk; nothing where it is well."""
    words = {"almost-full": "the disk is full, or almost", "read-only": "the disk is read-only"}
    return words.get(facts.disk, "")


def pace(facts: Facts, found: Pace) -> str:
    """Say how fast it goes, and when it will be done."""
    if not found.spans_per_second:
        if trouble := disk(facts):
            return f"nothing is noted as delivered: {trouble}"
        return "no request has ended in half a second: line or receiver are slow"
    rate = (
        f"{found.spans_per_second:,.0f} spans a second: more the line or the receiver does not take"
    )
    if found.seconds_left is None:
        return f"{rate}; as many come"
    return f"{rate}; done in about {duration_of(max(1.0, found.seconds_left))}"


# A route


def state(facts: Facts, route: Route, of: RouteState) -> str:
    """Say how a route stands, since when, and why."""
    ago = lasting(facts, route)
    if of is RouteState.NO_SECRET:
        return f"no-secret: {secret(facts, route)}"
    if of is RouteState.HELD:
        return f"held{ago}: {why(route)}"
    if of is RouteState.WAITING:
        return f"waiting{ago}: {why(route)}"
    if not route.pending_spans:
        return "ok, nothing waits"
    if not facts.is_sent(route):
        return "nothing is known against it, but nobody sends"
    trouble = disk(facts)
    return f"nothing is known against it, but {trouble}" if trouble else "ok, under way"


def secret(facts: Facts, route: Route) -> str:
    """Say whose secret is missing, and to whom."""
    missing = facts.missing_of(route).partition("; ")[0]
    return f"{missing}, and no drainer has it" if facts.drainers else missing


def lasting(facts: Facts, route: Route) -> str:
    """Give " for 2 h 10 min", of a route that fails; nothing where it has only begun."""
    seconds = facts.failing_seconds(route)
    if route.failing_since is not None and is_wrong(route.failing_since, facts.now):
        return " since a time that the clock had wrong"
    return f" for {duration_of(seconds)}" if seconds is not None and seconds >= 1 else ""


def why(route: Route) -> str:
    """Say why requests of a route fail."""
    cause = Cause.of(route.cause)
    said = cause.explain(route.last_error)
    if route.is_held and is_failing_otherwise(route):
        return f"it was refused, and cannot be asked again: {said}"
    if route.suspect_to and route.is_held:
        whose = "the only span that waits" if route.pending_spans == 1 else "every span"
        if cause in (Cause.TOO_LARGE, Cause.SPANS):
            said = "is too large" if cause is Cause.TOO_LARGE else "is refused"
            blame = "" if route.pending_spans == 1 else ", so it is hardly the spans"
            return f"{whose} {said} ({route.last_error}){blame}"
    if route.suspect_to:
        whose = "the span that waits fails" if route.pending_spans == 1 else "what waits fails"
        return f"{whose} by itself, others pass: {said}"
    return said


def remedy(route: Route) -> str:
    """Say what to do about a route that fails."""
    if route.suspect_to and not route.is_held:
        return "no need to act: it becomes a dead letter once enough others were accepted"
    if route.suspect_to and route.pending_spans == 1:
        return (
            "where others arrive no need to act: it becomes a dead letter once one is accepted; "
            "where none does check the host, the headers, and any proxy on the way"
        )
    return Cause.of(route.cause).remedy


def is_failing_otherwise(route: Route) -> bool:
    """Say whether a held route's last failure is another one than what it is held for."""
    return route.is_held and route.waited_at != route.held_at


def waiting(facts: Facts, route: Route) -> str:
    """Say what of a route waits, how old it is, and what fresh spans do meanwhile."""
    if not route.pending_spans:
        return ""
    age = "" if route.oldest_at is None else f", the oldest {since(route.oldest_at, facts.now)}"
    fresh = ""
    if route.suspect_to:
        fresh = "; fresh ones are tried by themselves, and go on where they are taken"
    elif route.attempts:
        fresh = "; fresh ones wait as well"
    return f"{waits(route.pending_spans)} ({size_of(route.pending_bytes)}){age}{fresh}"


def attempts(facts: Facts, route: Route, of: RouteState) -> str:
    """Say when a route is tried next, and when that went well last."""
    said = []
    if of in (RouteState.HELD, RouteState.WAITING):
        left = facts.next_attempt_seconds(route)
        when = (
            f"in {duration_of(left)}, at {clock_of(facts.now + left, facts.now)}" if left else "now"
        )
        asked = ", as the receiver asked" if Cause.of(route.cause) is Cause.ASKED_TO_WAIT else ""
        once = "" if facts.is_running else ", once somebody drains"
        said.append(f"next attempt {when}{asked}{once}")
        said.append(f"{count_of(route.attempts, 'attempt')} so far")
    if route.last_success_at is None:
        said.append("nothing of it was delivered yet")
    else:
        ago = duration_of(max(0.0, facts.now - route.last_success_at))
        said.append(f"last success {ago} ago")
    return ", ".join(said)


# Parts


def waits(spans: int) -> str:
    """Give "1 span waits", "2 spans wait"."""
    return f"{count_of(spans, 'span')} {'waits' if spans == 1 else 'wait'}"


def since(at: float, now: float) -> str:
    """Give "for 2 h 10 min"; of a time that no clock should have shown, that."""
    if is_wrong(at, now):
        return f"of {clock_of(at, now)} (the clock was wrong)"
    return f"for {duration_of(max(0.0, now - at))}"


def is_wrong(at: float, now: float) -> bool:
    """Say whether a time when something happened is none: long ago, or to come."""
    return at < PLAUSIBLE_AT or at > now + _JITTER
