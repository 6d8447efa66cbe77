"""The phases in which several processes write to one file."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from benchmarks.child import Child, environment, results, run, start_together
from benchmarks.plan import Plan, in_turn, samples
from benchmarks.receiver import Receiver
from benchmarks.results import Row

if TYPE_CHECKING:
    from benchmarks.plan import Program

_PROCESSES = 8
_SHARE = 0.7


def writers(plan: Plan) -> list[Row]:
    """Eight processes append single spans to one file, and one more drains it."""
    with Receiver(environment(), keeps=False) as receiver:

        def measure() -> dict[str, Any]:
            most = _append_together(plan, receiver.endpoint, rate=0)["per_second"]
            each = _append_together(plan, receiver.endpoint, _SHARE * most / _PROCESSES)
            return {**each, "most": most}

        found, _ = in_turn(plan, {"ours": measure})
    phase = "Eight processes append at 70 % of what they can, one drains"
    most = samples(found, "ours", "most")
    refused = sum(result["refused"] for result in found["ours"])
    note = (
        f"As fast as they can, together: {most} spans/s. Durable: kill -9 takes nothing, a power "
        f"cut the last second. The file refused {refused:.0f} appends for the moment (they are "
        "held in memory)."
    )
    measured = [
        ("append, p50", "ms", "p50", None, False),
        ("append, p99", "ms", "p99", 5.0, False),
        ("append, worst", "ms", "worst", 100.0, False),
        ("slowest process to the mean", "share", "fairness", 0.5, True),
        ("of the rate that was asked for", "share", "kept", None, True),
    ]
    return [
        Row(
            phase,
            what,
            unit,
            samples(found, "ours", key),
            limit=limit,
            more_is_better=more,
            note=note,
        )
        for what, unit, key, limit, more in measured
    ]


def _append_together(plan: Plan, endpoint: str, rate: float) -> dict[str, Any]:
    arguments = {"path": plan.path(), "endpoint": endpoint, "seconds": plan.seconds}
    drainer = Child("backlogs:drain_for", **arguments)
    writers = [Child("backlogs:append_for", **arguments, rate=rate) for _ in range(_PROCESSES)]
    start_together([drainer, *writers])
    _, *found = results([drainer, *writers])
    times = [time for result in found for time in result["times"]]
    rates = [result["per_second"] for result in found]
    return {
        "per_second": sum(rates),
        "kept": sum(rates) / (rate * _PROCESSES) if rate else 1.0,
        "fairness": min(rates) / statistics.mean(rates),
        "p50": statistics.median(times),
        "p99": statistics.quantiles(times, n=100)[98],
        "worst": max(times),
        "refused": sum(result["refused"] for result in found),
    }


def scaling(plan: Plan) -> list[Row]:
    """Eight processes against one, without a drain: whole applications, and the store alone."""
    with Receiver(environment(), keeps=False) as receiver:
        programs = {
            f"{what}, {count}": _together(plan, receiver.endpoint, what, count)
            for what in ("spans ended", "store alone")
            for count in (_PROCESSES, 1)
        }
        found, _ = in_turn(plan, programs)
    missing = sum(result["missing"] for each in found.values() for result in each)
    note = f"{missing} spans were not spooled: the file was too busy." if missing else ""
    return [
        Row(
            "Eight processes against one, as fast as they can, no drain",
            f"{what}: eight",
            "spans/s",
            samples(found, f"{what}, {_PROCESSES}", "per_second"),
            "one",
            samples(found, f"{what}, 1", "per_second"),
            limit,
            more_is_better=True,
            durable="Durable: kill -9 takes nothing, a power cut the last second.",
            note=note,
        )
        for what, limit in (("spans ended", 1.3), ("store alone", None))
    ]


def _together(plan: Plan, endpoint: str, what: str, count: int) -> Program:
    def measure() -> dict[str, Any]:
        path = plan.path()
        arguments = {"path": path, "endpoint": endpoint, "seconds": plan.seconds}
        if what == "store alone":
            children = [Child("backlogs:append_for", **arguments, rate=0) for _ in range(count)]
        else:
            children = [Child("pipelines:flat_out", **arguments) for _ in range(count)]
        start_together(children)
        each = results(children)
        ended = sum(result.get("ended", len(result.get("times", ()))) for result in each)
        return {
            "per_second": sum(result["per_second"] for result in each),
            "missing": ended - run("backlogs:accepted", path=path),
        }

    return measure
