"""Charts as inline SVG: what waited, and what was delivered, of a day, a week or a month.

Nothing here reads a file or a clock. A chart has no colours of its own: its classes, `waited`,
`delivered`, `trouble` and `axis`, get them from the page that it stands in.
"""

from __future__ import annotations

import bisect
import itertools
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import escape
from typing import TYPE_CHECKING, Final

from spool.store.history import HOUR
from spool.system.words import count_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from spool.store.history import Hour

# As wide as a small telephone, or a third of a desk: so its letters are as large as the page's.
_WIDTH, _HEIGHT = 300, 178
_WAITED, _DELIVERED = (20, 82), (112, 154)  # from top to base
_WIDEST_TICK: Final = 36
_GAP: Final = 2
_LEAST: Final = 1.5  # the height of what is little, but not nothing


@dataclass(frozen=True, slots=True)
class Period:
    """How far back a chart looks: so many bars of so many hours; `tick` labels some of them."""

    name: str
    bars: int
    hours: int
    tick: Callable[[datetime], str]
    label: Callable[[datetime], str]


@dataclass(frozen=True, slots=True)
class Bar:
    """What a bar shows: how many spans waited at most in its time, how many were delivered."""

    begin: datetime
    end: datetime
    waited: int
    delivered: int


@dataclass(frozen=True, slots=True)
class Trouble:
    """From when to when something was wrong, in seconds, and how many spans waited at its end."""

    begin_at: float
    end_at: float
    spans: int


def _date(at: datetime) -> str:
    return f"{at.day} {at:%b}"


PERIODS: Final = (
    Period(
        "Last day", 24, 1, lambda at: f"{at:%H:%M}" if at.hour % 6 == 0 else "",
        lambda at: f"{at:%a %H:%M}",
    ),
    Period(
        "Last week", 28, 6, lambda at: f"{at:%a}" if at.hour == 0 else "",
        lambda at: f"{at:%a} {_date(at)}, {at:%H:%M}",
    ),
    Period(
        "Last month", 30, 24, lambda at: _date(at) if at.weekday() == 0 else "",
        lambda at: f"{at:%a} {_date(at)}",
    ),
)  # fmt: skip


# What a chart shows


def bars_of(
    period: Period, hours: Sequence[Hour], now: float, troubles: Sequence[Trouble] = ()
) -> list[Bar]:
    """Give a period's bars, the last with the present; `hours` in their order, local times.

    What was delivered in a longer time is its last hour's: before it nobody was there to count.
    What waited went on to wait until somebody counted again; what came and went between two counts
    is known by the troubles alone.
    """
    last = datetime.fromtimestamp(now)  # noqa: DTZ006 - local, as people read it
    hour = last.hour // period.hours * period.hours
    last = last.replace(hour=hour, minute=0, second=0, microsecond=0)
    edges = [
        last - timedelta(hours=period.hours * number) for number in range(period.bars - 1, -2, -1)
    ]
    times = [one.end_at for one in hours]
    bars = []
    for edge in itertools.pairwise(edges):
        begin, end = (at.timestamp() for at in edge)
        first, behind = (bisect.bisect_right(times, at) for at in (begin, end))
        waited = [one.pending_spans for one in hours[max(0, first - 1) : behind]]
        waited += [one.spans for one in troubles if begin < one.end_at <= end]
        delivered = sum(share_of(one, begin, end) for one in hours[first : behind + 1])
        bars.append(Bar(*edge, max(waited, default=0), round(delivered)))
    return bars


def in_words(bars: Sequence[Bar]) -> str:
    """Say what a chart shows."""
    waited, delivered = _most_and_all(bars)
    if not waited and not delivered:
        return "Nothing was delivered, and nothing waited."
    waits = f"at most {count_of(waited, 'span')} waited" if waited else "nothing waited"
    return f"{count_of(delivered, 'span')} delivered; {waits}."


def share_of(hour: Hour, begin: float, end: float) -> float:
    """Give how much was delivered of it between two times."""
    since = max(hour.begin_at, hour.end_at - HOUR)
    if since >= hour.end_at:
        return hour.delivered if begin < hour.end_at <= end else 0.0
    overlap = min(hour.end_at, end) - max(since, begin)
    return hour.delivered * max(0.0, overlap) / (hour.end_at - since)


def _most_and_all(bars: Sequence[Bar]) -> tuple[int, int]:
    return max(bar.waited for bar in bars), sum(bar.delivered for bar in bars)


# How it is drawn


def svg(period: Period, bars: Sequence[Bar], troubles: Sequence[Trouble] = ()) -> str:
    """Draw a period."""
    name = period.name.replace(" ", "-").lower()
    waited, delivered = _most_and_all(bars)
    titles = [
        f"{period.label(bar.begin)}: {bar.delivered:,} delivered, at most {bar.waited:,} waited"
        for bar in bars
    ]
    return "".join([
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-labelledby="{name}-t {name}-d">',
        f'<title id="{name}-t">{escape(period.name)}</title>',
        f'<desc id="{name}-d">{escape(in_words(bars))}</desc>',
        _caption(_WAITED[0], "Waiting", f"at most {waited:,}" if waited else "none"),
        _panel("waited", _WAITED, [bar.waited for bar in bars], titles),
        *(_mark(one, bars) for one in troubles),
        _caption(_DELIVERED[0], "Delivered", f"{delivered:,}" if delivered else "none"),
        _panel("delivered", _DELIVERED, [bar.delivered for bar in bars], titles),
        *(_tick(number, period.tick(bar.begin), len(bars)) for number, bar in enumerate(bars)),
        "</svg>",
    ])  # fmt: skip


def _caption(top: int, what: str, how_much: str) -> str:
    y = top - 8
    return (
        f'<text x="0" y="{y}">{what}</text>'
        f'<text x="{_WIDTH}" y="{y}" text-anchor="end">{how_much}</text>'
    )


def _panel(kind: str, at: tuple[int, int], values: Sequence[int], titles: Sequence[str]) -> str:
    top, base = at
    width, most = _WIDTH / len(values), max(values)
    drawn = [f'<path class="axis" d="M0 {base + 0.5}H{_WIDTH}"/>']
    for number, (value, title) in enumerate(zip(values, titles, strict=True)):
        if value:
            height = max(_LEAST, (base - top) * value / most)
            drawn.append(
                f'<rect class="{kind}" x="{number * width:.1f}" y="{base - height:.1f}" '
                f'width="{width - _GAP:.1f}" height="{height:.1f}"><title>{title}</title></rect>'
            )
    return "".join(drawn)


def _mark(trouble: Trouble, bars: Sequence[Bar]) -> str:
    first, last = bars[0].begin.timestamp(), bars[-1].end.timestamp()
    if trouble.end_at < first or trouble.begin_at > last:
        return ""
    scale = _WIDTH / (last - first)
    left = min(_WIDTH - _GAP, max(0.0, (trouble.begin_at - first) * scale))
    width = max(_GAP, min(_WIDTH, (trouble.end_at - first) * scale) - left)
    y = _WAITED[1] + _GAP
    return f'<rect class="trouble" x="{left:.1f}" y="{y}" width="{width:.1f}" height="3"/>'


def _tick(number: int, label: str, count: int) -> str:
    x = number * _WIDTH / count
    if not label or x > _WIDTH - _WIDEST_TICK:
        return ""
    y = _DELIVERED[1]
    return (
        f'<path class="axis" d="M{x:.1f} {y}v5"/>'
        f'<text class="tick" x="{x:.1f}" y="{_HEIGHT - 7}">{escape(label)}</text>'
    )
