"""The timeline: what happened as sentences, and a chart of what came and went for a terminal."""

from __future__ import annotations

import itertools
import math
from datetime import datetime
from typing import TYPE_CHECKING, Final

from spool.report.chart import share_of
from spool.store.history import BY_HAND, HOUR, TROUBLES, Kind
from spool.system.words import count_of, duration_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from spool.store.history import Event, Hour
    from spool.store.records import Route

# No spool is older, so a clock that tells less was wrong; and one that is a day ahead of this one.
_FIRST: Final = datetime(2020, 1, 1).astimezone().timestamp()
_DAY: Final = 86400.0
_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
_PLAIN: Final = " .:-=+*#@"
_MOST_COLUMNS: Final = 60
# Of an hour: what one clock's times differ by when they are subtracted.
_ROUNDING: Final = 1e-3

# What became of spans otherwise than by delivery.
_LOSSES: Final = frozenset({Kind.EVICTED, Kind.DEAD, Kind.PURGED, Kind.ADOPTED, Kind.DAMAGED})

_ENDED: Final = {
    Kind.EVICTED: "{spans} of {route} {were} evicted, the oldest first: {words}",
    Kind.REFUSED: "{spans} {were} refused: {words}",
    Kind.DAMAGED: "{words}: {spans} {are} known to be lost",
    Kind.DEAD: "{spans} of {route} became dead letters: {words}",
    Kind.PURGED: "{spans} of {route} {were} purged by hand: dead letters, for good",
    Kind.RETRIED: "{spans} of {route} {were} made pending again by hand: dead letters",
    Kind.ADOPTED: "{spans} of {route} {were} adopted by hand: they go on to {words}",
}


def told(events: Sequence[Event], routes: Iterable[Route]) -> list[tuple[Event, str]]:
    """Say in words what happened, without when; `routes` as they are now."""
    by_name = {route.name: route for route in routes}
    return [(event, _words(event, events, by_name)) for event in events]


def _words(event: Event, events: Sequence[Event], routes: Mapping[str, Route]) -> str:
    if event.kind in TROUBLES:
        return _trouble(event, events, routes)
    if event.kind == Kind.DRAINED:
        # Nobody tells of its last minute.
        least = "" if event.words == BY_HAND else "at least "
        return f"drained by {event.words}: {least}{count_of(event.spans, 'span')}"
    is_one = event.spans == 1
    values = {
        "spans": count_of(event.spans, "span"),
        "route": event.route or "dead letters",
        "were": "was" if is_one else "were",
        "are": "is" if is_one else "are",
        "words": event.words,
    }
    known = {kind.value: text for kind, text in _ENDED.items()}
    other = f"{event.kind} {event.route}: {event.words}"  # a newer version's
    return known[event.kind].format(**values) if event.kind in known else other


def _trouble(event: Event, events: Sequence[Event], routes: Mapping[str, Route]) -> str:
    state = "down" if event.kind == Kind.DOWN else "held"
    is_or_was = "is" if event.end_at is None else "was"
    times = f" {event.times} times, less than a minute apart" if event.times > 1 else ""
    return (
        f"route {event.route} {is_or_was} {state}{times}: {event.words or 'no reason is known'}"
        f"{_fate(event, events, routes.get(event.route))}"
    )


def _fate(event: Event, events: Sequence[Event], route: Route | None) -> str:
    """Say what became of the spans that waited in a trouble."""
    if not event.spans:
        return ""
    spans = count_of(event.spans, "span")
    if event.times > 1 and event.end_at is not None:
        spans = f"up to {spans}"  # some of which may have waited more than once
    if event.end_at is None:
        return f"; {spans} {'waits' if event.spans == 1 else 'wait'}"
    if route is None:
        return f"; {spans} waited"
    if route.pending_spans and (route.oldest_at is None or route.oldest_at <= event.end_at):
        return f"; {spans} waited, not all of them are through yet"
    is_any_lost = any(
        other.kind in _LOSSES and other.route in ("", event.route) and other.id > event.id
        for other in events
    )
    if is_any_lost:
        return f"; {spans} waited, none does any more"
    return f"; {spans} waited, {'delivered' if event.spans == 1 else 'all delivered'} since"


