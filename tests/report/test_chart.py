from __future__ import annotations

import xml.etree.ElementTree as ET
from datetime import datetime

import pytest

from spool.report import chart
from spool.store import history

pytestmark = pytest.mark.once

DAY, WEEK, MONTH = chart.PERIODS


def local(*month_and_so_on: int) -> datetime:
    return datetime(2026, *month_and_so_on)  # type: ignore[arg-type] # noqa: DTZ001 - local time


NOW = local(3, 4, 15, 20).timestamp()  # a Wednesday
HOUR = 3600.0


def hour(
    end_at: float, delivered: int = 0, waiting: int = 0, *, seconds: float = HOUR
) -> history.Hour:
    return history.Hour(end_at - seconds, end_at, 0, delivered, waiting, 0)


def delivered(bars: list[chart.Bar]) -> list[int]:
    return [bar.delivered for bar in bars if bar.delivered]


def drawn(period: chart.Period, bars: list[chart.Bar], *troubles: chart.Trouble) -> ET.Element:
    return ET.fromstring(chart.svg(period, bars, troubles))


def rects(svg: ET.Element, kind: str) -> list[ET.Element]:
    return [one for one in svg.iter("rect") if one.get("class") == kind]


@pytest.mark.parametrize(
    ("period", "first", "last"),
    [
        (DAY, local(3, 3, 16), local(3, 4, 15)),
        (WEEK, local(2, 25, 18), local(3, 4, 12)),
        (MONTH, local(2, 3), local(3, 4)),
    ],
)
def test_a_period_ends_with_the_bar_of_now(
    period: chart.Period, first: datetime, last: datetime
) -> None:
    bars = chart.bars_of(period, [], NOW)
    assert (bars[0].begin, bars[-1].begin, len(bars)) == (first, last, period.bars)


def test_what_was_delivered_stands_in_the_hour_before_it_was_counted() -> None:
    at = local(3, 4, 12).timestamp()
    bars = chart.bars_of(DAY, [hour(at, 300, seconds=9 * HOUR)], NOW)
    assert {bar.begin.hour: bar.delivered for bar in bars if bar.delivered} == {11: 300}


def test_what_was_delivered_in_an_hour_of_two_bars_is_shared_between_them() -> None:
    at = local(3, 4, 12, 15).timestamp()
    bars = chart.bars_of(DAY, [hour(at, 400)], NOW)
    assert {bar.begin.hour: bar.delivered for bar in bars if bar.delivered} == {11: 300, 12: 100}


def test_all_that_was_delivered_in_a_period_is_in_some_bar() -> None:
    hours = [hour(NOW - n * HOUR, 70) for n in range(50, -1, -1)]
    for period in (WEEK, MONTH):
        assert sum(delivered(chart.bars_of(period, hours, NOW))) == 51 * 70


def test_what_was_counted_in_no_time_is_there_too() -> None:
    assert delivered(chart.bars_of(DAY, [hour(NOW - 5, 7, seconds=0)], NOW)) == [7]
    assert delivered(chart.bars_of(DAY, [hour(NOW - 5, 7, seconds=-9)], NOW)) == [7]


def test_what_waited_goes_on_to_wait_until_somebody_counts_again() -> None:
    at = local(3, 4, 4, 30).timestamp()
    hours = [hour(at, waiting=5), hour(at + 4 * HOUR, waiting=0)]
    waited = {bar.begin.hour: bar.waited for bar in chart.bars_of(DAY, hours, NOW) if bar.waited}
    assert waited == {4: 5, 5: 5, 6: 5, 7: 5, 8: 5}


def test_what_waited_between_two_counts_is_known_by_its_trouble() -> None:
    trouble = chart.Trouble(NOW - 600, NOW - 300, 7)
    bars = chart.bars_of(DAY, [hour(NOW - HOUR), hour(NOW)], NOW, [trouble])
    assert [bar.waited for bar in bars if bar.waited] == [7]


def test_the_tallest_bar_is_as_tall_as_its_panel_and_nothing_has_none() -> None:
    hours = [hour(NOW - 3 * HOUR, 0, 1000), hour(NOW - HOUR, 0, 1), hour(NOW, 0, 0)]
    svg = drawn(DAY, chart.bars_of(DAY, hours, NOW))
    heights = [float(one.get("height", "0")) for one in rects(svg, "waited")]
    assert max(heights) == 62
    assert min(heights) >= 1.5, "a little is seen, too"
    assert rects(svg, "delivered") == []


def test_a_chart_says_what_it_shows_to_those_who_do_not_see_it() -> None:
    hours = [hour(NOW - 2 * HOUR, 0, 1), hour(NOW, 1230, 0)]
    svg = drawn(DAY, chart.bars_of(DAY, hours, NOW))
    labels = (svg.get("aria-labelledby") or "").split()
    said = [one.text for one in svg if one.get("id") in labels]
    assert said == ["Last day", "1,230 spans delivered; at most 1 span waited."]
    assert svg.get("role") == "img"
    assert "Wed 14:00: 820 delivered, at most 1 waited" in [t.text for t in svg.iter("title")]


def test_an_empty_chart_says_so() -> None:
    assert chart.in_words(chart.bars_of(WEEK, [], NOW)) == (
        "Nothing was delivered, and nothing waited."
    )


@pytest.mark.parametrize(
    ("begin", "end", "expected"),
    [
        (-5 * HOUR, -2 * HOUR, 1),
        (-1000 * HOUR, 0.0, 1),  # it began long before
        (-1000 * HOUR, -900 * HOUR, 0),
        (0.0, 900 * HOUR, 1),  # a clock that was ahead
        (0.66 * HOUR, 0.66 * HOUR, 1),  # the last moment
    ],
)
def test_a_time_of_trouble_is_marked_as_far_as_it_is_shown(
    begin: float, end: float, expected: int
) -> None:
    marks = rects(
        drawn(DAY, chart.bars_of(DAY, [], NOW), chart.Trouble(NOW + begin, NOW + end, 0)), "trouble"
    )
    assert len(marks) == expected
    for mark in marks:
        x, width = float(mark.get("x", "")), float(mark.get("width", ""))
        assert x >= 0
        assert x + width <= 300 + 0.1


def test_the_last_label_is_not_cut_off() -> None:
    for period in chart.PERIODS:
        svg = drawn(period, chart.bars_of(period, [], NOW))
        ticks = [one for one in svg.iter("text") if one.get("class") == "tick"]
        assert ticks
        assert all(float(one.get("x", "")) <= 300 - 36 for one in ticks)
