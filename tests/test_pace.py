from __future__ import annotations

from spool.otlp import Batch
from spool.pace import Pace, Suspect
from spool.records import Row, Take


def take_of(spans: int, raw_bytes: int) -> Take:
    batch = Batch(b"", spans, raw_bytes)
    return Take(1, b"salt", 0, (Row(7, 1.0, batch),), (batch,))


def test_the_pace_rises_while_requests_are_fast_and_falls_when_one_times_out() -> None:
    pace = Pace(4 << 20)
    first = pace.bytes
    pace.rise(seconds=0.1, timeout=10)
    assert pace.bytes == 2 * first
    pace.rise(seconds=9, timeout=10)
    assert pace.bytes == 2 * first
    pace.fall(1000)
    assert pace.bytes == 500


def test_splitting_halves_the_spans_down_to_one() -> None:
    pace = Pace(4 << 20)
    pace.split(5)
    assert pace.spans == 2
    pace.split(1)
    assert pace.spans == 1


def test_a_suspect_is_proven_only_alone_and_only_while_others_are_delivered() -> None:
    suspect = Suspect(0, 0)
    for _ in range(100):
        suspect.narrow(take_of(2, 100))
    assert (suspect.last_id, suspect.spans, suspect.failures) == (7, 1, 0)
    for _ in range(100):
        suspect.narrow(take_of(1, 50))
    assert not suspect.is_proven
    suspect.proofs = 3
    assert suspect.is_proven
