"""Numbers as people read them."""

from __future__ import annotations

import re

import pytest

from spool.system.words import clock_of, count_of, duration_of, few_of, share_of, size_of, user_of

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("number", "thing", "said"),
    [
        (0, "span", "0 spans"),
        (1, "span", "1 span"),
        (12000, "dead letter", "12,000 dead letters"),
        (2, "batch", "2 batches"),
        (2, "retry", "2 retries"),
    ],
)
def test_a_count_has_the_right_plural(number: int, thing: str, said: str) -> None:
    assert count_of(number, thing) == said


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1,023 bytes"),
        (1024, "1.0 KiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (3.2 * (1 << 20), "3.2 MiB"),
        (1 << 30, "1.0 GiB"),
        (5 << 50, "5120.0 TiB"),
    ],
)
def test_a_size_has_a_unit_of_its_scale(size: float, said: str) -> None:
    assert size_of(size) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-1, "0.0 s"),
        (0.44, "0.4 s"),
        (1, "1 s"),
        (59.7, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (3661, "1 h 1 min"),
        (3601, "1 h"),
        (12 * 86400 + 4 * 3600 + 59, "12 d 4 h"),
    ],
)
def test_a_duration_is_said_in_its_two_largest_units(seconds: float, said: str) -> None:
    assert duration_of(seconds) == said


@pytest.mark.parametrize(
    ("part", "whole", "said"),
    [(0, 0, "0 %"), (0, 5, "0 %"), (1, 5000, "under 0.1 %"), (3, 1000, "0.3 %"), (1, 2, "50 %")],
)
def test_a_share(part: float, whole: float, said: str) -> None:
    assert share_of(part, whole) == said


def test_a_time_of_a_clock() -> None:
    assert re.fullmatch(r"\d\d:\d\d:\d\d", clock_of(1_700_000_000.0, 1_700_000_000.0))
    assert re.fullmatch(r"2023-11-1\d \d\d:\d\d", clock_of(1_700_000_000.0, 1_800_000_000.0))
    assert clock_of(1e300) == "a time that is in no calendar"


def test_a_user_is_named_with_the_number_if_it_has_a_name() -> None:
    assert user_of(0) == "user root (0)"
    assert user_of(3_999_999) == "user 3999999"


@pytest.mark.parametrize(
    ("names", "said"), [([], ""), (["a"], "a"), ([*"abc"], "a, b, c"), ([*"abcd"], "a, b, c, …")]
)
def test_of_many_names_a_few_are_said(names: list[str], said: str) -> None:
    assert few_of(names) == said
