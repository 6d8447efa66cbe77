"""Measure this project against what people would use; `scripts/bench` makes the environment.

Every phase runs ours and the peers in turn, each in a fresh process, against a receiver in another
one. Printed are medians with the smallest and the largest of several rounds, as Markdown.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.application_phases import cpu, end, idle, memory
from benchmarks.plan import Plan
from benchmarks.process_phases import scaling, writers
from benchmarks.results import Row, machine, table, write_json, write_plot
from benchmarks.store_phases import backlog, disk, drain, stores

PHASES = {
    "cpu": cpu,
    "end": end,
    "memory": memory,
    "idle": idle,
    "writers": writers,
    "scaling": scaling,
    "stores": stores,
    "drain": drain,
    "disk": disk,
    "backlog": backlog,
}


def main() -> int:
    """Measure, and say whether every target that was measured is met: 0, or 1."""
    options = _options()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        plan = _plan(options, Path(directory))
        for name in options.only or PHASES:
            print(f"{name} ...", file=sys.stderr, flush=True)
            rows += PHASES[name](plan)
    print("\n".join(f"- {what}: {which}" for what, which in machine().items()))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"- load at the end: {load}\n- rounds: {plan.rounds}\n\n{table(rows)}")
    if options.json:
        write_json(options.json, rows)
    if options.plot:
        write_plot(options.plot, rows)
    missed = [row for row in rows if row.is_met is False]
    behind = [row for row in rows if row.is_ahead is False and row.limit is None]
    print(f"{len(missed)} targets missed; behind in {len(behind)} more comparisons")
    print("".join(f"FAILED: {failure}\n" for failure in plan.failures), end="")
    return bool(missed or plan.failures)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(PHASES), metavar="PHASE", help=_PHASES)
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="one round, little of everything")
    size.add_argument("--large", action="store_true", help="10 million packed, 1 million single")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the ratios there")
    parser.add_argument("--directory", type=Path, help="for the spools; default: a temporary one")
    return parser.parse_args()


def _plan(options: argparse.Namespace, directory: Path) -> Plan:
    plan = Plan(options.rounds, directory)
    if options.quick:
        return dataclasses.replace(
            plan, rounds=1, spans=1000, seconds=1, puts=500, packed=20_000, unpacked=10_000
        )
    if options.large:
        return dataclasses.replace(plan, packed=10_000_000, unpacked=1_000_000)
    return plan


_PHASES = f"only these phases: {', '.join(PHASES)}"

if __name__ == "__main__":
    sys.exit(main())
