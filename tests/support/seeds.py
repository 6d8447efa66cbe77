"""Chance that can be repeated: `TEST_SEED=N` before a command runs a test again as it went."""

from __future__ import annotations

import os
import random


def seed() -> int:
    """Draw a seed, or take the one to repeat; it is printed with a failure."""
    drawn = int(os.environ.get("TEST_SEED", random.randrange(1 << 32)))
    print(f"TEST_SEED={drawn}")
    return drawn
