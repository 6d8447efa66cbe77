"""The tables are what the migrations make, and what is drawn."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import struct
from pathlib import Path

import pytest

import spool.store
from spool.store.migrations import migrate
from spool.store.schema import VERSION
from spool.store.store import Store
from spool.store.version import has_sound_schema


def test_the_checksum_of_the_schema_is_that_of_what_the_migrations_make() -> None:
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as sqlite:
        assert not has_sound_schema(sqlite)
        migrate(sqlite)
        assert has_sound_schema(sqlite)
        sqlite.execute("DROP TRIGGER batch_in")
        assert not has_sound_schema(sqlite)


def drawn_columns(table: str) -> set[str]:
    """Give the names that a drawing of a table has at the left."""
    drawing = re.search(
        rf"^    {table}: .*\n((?: {{6}}.*\n)+)", spool.store.__doc__ or "", re.MULTILINE
    )
    assert drawing is not None
    named = re.findall(
        r"^ {6}(\w.*?)(?: +(?:BLOB|INTEGER|REAL|TEXT)\b.*)?$", drawing.group(1), re.MULTILINE
    )
    return set(re.findall(r"\w+", " ".join(named)))


@pytest.mark.parametrize(
    "table", ["meta", "route", "batch", "dead", "inbox", "mark", "event", "hour"]
)
def test_every_column_is_drawn_where_the_package_says_what_is_on_disk(
    store: Store, table: str
) -> None:
    store.open()
    with store.database.reading() as connection:
        columns = {name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")}
    shared = drawn_columns("batch") if table == "dead" else set()
    assert columns - shared <= drawn_columns(table) <= columns


def test_the_header_says_whose_a_file_is_and_of_which_version(store: Store, path: Path) -> None:
    store.open()
    store.close()
    header = path.read_bytes()[:100]
    assert header[68:72] == b"SPOL"
    assert struct.unpack_from(">I", header, 60) == (VERSION,)
    assert header[18:20] == bytes([2, 2])
    assert struct.unpack_from(">I", header, 52) != (0,)
    assert struct.unpack_from(">I", header, 64) == (1,)
