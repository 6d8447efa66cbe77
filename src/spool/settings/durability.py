"""Durability: what a span survives once `export()` has returned SUCCESS."""

from __future__ import annotations

from enum import Enum, auto


class Durability(Enum):
    """What takes no span that was accepted; a power cut includes the process's death."""

    PROCESS_DEATH = auto()  # it is written; a power cut takes at most the last sync interval's
    POWER_CUT = auto()  # it is fsynced, too: each append, and each commit
