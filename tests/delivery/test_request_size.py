from __future__ import annotations

import pytest

from spool.delivery.request_size import RequestSize

pytestmark = pytest.mark.once


def test_it_grows_while_requests_are_fast_and_shrinks_when_one_times_out() -> None:
    size = RequestSize(4 << 20)
    first = size.bytes
    size.rise(seconds=0.1, timeout=10)
    assert size.bytes == 2 * first
    size.rise(seconds=9, timeout=10)
    assert size.bytes == 2 * first
    size.fall(1000)
    assert size.bytes == 500


def test_refusals_halve_the_spans_down_to_one() -> None:
    size = RequestSize(4 << 20)
    size.refuse(5, 1000, is_too_large=False)
    assert size.spans == 2
    size.refuse(1, 200, is_too_large=False)
    assert size.spans == 1


def requests_to(size: RequestSize, limit: int, count: int) -> list[bool]:
    """Send so many requests to a receiver that takes so many bytes; say which it refused."""
    refused = []
    for _ in range(count):
        refused.append(size.bytes > limit)
        if refused[-1]:
            size.refuse(1000, size.bytes, is_too_large=True)
        else:
            size.rise(seconds=0.1, timeout=10)
    return refused


@pytest.mark.parametrize("limit", [1_000_000, 100_000, 3_000_000])
def test_a_limit_of_the_receiver_is_remembered_and_rarely_gone_above(limit: int) -> None:
    size = RequestSize(4 << 20)
    assert sum(requests_to(size, limit, 1000)) < 40
    assert limit / 2 < size.bytes <= limit


def test_a_limit_that_is_raised_is_found_in_the_end() -> None:
    size = RequestSize(4 << 20)
    requests_to(size, 1_000_000, 100)
    assert not any(requests_to(size, 4 << 20, 1500))
    assert size.bytes == 4 << 20


def test_one_span_that_is_too_large_limits_no_others() -> None:
    size = RequestSize(4 << 20)
    size.refuse(1, 10_000, is_too_large=True)
    size.rise(seconds=0.1, timeout=10)
    assert size.bytes == 4 << 20
