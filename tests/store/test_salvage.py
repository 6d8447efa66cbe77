"""What can be read of a damaged file is kept, and the rest is counted."""

from __future__ import annotations

import re
from pathlib import Path

from damaged_files import ROWS, damage_a_leaf, read_all, use
from spool.store.store import Store


def test_whatever_word_of_the_schema_is_damaged_every_row_is_kept(
    crashed: Path, tmp_path: Path
) -> None:
    store = Store(crashed / "spool.db")
    store.open()
    store.close()  # the WAL is in the main file now
    content = (crashed / "spool.db").read_bytes()
    words = [match.start() for match in re.finditer(rb"CREATE (TABLE|TRIGGER) ", content)]
    assert len(words) >= 10
    for position in words:
        for offset in (0, 9, 16, 40):
            directory = tmp_path / f"{position}-{offset}"
            directory.mkdir(mode=0o700)
            ruined = bytearray(content)
            ruined[position + offset] ^= 0x90
            (directory / "spool.db").write_bytes(ruined)
            (directory / "spool.db.lock").touch()
            store = use(directory / "spool.db")
            ledger = store.ledger()
            assert (ledger.accepted, ledger.damaged) == (ROWS + 1, 0), (position, offset)
            assert len(read_all(store)) == ledger.pending == ROWS - 8 + 1
            store.close()


def test_a_damaged_leaf_costs_its_own_rows_and_they_are_counted(crashed: Path) -> None:
    path = crashed / "spool.db"
    store = Store(path)
    store.open()
    store.close()  # the WAL is in the main file now
    damage_a_leaf(path)
    store = use(path)
    ledger = store.ledger()
    assert 0 < ledger.damaged < 20
    assert ledger.accepted == ROWS + 1
    assert ledger.accepted == ledger.delivered + ledger.dead + ledger.damaged + ledger.pending
    assert len(read_all(store)) == ledger.pending
    assert (ledger.delivered, ledger.dead) == (5, 3)
    store.close()
