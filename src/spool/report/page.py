"""The page: a report, what happened, and charts, as one HTML file that needs nothing else.

Invariants:

- All that spans, keys and servers say is escaped, and nothing of it is ever a link or a style.
- No script, and nothing from elsewhere: `CSP` says so to the browser, by the style's own hash.
- Where it is read, without colours, on a telephone, on paper or aloud, it says the same.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import re
from html import escape
from typing import TYPE_CHECKING, Final

from spool.__about__ import __version__
from spool.delivery.route_state import RouteState
from spool.report import chart, sentences, timeline
from spool.store import history
from spool.system.redaction import printable
from spool.system.words import duration_of, share_of, size_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spool.report.concerns import Concern
    from spool.report.report import Report
    from spool.store.history import Event, Hour
    from spool.store.records import Route
    from spool.store.store import Store

_STYLE: Final = importlib.resources.files(__package__).joinpath("page.css").read_text()
_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
CSP: Final = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)

_ICON: Final = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 8 8'%3E"
    "%3Ccircle cx='4' cy='4' r='3' fill='%23{colour}'/%3E%3C/svg%3E"
)
_MONTH: Final = 31 * 86400.0
# So many of what happened are told; the newest.
_MOST_EVENTS: Final = 200


def read(store: Store, report: Report, note: str = "") -> str:
    """Write the page of a spool, with what it keeps of the last month."""
    since = report.now - _MONTH
    with store.database.reading() as connection:
        events = history.events(connection, since)
        hours = history.hours(connection, since, report.now)
    return page_of(report, events, hours, note)


def page_of(report: Report, events: Sequence[Event], hours: Sequence[Hour], note: str = "") -> str:
    """Write the page; `events` and `hours` as `store.history` gives them, `note` for its foot."""
    concerns = report.concerns()
    title = _headline(report, concerns)
    colour = "b3261e" if concerns else "4c8c5a"
    body = "\n".join([
        _top(report, title, concerns),
        _figures(report, hours),
        _section("Routes", _routes(report)),
        _section("Backlog and deliveries", _charts(report, events, hours)),
        _section("What happened", _timeline(report, events)),
        _foot(report, note),
    ])  # fmt: skip
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{CSP}">
<title>{title} · langfuse-spool</title>
<link rel="icon" href="{_ICON.format(colour=colour)}">
<style>{_STYLE}</style>
</head>
<body>
<main{' class="alarm"' if concerns else ""}>
{body}
</main>
</body>
</html>
"""


def _headline(report: Report, concerns: Sequence[Concern]) -> str:
    if concerns:
        return "1 thing needs you" if len(concerns) == 1 else f"{len(concerns)} things need you"
    if RouteState.WAITING in report.states:
        return "Nothing needs you: an outage is waited out"
    return "All is well"


def _top(report: Report, title: str, concerns: Sequence[Concern]) -> str:
    listed = "".join(
        f"<li><strong>{_text(_sentence(one.words))}</strong><p>{_text(_sentence(one.remedy))}</p></li>"
        for one in concerns
    )
    where = f"langfuse-spool · <code>{_text(str(report.path))}</code>"
    return (
        f'<header>\n<p class="where soft">{where}</p>\n<h1>{title}</h1>\n'
        f'<p class="lede">{_text(_sentence(sentences.pending(report)))} {_drained(report)}</p>\n'
        + (f'<ol class="concerns">{listed}</ol>\n' if concerns else "")
        + "</header>"
    )


def _drained(report: Report) -> str:
    by = _text(sentences.drains(report))
    return f"Drained by {by}." if report.drainers else "Nobody drains at the moment."


# The figures


def _figures(report: Report, hours: Sequence[Hour]) -> str:
    ledger = report.ledger
    of_day = sum(bar.delivered for bar in chart.bars_of(chart.PERIODS[0], hours, report.now))
    last = max((r.last_success_at for r in report.routes if r.last_success_at), default=None)
    ago = "never" if last is None else duration_of(max(0.0, report.now - last))
    share = share_of(report.used_bytes, report.max_bytes)
    free = f"{share} of the limit, the disk has {size_of(report.free_bytes)} left"
    figures = (
        ("Waiting", f"{ledger.pending:,}", "span" if ledger.pending == 1 else "spans"),
        ("Delivered in a day", f"{of_day:,}", f"{ledger.delivered:,} ever"),
        ("Last delivery", ago, "" if last is None else "ago"),
        ("On disk", size_of(report.used_bytes), free),
    )
    shown = (
        f"<div><dt>{name}</dt><dd>{value}<small>{more}</small></dd></div>"
        for name, value, more in figures
    )
    return f'<dl class="figures">{"".join(shown)}</dl>'


