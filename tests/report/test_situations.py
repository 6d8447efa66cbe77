from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from made_reports import NOW, WELL, report
from spool.delivery.route_state import RouteState
from spool.report import situations
from spool.report.concerns import Concern
from spool.report.report import Report
from spool.store.records import Route

pytestmark = pytest.mark.once

FAILING = replace(
    WELL, endpoint="https://a.example/v1/traces", pending_spans=1, pending_bytes=10, attempts=1,
    waited_at=NOW, wait_seconds=60.0, cause="server", last_error="503", oldest_at=NOW - 7200,
    failing_since=NOW - 60, last_success_at=None,
)  # fmt: skip


def routes(number: int, like: Route = FAILING, owner: str = "many") -> list[Route]:
    return [replace(like, name=f"pk-lf-{owner}-{n}", pending_spans=n + 1) for n in range(number)]


def waiting(*many: Route) -> Report:
    return report(*many, state=RouteState.WAITING)


def test_few_routes_stand_each_for_itself_in_their_order() -> None:
    found = waiting(*routes(situations.FEW))
    assert situations.of_facts(found) == situations.each(found)
    assert [one.whole for one in situations.each(found)] == list(found.routes)
    assert situations.summed(found.concerns(), situations.each(found)) == [
        str(one) for one in found.concerns()
    ]


def test_many_that_stand_alike_are_one_with_their_sums_and_times() -> None:
    many = routes(11)
    many[3] = replace(many[3], oldest_at=NOW - 9000, failing_since=NOW - 500, wait_seconds=5.0)
    many[5] = replace(many[5], attempts=4)
    many[4] = replace(many[4], last_success_at=NOW - 600, last_error="502")
    (found,) = situations.of_facts(waiting(*many))
    assert (len(found.routes), found.state) == (11, RouteState.WAITING)
    assert found.names == "pk-lf-many-10, pk-lf-many-9, pk-lf-many-8, …"
    whole = found.whole
    assert (whole.pending_spans, whole.pending_bytes, whole.attempts) == (66, 110, 4)
    assert (whole.oldest_at, whole.failing_since) == (NOW - 9000, NOW - 500)
    assert (whole.wait_seconds, whole.last_success_at) == (5.0, NOW - 600)


@pytest.mark.parametrize(
    "other",
    [{"cause": "no-answer"}, {"endpoint": "https://b.example/v1/traces"}, {"suspect_to": 7}],
    ids=["cause", "host", "suspects"],
)
def test_another_host_or_cause_is_another_situation(other: dict[str, Any]) -> None:
    apart = replace(FAILING, name="pk-lf-other", **other)
    found = situations.of_facts(waiting(*routes(11), apart))
    assert [len(one.routes) for one in found] == [11, 1]
    assert found[1].whole == apart


def test_paths_of_one_host_are_one_situation_that_names_the_host() -> None:
    many = [replace(one, endpoint=f"https://a.example/{one.name}") for one in routes(11)]
    (found,) = situations.of_facts(waiting(*many))
    assert found.whole.endpoint == "https://a.example"


def test_who_needs_somebody_comes_first_and_who_is_idle_last() -> None:
    held = replace(FAILING, name="pk-lf-held", fingerprints=("f",), held_at=NOW, cause="keys")
    found = waiting(WELL, *routes(11), held)
    states = (RouteState.OK, *[RouteState.WAITING] * 11, RouteState.HELD)
    found = replace(found, states=states)
    assert [one.state for one in situations.of_facts(found)] == [
        RouteState.HELD, RouteState.WAITING, RouteState.OK,
    ]  # fmt: skip


def test_concerns_of_routes_that_stand_alike_are_one_line_and_all_with_the_others() -> None:
    found = waiting(*routes(3000))
    said = found.concerns()
    said.append(Concern("disk-full", "the disk is full", "make room"))
    said.append(Concern("disk-full", "the disk is full", "make room"))
    lines = situations.summed(said, situations.of_facts(found))
    assert len(lines) == 3
    assert lines[0].startswith("route pk-lf-many-2999: nothing was delivered for 2 h, and older ")
    assert lines[0].endswith(" — and 2,999 more routes like it (-v)")
    assert lines[1:] == ["the disk is full; make room"] * 2
    assert len(situations.summed(said, situations.each(found), is_all=True)) == 3002


def test_concerns_of_many_hosts_are_a_few_lines() -> None:
    many = [replace(one, endpoint=f"https://{one.name}") for one in routes(30)]
    found = waiting(*many)
    lines = situations.summed(found.concerns(), situations.of_facts(found))
    assert len(lines) == situations.FEW + 1
    assert lines[0].startswith("route pk-lf-many-29: ")
    assert lines[-1] == "20 more routes of other kinds need you (-v)"
