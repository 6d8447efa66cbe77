from __future__ import annotations

import pytest

from spool.store.records import Ledger
from verdict import Plan, Verdict
from writer import Trail


@pytest.mark.parametrize("has_small_disk", [False, True])
def test_only_where_a_disk_becomes_full_may_spans_arrive_uncounted(has_small_disk: bool) -> None:
    trail = Trail()
    trail.begun, trail.spooled, trail.failed = {"a", "b"}, {"a"}, {"b"}
    verdict = Verdict(
        plan=Plan(1, "no limit", "0", has_small_disk),
        done={},
        ledger=Ledger(accepted=1, delivered=1),
        trail=trail,
        finished=trail,
        arrived={"a": 1, "b": 1},
        dead=set(),
        repeated=0,
        interruptions=0,
        deaths={},
        errors="",
    )
    uncounted = "spans are counted that never ended, or are not counted (True)"
    assert verdict.complaints() == ([] if has_small_disk else [uncounted])
