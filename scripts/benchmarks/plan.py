"""What all phases share: how much is measured, and programs that are run in turn."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.child import MissingError, run
from benchmarks.results import Samples

CALM_SECONDS = 5  # until what was left to do is done


@dataclass(frozen=True)
class Plan:
    """How much is measured, and where: files of the phases are made below `directory`."""

    rounds: int
    directory: Path
    spans: int = 4000
    rate: float = 2000  # a second; the stock processor's queue of 2,048 never fills at it
    seconds: float = 3
    packed: int = 500_000
    unpacked: int = 50_000
    puts: int = 5000
    failures: list[str] = field(default_factory=list)  # what went wrong meanwhile

    def path(self) -> str:
        """Name a fresh spool file, in a directory of its own."""
        return str(Path(tempfile.mkdtemp(dir=self.directory)) / "spool.db")

    def say(self, text: str) -> None:
        """Show how far it is."""
        print(f"  {text}", file=sys.stderr, flush=True)


# A program's results, by its name.
Program = Callable[[], dict[str, Any]]
Found = dict[str, list[dict[str, Any]]]


def in_turn(plan: Plan, programs: dict[str, Program]) -> tuple[Found, dict[str, str]]:
    """Run all programs once a round; give what they found, and why some did not run."""
    found: Found = {name: [] for name in programs}
    missing: dict[str, str] = {}
    for number in range(plan.rounds):
        for name, program in programs.items():
            if name in missing:
                continue
            plan.say(f"round {number + 1}: {name}")
            try:
                found[name].append(program())
            except MissingError as error:
                missing[name] = str(error)
            except RuntimeError as error:
                plan.failures.append(f"round {number + 1}, {name}: {error}")
    return found, missing


def samples(found: Found, name: str, key: str) -> Samples | None:
    values = tuple(float(result[key]) for result in found[name])
    return Samples(values) if values else None


def fill(path: str, endpoint: str, spans: int, *, is_packed: bool) -> dict[str, Any]:
    """Leave a backlog, in a process of its own; see `backlogs.fill`."""
    found: dict[str, Any] = run(
        "backlogs:fill", path=path, endpoint=endpoint, spans=spans, is_packed=is_packed
    )
    return found
