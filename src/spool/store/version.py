"""Whose a file is, and of which version: asked before anything of it is changed."""

from __future__ import annotations

import contextlib
import sqlite3
import zlib
from typing import TYPE_CHECKING, Final

from spool.errors import SpoolFileError, SpoolNotMadeError
from spool.store.schema import APPLICATION_ID, CRC32, VERSION
from spool.store.sqlite import pragma
from spool.system import location, spool_files

if TYPE_CHECKING:
    from pathlib import Path

_SCHEMA: Final = """
    SELECT sql FROM sqlite_master
    WHERE tbl_name IN ('meta', 'route', 'batch', 'dead', 'inbox', 'mark', 'event', 'hour')
    AND sql <> ''
    ORDER BY name"""


def check_ours(path: Path) -> None:
    """Raise SpoolFileError unless what is at the path is ours, if anything is.

    Our lock file beside it says so, or its mark. No lock is taken and no WAL is read, so nothing is
    created beside another's file.
    """
    status = location.check(path)
    if status is not None and status.st_size and not spool_files.beside(path, ".lock").exists():
        _check_mark(path)


def _check_mark(path: Path) -> None:
    try:
        opened = sqlite3.Connection(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)
    except sqlite3.OperationalError as error:
        if not path.exists():  # it was moved away meanwhile
            return
        raise SpoolFileError(f"{path}: SQLite says: {error}") from error
    with contextlib.closing(opened) as sqlite:
        try:
            is_ours = pragma(sqlite, "application_id") == APPLICATION_ID
        except sqlite3.DatabaseError:
            is_ours = False
    if not is_ours:
        raise SpoolFileError(
            f"{path}: it is not a spool and was left untouched; set SPOOL_PATH to another file"
        )


def check(path: Path, sqlite: sqlite3.Connection) -> int:
    """Give the schema's version, 0 for a new file.

    Raises SpoolFileError for what is not ours, sqlite3.Error for damage.
    """
    application_id, version = pragma(sqlite, "application_id"), pragma(sqlite, "user_version")
    if application_id == 0 and version == 0 and _is_new(sqlite):
        return 0
    if application_id != APPLICATION_ID:
        raise SpoolFileError(
            f"{path}: it is another application's database and was left untouched; "
            "set SPOOL_PATH to another file"
        )
    if version // 100 > VERSION // 100:
        raise SpoolFileError(
            f"{path}: a newer langfuse-spool wrote it (schema {version}, this one knows "
            f"{VERSION}); upgrade langfuse-spool"
        )
    if version == VERSION and not has_sound_schema(sqlite):
        raise sqlite3.DatabaseError("the schema is damaged")
    return version


def check_made(path: Path, sqlite: sqlite3.Connection) -> None:
    """Check for a reader: raise SpoolNotMadeError while a file's first writer makes it."""
    sqlite.execute("BEGIN")
    if check(path, sqlite) == 0:
        raise SpoolNotMadeError(f"{path}: its first writer has not set it up yet; try again")
    sqlite.execute("ROLLBACK")


def is_current(version: int) -> bool:
    """Say whether a file of this version needs no migration."""
    return version >= VERSION


def has_sound_schema(sqlite: sqlite3.Connection) -> bool:
    """Say whether every word of our tables and triggers is what `schema` and `migrations` wrote."""
    words = sqlite.execute(_SCHEMA).fetchall()
    return zlib.crc32("\n".join(word for (word,) in words).encode()) == CRC32


def _is_new(sqlite: sqlite3.Connection) -> bool:
    """Say whether there are no tables but those of a migration that was cut short."""
    names = sqlite.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return all(name in ("_sqlite_migrations", "sqlite_sequence") for (name,) in names)