# The routes


def _routes(report: Report) -> str:
    if not report.routes:
        return '<p class="soft">None yet: the first span makes one.</p>'
    routes = zip(report.routes, report.states, strict=True)
    return f'<ul class="routes">{"".join(_route(report, *one) for one in routes)}</ul>'


def _route(report: Report, route: Route, state: RouteState) -> str:
    mark = "" if state is RouteState.OK else ' class="bad"'
    remedy = sentences.remedy(route) if state is RouteState.WAITING else ""
    said = (sentences.waiting(report, route), sentences.attempts(report, route, state))
    more = "".join(f'<p class="soft">{_text(_sentence(one))}</p>' for one in said if one)
    endpoint = "" if route.endpoint == route.name else route.endpoint
    return (
        f'<li><h3>{_text(route.name)}</h3><p class="soft">{_text(endpoint)}</p>'
        f"<p{mark}>{_text(_sentence(sentences.state(report, route, state)))}</p>"
        f"{f'<p>{_text(_sentence(remedy))}</p>' if remedy else ''}{more}</li>"
    )


# The charts


def _charts(report: Report, events: Sequence[Event], hours: Sequence[Hour]) -> str:
    if not hours:
        return '<p class="soft">Nothing to draw yet: what is counted each hour comes here.</p>'
    troubles = [
        chart.Trouble(one.begin_at, report.now if one.end_at is None else one.end_at, one.spans)
        for one in events
        if one.kind in history.TROUBLES
    ]
    drawn = "\n".join(_chart(period, hours, troubles, report.now) for period in chart.PERIODS)
    return f'<div class="charts">{drawn}</div>'


def _chart(
    period: chart.Period, hours: Sequence[Hour], troubles: Sequence[chart.Trouble], now: float
) -> str:
    bars = chart.bars_of(period, hours, now, troubles)
    drawn = chart.svg(period, bars, troubles)
    return f"<figure><figcaption><h3>{period.name}</h3></figcaption>{drawn}</figure>"


# The timeline


def _timeline(report: Report, events: Sequence[Event]) -> str:
    if not events:
        return '<p class="soft">Nothing out of the ordinary, as far as was written down.</p>'
    told = timeline.told(events[-_MOST_EVENTS:], report.routes)
    listed = "\n".join(
        f'<li><p class="soft">{_text(timeline.when(event, report.now))}</p>'
        f"<p{_bad(event)}>{_text(_sentence(words))}</p></li>"
        for event, words in reversed(told)
    )
    more = len(events) - len(told)
    older = f'<p class="soft">{more:,} older: see `python -m spool history`.</p>' if more else ""
    return f'<ol class="timeline">{listed}</ol>{_code(older)}'


def _bad(event: Event) -> str:
    return ' class="bad"' if event.kind in history.TROUBLES and event.end_at is None else ""


# The rest


def _section(heading: str, content: str) -> str:
    return f"<section>\n<h2>{heading}</h2>\n{content}\n</section>"


def _foot(report: Report, note: str) -> str:
    said = f"As of {_time(report.now)}; all times are local."
    return (
        f"<footer><p>{said} {_text(note)}</p><p>In spans: {_text(sentences.ledger(report))}.</p>"
        f"<p>langfuse-spool {__version__}</p></footer>"
    )


def _time(at: float) -> str:
    local = timeline.local(at)
    shown = f"{local:%a} {local.day} {local:%b}, {local:%H:%M}"
    return f'<time datetime="{local.isoformat(timespec="seconds")}">{shown}</time>'


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}{'' if words.endswith(('.', '`', '!', '?')) else '.'}"


def _text(words: str) -> str:
    """Escape what somebody said; what stands in backticks is shown as code."""
    return _code(escape(printable(words)))


def _code(escaped: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped)
