"""A spool that a crash has left, and the damage that disks and people do to its files."""

from __future__ import annotations

import os
import random
import struct
import time
from pathlib import Path

from spans import batch, span
from spool import Settings, SpoolSpanExporter
from spool.errors import SpoolDamagedError
from spool.store import takeover
from spool.store.store import Store
from targets import MINE, OTHERS

ROWS = 200
# Of these, in spans.
DELIVERED, DEAD = 5, 3


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


def ruin_root_page(path: Path) -> bytes:
    """Overwrite all but the header of the first page, and take the WAL away; give the file."""
    content = bytearray(path.read_bytes())
    content[100:4096] = os.urandom(3996)
    path.write_bytes(content)
    path.with_name("spool.db-wal").unlink()
    return bytes(content)


def damage_a_leaf(path: Path) -> None:
    """Overwrite the head of a page of the main file that holds rows, the WAL being empty."""
    content = bytearray(path.read_bytes())
    (size,) = struct.unpack_from(">H", content, 16)
    page = content.find(b"x" * 500) // size
    content[page * size : page * size + 8] = b"\xff" * 8
    with path.open("r+b") as file:
        file.write(content)


def damage_the_routes(store: Store) -> None:
    """Overwrite the page of the main file that holds the routes, the WAL being empty."""
    with store.database.reading() as connection:
        number = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'route'")
        page = int(number.fetchone()[0]) - 1
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    store.close()
    with store.database.path.open("r+b") as file:
        file.seek(page * size)
        file.write(os.urandom(size))


def use(path: Path) -> Store:
    """Do with a file what an application does: open, append, read; then give its store."""
    exporter = SpoolSpanExporter(settings=Settings(path=path, target=MINE, drain=False))
    exporter.export([span("after the damage")])
    deadline = time.monotonic() + 30
    while exporter._pipeline.overflow:
        assert time.monotonic() < deadline, "the overflow never reached the file"
        time.sleep(0.005)
    exporter.shutdown()
    store = Store(path)
    for _ in range(2):  # what only reading finds is salvaged by the next writer
        try:
            # What ended while the file was being salvaged may wait in the journal.
            takeover.take_over_all(store, compress=False, sending=1.0)
            read_all(store)
            store.ledger()
        except SpoolDamagedError:
            store.open()
    return store


def read_all(store: Store) -> list[int]:
    """Read every row that waits; give the ids."""
    ids, after = [], 0
    while rows := store.pending(after):
        ids += [row.id for row in rows if row.is_sound]
        after = rows[-1].id
    store.dead_letters()
    return ids
