"""What was tried against the spool, and what came of it: the rows of the table in tests/README.md.

A test of trouble runs small in the suite and large with `--full`, and reports one `Trial`. All
that were reported are printed at the end of the run, those of one name as one row.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from functools import reduce


@dataclass(frozen=True)
class Trial:
    """One kind of trouble: how often it was tried, and where the spans are that had ended.

    `ended` is what the producers counted, without a look at the spool; the three beside it are the
    spool's own ledger. `lost` were acknowledged and are nowhere, `duplicates` arrived once too
    often.
    """

    name: str
    tried: int
    ended: int
    accepted: int
    refused: int
    in_memory: int
    lost: int
    duplicates: int

    def __add__(self, other: Trial) -> Trial:
        """Add the figures of another trial of the same trouble."""
        sums = (a + b for a, b in zip(astuple(self)[1:], astuple(other)[1:], strict=True))
        return Trial(self.name, *sums)

    @staticmethod
    def total(trials: Iterable[Trial]) -> Trial:
        """Add up the figures of some trials of the same trouble."""
        return reduce(operator.add, trials)

    def check(self) -> None:
        """Nothing is lost, and nothing that ended is uncounted."""
        assert self.lost == 0, self
        assert self.ended == self.accepted + self.refused + self.in_memory, self

    @staticmethod
    def table(trials: list[Trial]) -> str:
        """Give the rows in Markdown."""
        names = list(Trial.__annotations__)
        lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
        lines += [
            "| " + " | ".join(_text(getattr(trial, name)) for name in names) + " |"
            for trial in trials
        ]
        return "\n".join(lines)


def _text(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
