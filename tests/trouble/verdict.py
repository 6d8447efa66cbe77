"""A round of chaos before and after: what it is like, and whether what came of it is right."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from disks import can_mount
from ledgers import balances
from spool.store.records import Ledger
from trials import Trial
from writer import Trail

LIMIT_BYTES = 1 << 20

LIMITS = {
    "no limit": {},
    "drop-oldest": {"SPOOL_MAX_BYTES": str(LIMIT_BYTES)},
    "drop-newest": {"SPOOL_MAX_BYTES": str(LIMIT_BYTES), "SPOOL_WHEN_FULL": "drop-newest"},
}


@dataclass(frozen=True)
class Plan:
    """What a round is like, drawn from its seed."""

    seed: int
    limit: str
    sync_seconds: str
    has_small_disk: bool

    @classmethod
    def draw(cls, seed: int) -> Plan:
        chance = random.Random(seed)
        return cls(
            seed=seed,
            limit=chance.choice(list(LIMITS)),
            sync_seconds=chance.choice(["0", "0.1", "1"]),
            has_small_disk=chance.random() < 0.4 and can_mount(),
        )

    def __str__(self) -> str:
        disk = ", a disk that becomes full" if self.has_small_disk else ""
        return f"seed {self.seed}: {self.limit}, a sync each {self.sync_seconds} s{disk}"


@dataclass(frozen=True)
class Verdict:
    """What came of a round."""

    plan: Plan
    done: Mapping[str, int]
    ledger: Ledger
    trail: Trail
    finished: Trail
    arrived: Mapping[str, int]
    dead: set[str]
    repeated: int
    interruptions: int
    deaths: Mapping[int, int]
    errors: str
    evidence: str = ""

    @property
    def found(self) -> set[str]:
        return set(self.arrived) | self.dead

    @property
    def lost(self) -> int:
        """How many acknowledged spans are nowhere, and were not evicted either."""
        return max(0, len(self.trail.spooled - self.found) - self.ledger.evicted)

    @property
    def ended(self) -> int:
        """How many spans ended, by what the writers know.

        Of a killed process's spans that were not acknowledged they cannot know: the ledger's word
        counts there, as far as there are so many. On a small disk, too: what memory has sent is
        counted when the file takes that, and who ends while the disk is full cannot wait for it.
        """
        certain = self.trail.spooled
        if not self.plan.has_small_disk:
            certain = certain | (self.finished.begun & self.found)
        counted = self.ledger.accepted + self.ledger.refused
        return min(max(counted, len(certain)), len(self.trail.begun))

    def complaints(self) -> list[str]:
        """Say what is wrong; nothing must be."""
        ledger = self.ledger
        refused = self.finished.failed - self.found
        checks = {
            "the ledger does not balance": not balances(ledger),
            "spans are still pending": ledger.pending,
            "the file was damaged": ledger.damaged,
            "acknowledged spans are lost": self.lost,
            "spans are counted that never ended, or are not counted": self.ended
            != ledger.accepted + ledger.refused,
            "spans counted as delivered have not arrived": ledger.delivered > len(self.arrived),
            "a process that ended in order lost spans uncounted": not self.plan.has_small_disk
            and len(refused) > ledger.refused + ledger.evicted,
            "something was sent twice without need": not self.plan.has_small_disk
            and self.repeated > self.interruptions,
            "a process died of itself": self.deaths,
            "something was raised": "Traceback" in self.errors or "defect" in self.errors,
        }
        return [f"{said} ({value})" for said, value in checks.items() if value]

    def trial(self) -> Trial:
        return Trial(
            name="chaos",
            tried=sum(self.done.values()),
            ended=self.ended,
            accepted=self.ledger.accepted,
            refused=self.ledger.refused,
            in_memory=0,
            lost=self.lost,
            duplicates=sum(self.arrived.values()) - len(self.arrived),
        )