# When


def lines(events: Sequence[Event], routes: Iterable[Route], now: float) -> list[str]:
    """Tell what happened and when, a line each, what began first is first."""
    found = [(when(event, now), words) for event, words in told(events, routes)]
    width = max((len(time) for time, _ in found), default=0)
    return [f"{time:<{width}}  {words}" for time, words in found]


def when(event: Event, now: float) -> str:
    """Tell from when to when, in local time, and how long that was."""
    begin, end = event.begin_at, event.end_at
    if is_wrong(begin, now) or (end is not None and is_wrong(end, now)):
        return f"{_clock(begin, now, None)} (the clock was wrong)"
    if end is None:
        return f"{_clock(begin, now, None)} to now ({duration_of(now - begin)})"
    first, last = _clock(begin, now, None), _clock(end, now, begin)
    if end - begin < 1:
        return first
    return f"{first} to {last} ({duration_of(end - begin)})"


def is_wrong(at: float, now: float) -> bool:
    """Say whether no clock that is right can have told this time."""
    return not _FIRST <= at <= now + _DAY


def local(at: float) -> datetime:
    """Give a local time; the first there is for one that no calendar has."""
    try:
        return datetime.fromtimestamp(at).astimezone()
    except (OSError, OverflowError, ValueError):
        return datetime.fromtimestamp(0).astimezone()


def _clock(at: float, now: float, beside: float | None) -> str:
    """Tell a local time, without its day where it stands beside one of the same day."""
    time = local(at)
    if beside is not None and local(beside).date() == time.date():
        return f"{time:%H:%M}"
    year = "" if time.year == local(now).year else f" {time.year}"
    return f"{time.day} {time:%b}{year} {time:%H:%M}"


# The chart


def chart(hours: Sequence[Hour], since: float, now: float, *, is_plain: bool = False) -> list[str]:
    """Draw what waited and what was delivered since a time; with ASCII alone if it `is_plain`.

    Each column is so many whole hours, the last ends now.
    """
    if not hours:
        return []
    begin = max(since, min(hour.begin_at for hour in hours))
    total = max(1, math.ceil((now - begin) / HOUR - _ROUNDING))
    width = math.ceil(total / _MOST_COLUMNS) * HOUR
    columns = math.ceil(total * HOUR / width)
    begin = max(begin, now - columns * width)
    edges = [now - number * width for number in range(columns, -1, -1)]
    edges[0] = begin
    waiting = [_waiting(hours, edge) for edge in edges[1:]]
    delivered = [_delivered(hours, *pair) for pair in itertools.pairwise(edges)]
    first = _clock(begin, now, None)
    most = count_of(round(max(waiting)), "span")
    fastest = count_of(round(max(delivered)), "span")
    whole = f"{count_of(round(sum(delivered)), 'span')}, at most {fastest} in {duration_of(width)}"
    return [
        f"waiting    {_bar(waiting, is_plain=is_plain)}  at most {most}",
        f"delivered  {_bar(delivered, is_plain=is_plain)}  {whole}",
        f"           {first}{'now':>{max(4, columns - len(first))}}",
    ]


def _waiting(hours: Sequence[Hour], at: float) -> float:
    """Tell what waited at a time, as far as it was noted by then."""
    return next((hour.pending_spans for hour in reversed(hours) if hour.begin_at < at), 0)


def _delivered(hours: Sequence[Hour], begin: float, end: float) -> float:
    """Tell what was delivered between two times."""
    return sum(share_of(hour, begin, end) for hour in hours)


def _bar(values: Sequence[float], *, is_plain: bool) -> str:
    levels = _PLAIN if is_plain else _BLOCKS
    top, most = max(values) or 1.0, len(levels) - 1
    return "".join(levels[min(most, -int(-value * most // top))] for value in values)
