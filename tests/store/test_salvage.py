"""What can be read of a damaged file is kept, and the rest is counted: a test a kind of damage."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from damaged_files import DEAD, DELIVERED, ROWS, damage_a_leaf, read_all, use
from spans import batch
from spool.journal.identity import Identity
from spool.store import rows
from spool.store.store import Store
from stores import assert_balanced, drop_history
from targets import MINE

PAGE = 4096
WAL_HEADER, FRAME = 32, 24 + PAGE
# What is pending, and then comes `use`'s own.
PENDING = ROWS - DELIVERED - DEAD + 1
IN_MAIN_FILE = ROWS // 2 + 1 + 1


class Damaged:
    """A file that is to be damaged, in one way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content = bytearray(path.read_bytes())

    def overwrite(self, start: int, count: int, value: int = 0xFF) -> None:
        self.content[start : start + count] = bytes([value]) * count
        self.path.write_bytes(self.content)

    def cut(self, size: int) -> None:
        self.path.write_bytes(self.content[:size])

    def page_with(self, content: bytes) -> int:
        return self.content.index(content) // PAGE * PAGE

    def execute(self, statement: str) -> None:
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as sqlite:
            sqlite.execute(statement)

    def overwrite_root(self, table: str) -> None:
        query = "SELECT rootpage FROM sqlite_master WHERE name = ?"
        with contextlib.closing(sqlite3.connect(self.path)) as sqlite:
            (number,) = sqlite.execute(query, (table,)).fetchone()
        self.overwrite((number - 1) * PAGE, PAGE, 0)


Kinds = dict[str, Callable[[Damaged], None]]

# Every row is kept, and what else can be.
NO_ROW_IS_HIT: Kinds = {
    "the header is overwritten": lambda file: file.overwrite(0, 100),
    "the page size is wrong": lambda file: file.overwrite(16, 2, 0x11),
    "the root page is overwritten": lambda file: file.overwrite(100, PAGE - 100),
    "the table meta has no root": lambda file: file.overwrite_root("meta"),
    "the salt is text": lambda file: file.execute("UPDATE meta SET salt = 'text'"),
    "meta has no row": lambda file: file.execute("DELETE FROM meta"),
    "the table of routes has no root": lambda file: file.overwrite_root("route"),
    "the table of dead letters has no root": lambda file: file.overwrite_root("dead"),
    "the table of journals has no root": lambda file: file.overwrite_root("inbox"),
    "the last page is cut off": lambda file: file.cut(len(file.content) - PAGE),
    "garbage follows the last page": lambda file: file.overwrite(len(file.content), 9 * PAGE),
}

