from __future__ import annotations

import pytest

from spool.delivery.request_size import RequestSize


def test_the_pace_rises_while_requests_are_fast_and_falls_when_one_times_out() -> None:
    pace = RequestSize(4 << 20)
    first = pace.bytes
    pace.rise(seconds=0.1, timeout=10)
    assert pace.bytes == 2 * first
    pace.rise(seconds=9, timeout=10)
    assert pace.bytes == 2 * first
    pace.fall(1000)
    assert pace.bytes == 500


def test_refusals_halve_the_spans_down_to_one() -> None:
    pace = RequestSize(4 << 20)
    pace.refuse(5, 1000, is_too_large=False)
    assert pace.spans == 2
    pace.refuse(1, 200, is_too_large=False)
    assert pace.spans == 1


def requests_to(pace: RequestSize, limit: int, count: int) -> list[bool]:
    """Send so many requests to a receiver that takes so many bytes; say which it refused."""
    refused = []
    for _ in range(count):
        refused.append(pace.bytes > limit)
        if refused[-1]:
            pace.refuse(1000, pace.bytes, is_too_large=True)
        else:
            pace.rise(seconds=0.1, timeout=10)
    return refused


@pytest.mark.parametrize("limit", [1_000_000, 100_000, 3_000_000])
def test_a_limit_of_the_receiver_is_remembered_and_rarely_gone_above(limit: int) -> None:
    pace = RequestSize(4 << 20)
    assert sum(requests_to(pace, limit, 1000)) < 40
    assert limit / 2 < pace.bytes <= limit


def test_a_limit_that_is_raised_is_found_in_the_end() -> None:
    pace = RequestSize(4 << 20)
    requests_to(pace, 1_000_000, 100)
    assert not any(requests_to(pace, 4 << 20, 1500))
    assert pace.bytes == 4 << 20


def test_one_span_that_is_too_large_limits_no_others() -> None:
    pace = RequestSize(4 << 20)
    pace.refuse(1, 10_000, is_too_large=True)
    pace.rise(seconds=0.1, timeout=10)
    assert pace.bytes == 4 << 20
