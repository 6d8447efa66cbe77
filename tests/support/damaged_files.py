"""A spool that a crash has left, and the damage that disks and people do to its files."""

from __future__ import annotations

import random
from pathlib import Path

from spans import batch
from spool.store.store import Store
from targets import MINE, OTHERS

ROWS = 200


def fill(store: Store) -> None:
    """Hold 200 pending spans of two routes and three dead ones, part of it in the WAL."""
    for number in range(ROWS):
        target = OTHERS if number % 4 == 0 else MINE
        store.append(target, batch(f"s{number}", size=number * 20), now=float(number))
        if number == ROWS // 2:
            store.database.checkpoint()
    take = store.oldest(1, max_bytes=1 << 20, max_spans=8)
    assert take is not None
    store.settle(take, now=1.0, dead=3, reason="400 no")


def damage(directory: Path, chance: random.Random) -> None:
    """Flip bytes of the main file or the WAL, or cut one off."""
    name = chance.choice(["spool.db", "spool.db-wal"])
    file = directory / name
    content = bytearray(file.read_bytes())
    if chance.random() < 0.2:
        # An empty main file is a new one, which is no damage.
        content = content[: chance.randrange(1 if name == "spool.db" else 0, len(content))]
    else:
        for _ in range(chance.choice([1, 3, 50])):
            # The first 100 bytes say whose file it is: another test's matter.
            position = chance.randrange(100 if name == "spool.db" else 0, len(content))
            content[position] ^= 1 << chance.randrange(8)
    file.write_bytes(content)
