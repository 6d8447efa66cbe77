from __future__ import annotations

import html.parser
import re
import time
from dataclasses import replace
from typing import Final

import pytest

from reports import hold, report_of
from spans import batch
from spool.delivery.route_state import RouteState
from spool.report import page
from spool.report.page import page_of
from spool.settings.settings import Settings
from spool.settings.target import Target
from spool.store.drainers import SeenDrainer
from spool.store.history import Event, Hour
from spool.store.store import Store

pytestmark = pytest.mark.once

NOW: Final = time.time()
HOSTILE: Final = "</p></svg></style><script>alert(1)</script><img src=x onerror='a()'>\"&\x1b[31m"
VOID: Final = {"meta", "link", "rect", "path"}


class Reader(html.parser.HTMLParser):
    """Reads a page as a browser does, but for mending it: what is open must be closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.said += f"{data}\n"


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture
def hours() -> list[Hour]:
    return [
        Hour(NOW - 3600 * n - 3600, NOW - 3600 * n, 0, 100, n % 7, 0) for n in range(720, -1, -1)
    ]


def test_a_spool_where_all_is_well_says_so_first(
    store: Store, settings: Settings, hours: list[Hour]
) -> None:
    store.open()
    said = read(page_of(report_of(store, settings, NOW), [], hours)).said
    assert said.index("All is well") < said.index("Nothing waits.") < said.index("Routes")
    assert "Nothing out of the ordinary" in said


def test_what_needs_a_person_stands_on_top_with_what_to_do(
    store: Store, settings: Settings
) -> None:
    target = settings.require_target()
    store.append(target, batch("a", "b"), NOW - 7200)
    hold(store, target, "401 no such key", NOW)
    report = report_of(store, settings, NOW)
    text = page_of(report, [], [])
    said = read(text).said
    assert "2 things need you" in said
    for concern in report.concerns():
        assert said.index(concern.words[1:]) < said.index("Routes")
    assert re.search(r"<code>[a-z` -]+</code>", text), "what is to be typed looks like it"
    assert "2 spans wait" in said
    assert "the oldest for 2 h" in said


def test_one_thing_is_one(store: Store, settings: Settings) -> None:
    store.append(settings.require_target(), batch("a"), NOW)
    assert "1 thing needs you" in page_of(report_of(store, settings, NOW), [], [])


def test_an_outage_that_is_waited_out_needs_nobody_and_is_not_well(
    store: Store, settings: Settings
) -> None:
    store.append(settings.require_target(), batch("a"), NOW)
    report = replace(
        report_of(store, settings, NOW),
        drainers=(SeenDrainer(1),), pid=1, states=(RouteState.WAITING,),
    )  # fmt: skip
    said = read(page_of(report, [], [])).said
    assert "Nothing needs you: an outage is waited out" in said
    assert "All is well" not in said


def test_what_others_say_is_text_and_never_markup(
    store: Store, settings: Settings, hours: list[Hour]
) -> None:
    store.append(settings.require_target(), batch("a"), NOW - 60)
    hold(store, settings.require_target(), HOSTILE, NOW)
    report = report_of(store, settings, NOW)
    (route,) = report.routes
    hostile = replace(
        report, routes=(replace(route, name=f"pk{HOSTILE}", endpoint=f"https://x/{HOSTILE}"),),
    )  # fmt: skip
    event = Event(1, "down", f"pk{HOSTILE}", NOW - 60, None, 1, 1, HOSTILE)
    known = {tag for tag, _ in read(page_of(report_of(store, settings, NOW), [], hours)).tags}
    reader = read(page_of(hostile, [event], hours))
    assert {tag for tag, _ in reader.tags} - known <= {"ol", "li", "time"}
    assert not [name for _, attributes in reader.tags for name in attributes if name[:2] == "on"]
    assert reader.said.count("<script>alert(1)</script>") >= 4
    assert "\x1b" not in reader.said


def test_nothing_is_loaded_and_no_script_runs(
    store: Store, settings: Settings, hours: list[Hour]
) -> None:
    store.open()
    text = page_of(report_of(store, settings, NOW), [], hours)
    reader = read(text)
    assert {tag for tag, _ in reader.tags} & {"script", "img", "iframe", "a", "form"} == set()
    links = [value for _, a in reader.tags for n, value in a.items() if n in {"src", "href"}]
    assert all(str(link).startswith("data:") for link in links)
    assert "@import" not in text
    assert "url(" not in text
    assert not [1 for _, attributes in reader.tags if "style" in attributes], (
        "the policy forbids it"
    )
    policy = dict(reader.tags[reader.tags.index(("head", {})) + 3][1])
    assert policy["content"] == page.CSP
    assert "script" not in page.CSP


def test_what_happened_is_told_with_its_times(store: Store, settings: Settings) -> None:
    store.open()
    events = [
        Event(1, "dead", "a", NOW - 200_000, NOW - 200_000, 1, 1, "400 bad"),
        Event(2, "down", "a", NOW - 90_000, NOW - 86_400, 1, 7, "503"),
        Event(3, "down", "a", NOW - 7200, None, 1, 7, "nobody listens there"),
    ]
    text = page_of(report_of(store, settings, NOW), events, [])
    said = read(text).said
    assert "to now (2 h)" in said
    assert "(1 h)" in said
    assert "Route a is down: nobody listens there; 7 spans wait." in said
    assert said.index("is down") < said.index("was down") < said.index("dead letters"), (
        "newest first"
    )
    assert text.count('<p class="bad">') == 1, "what lasts"


def test_the_charts_are_named_in_order_and_each_once(
    store: Store, settings: Settings, hours: list[Hour]
) -> None:
    store.open()
    reader = read(page_of(report_of(store, settings, NOW), [], hours))
    ids = [a["id"] for _, a in reader.tags if "id" in a]
    assert len(ids) == len(set(ids)) == 6
    assert [tag for tag, _ in reader.tags if re.fullmatch("h[1-6]", tag)] == [
        "h1", "h2", "h2", "h3", "h3", "h3", "h2",
    ]  # fmt: skip


def contrast(one: str, other: str) -> float:
    """Tell how two colours differ, as WCAG 2.2 has it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(p * w for p, w in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_the_colours_can_be_read_by_light_and_by_dark() -> None:
    schemes = re.findall(r":root \{(.*?)\}", page._STYLE, re.DOTALL)
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(re.findall(r"--([\w-]+): (#\w{6});", scheme))
        for ink in ("ink", "soft", "alarm"):
            assert contrast(colours[ink], colours["ground"]) >= 4.5, ink
        assert contrast(colours["ink"], colours["alarm-ground"]) >= 4.5
        assert contrast(colours["bar"], colours["ground"]) >= 2.5


def test_a_target_without_deliveries_says_never(store: Store, settings: Settings) -> None:
    store.append(Target.otlp("https://new.example/v1/traces", {}), batch("a"), NOW)
    assert "never" in read(page_of(report_of(store, settings, NOW), [], [])).said


def test_of_very_much_that_happened_the_newest_is_told(store: Store, settings: Settings) -> None:
    store.open()
    at = NOW - 10_000
    events = [Event(n, "down", "a", at + n, at + n + 0.5, 1, 0, f"no {n}") for n in range(2000)]
    said = read(page_of(report_of(store, settings, NOW), events, [])).said
    assert "no 1999" in said
    assert "no 1800" in said
    assert "no 1799" not in said
    assert "1,800 older" in said
