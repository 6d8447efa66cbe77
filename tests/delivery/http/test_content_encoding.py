from __future__ import annotations

import pytest

from spool.delivery.http.classification import Outcome, Verdict
from spool.delivery.http.content_encoding import ContentEncoding

NOW = 1_700_000_000.0


def said(status: int) -> Outcome:
    verdict = Verdict.DELIVERED if status == 200 else Verdict.WAIT
    return Outcome(verdict, status=status)


@pytest.mark.parametrize("refused", [400, 415])
@pytest.mark.parametrize("plain", [200, 400, 413, 415, 503, 0])
def test_gzip_is_given_up_where_the_same_spans_are_read_without_it(
    refused: int, plain: int
) -> None:
    encoding = ContentEncoding(is_gzip=True)
    assert encoding.is_doubtful(said(refused), 9, NOW)
    encoding.learn(said(refused), said(plain), NOW)
    is_read = plain == 200 or (refused == 415 and plain in (400, 413, 503))
    assert encoding.is_gzip is not is_read


@pytest.mark.parametrize("status", [0, 200, 401, 404, 413, 422, 500, 503])
def test_what_does_not_speak_of_the_body_is_no_reason_to_doubt(status: int) -> None:
    assert not ContentEncoding(is_gzip=True).is_doubtful(said(status), 1, NOW)


def test_who_has_accepted_gzip_is_not_doubted_any_more() -> None:
    encoding = ContentEncoding(is_gzip=True)
    encoding.accept()
    assert not encoding.is_doubtful(said(400), 1, NOW)


def test_where_nothing_is_compressed_nothing_is_doubted() -> None:
    assert not ContentEncoding(is_gzip=False).is_doubtful(said(415), 1, NOW)


def test_who_refuses_everything_gets_few_requests_twice_and_later_one_now_and_then() -> None:
    encoding = ContentEncoding(is_gzip=True)
    tries = []
    for minute in range(100):
        for spans in (9, 1):
            now = NOW + 60 * minute
            if encoding.is_doubtful(said(400), spans, now):
                tries.append((minute, spans))
                encoding.learn(said(400), said(400), now)
    assert tries[:5] == [(0, 9), (0, 1), (1, 1), (2, 1), (3, 1)]
    assert tries[5:] == [(minute, 1) for minute in range(8, 100, 5)]


def test_an_answer_that_says_nothing_of_the_body_costs_no_patience() -> None:
    encoding = ContentEncoding(is_gzip=True)
    for _ in range(20):
        assert encoding.is_doubtful(said(400), 9, NOW)
        encoding.learn(said(400), said(503), NOW)
    encoding.learn(said(400), said(200), NOW)
    assert not encoding.is_gzip