# What is lost is counted: so many rows at the most.
ROWS_ARE_HIT: dict[str, tuple[int, Callable[[Damaged], None]]] = {
    "a leaf has no head": (8, lambda file: file.overwrite(file.page_with(b"x" * 500), 8)),
    "a page is full of zeros": (
        8,
        lambda file: file.overwrite(file.page_with(b"x" * 2000), PAGE, 0),
    ),
    "a byte of a payload is flipped": (
        1,
        lambda file: file.overwrite(file.content.index(b"x" * 500) + 250, 1),
    ),
    "it is cut in a page": (ROWS // 2, lambda file: file.cut(len(file.content) // 2 + 100)),
    "it is cut behind a page": (
        ROWS // 2,
        lambda file: file.cut(len(file.content) // 2 // PAGE * PAGE),
    ),
    "the table of rows has no root": (ROWS, lambda file: file.overwrite_root("batch")),
}

# What a power cut may leave, too: what is before it is as it was.
THE_WAL_IS_HIT: Kinds = {
    "its header is overwritten": lambda file: file.overwrite(0, WAL_HEADER),
    "a byte of its salt is flipped": lambda file: file.overwrite(17, 1, file.content[17] ^ 1),
    "a frame's header is overwritten": lambda file: file.overwrite(WAL_HEADER + 5 * FRAME, 24),
    "a byte of a frame's page is flipped": lambda file: file.overwrite(
        WAL_HEADER + 20 * FRAME + 100, 1, file.content[WAL_HEADER + 20 * FRAME + 100] ^ 1
    ),
    "it is cut in a frame": lambda file: file.cut(WAL_HEADER + 20 * FRAME + 1000),
    "it is cut behind a frame": lambda file: file.cut(WAL_HEADER + 20 * FRAME),
    "it is empty": lambda file: file.cut(0),
    "it is gone": lambda file: file.path.unlink(),
}


@pytest.mark.parametrize("kind", NO_ROW_IS_HIT)
def test_where_no_row_is_hit_every_row_is_kept(whole: Path, kind: str) -> None:
    NO_ROW_IS_HIT[kind](Damaged(whole))
    store = use(whole)
    ledger = store.ledger()
    assert len(read_all(store)) == ledger.pending == PENDING
    assert_balanced(store)
    # Dead letters may be hit; and of totals that are gone nothing can be told.
    assert ledger.dead + ledger.damaged == DEAD
    assert ledger.delivered == (0 if "routes" in kind else DELIVERED)
    store.close()


@pytest.mark.parametrize("kind", ROWS_ARE_HIT)
def test_where_rows_are_hit_all_others_are_kept_and_what_is_lost_is_counted(
    whole: Path, kind: str
) -> None:
    most, harm = ROWS_ARE_HIT[kind]
    harm(Damaged(whole))
    store = use(whole)
    ledger = store.ledger()
    kept = len(read_all(store))
    assert PENDING - most <= kept < PENDING
    assert_balanced(store)
    assert (ledger.accepted, ledger.delivered) == (ROWS + 1, DELIVERED)
    # A row whose payload alone is hit waits, to become a dead letter.
    assert ledger.pending - kept == ("payload" in kind)
    store.close()


@pytest.mark.parametrize("kind", THE_WAL_IS_HIT)
def test_where_the_wal_is_hit_what_is_before_it_is_kept(crashed: Path, kind: str) -> None:
    THE_WAL_IS_HIT[kind](Damaged(crashed / "spool.db-wal"))
    store = use(crashed / "spool.db")
    ledger = store.ledger()
    assert IN_MAIN_FILE <= len(read_all(store)) == ledger.pending < PENDING
    assert_balanced(store)
    store.close()


def test_garbage_behind_the_wal_costs_nothing(crashed: Path) -> None:
    wal = Damaged(crashed / "spool.db-wal")
    wal.overwrite(len(wal.content), 100)
    store = use(crashed / "spool.db")
    assert len(read_all(store)) == store.ledger().pending == PENDING
    store.close()


def test_whatever_word_of_the_schema_is_damaged_every_row_is_kept(
    whole: Path, tmp_path: Path
) -> None:
    content = whole.read_bytes()
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
            assert len(read_all(store)) == ledger.pending == PENDING
            store.close()


def test_a_damaged_schema_that_came_by_migration_costs_no_row(store: Store, path: Path) -> None:
    store.open()
    store.close()
    with contextlib.closing(sqlite3.connect(path)) as older:
        drop_history(older)
        older.commit()
        older.executescript("PRAGMA incremental_vacuum")
        for number in range(ROWS):
            rows.append(older, Identity.of(MINE), batch(f"s{number}", size=500), float(number))
        older.commit()
    use(path).close()
    Damaged(path).overwrite(100, PAGE - 100)
    salvaged = use(path)
    ledger = salvaged.ledger()
    assert (ledger.accepted, ledger.damaged) == (ROWS + 2, 0)
    assert len(read_all(salvaged)) == ledger.pending == ROWS + 2
    salvaged.close()


def test_a_damaged_leaf_costs_its_own_rows_and_they_are_counted(whole: Path) -> None:
    damage_a_leaf(whole)
    store = use(whole)
    ledger = store.ledger()
    assert 0 < ledger.damaged < 20
    assert ledger.accepted == ROWS + 1
    assert_balanced(store)
    assert len(read_all(store)) == ledger.pending
    assert (ledger.delivered, ledger.dead) == (DELIVERED, DEAD)
    store.close()
