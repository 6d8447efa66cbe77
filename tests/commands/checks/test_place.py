from __future__ import annotations

import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from owners import STRANGER, as_user, only_root
from spool.commands.checks import place
from spool.commands.checks.finding import Finding
from spool.settings.settings import Settings
from spool.store.store import Store
from spool.system import disk, location

pytestmark = pytest.mark.once


def examine(settings: Settings) -> dict[str, Finding]:
    return {finding.name: finding for finding in place.examine(settings)}


def test_what_is_not_there_yet_is_not_made(settings: Settings, path: Path) -> None:
    found = examine(settings)
    assert found["path"].is_well
    words = f"{path} is not there yet, nor is {path.parent}: the first program"
    assert found["path"].words.startswith(words)
    assert not path.parent.exists()


def test_a_spool_that_is_there_is_well(settings: Settings, store: Store) -> None:
    store.open()
    found = examine(settings)
    assert all(finding.is_well is not False for finding in found.values()), found
    assert "rw-------" in found["rights"].words


def test_rights_that_let_others_read_are_minded(
    settings: Settings, store: Store, path: Path
) -> None:
    store.open()
    path.chmod(0o644)
    found = examine(settings)["rights"]
    assert found.is_well is False
    assert found.remedy == f"chmod 600 {path}"


def test_a_file_that_is_not_ours_is_refused(settings: Settings, path: Path) -> None:
    path.parent.mkdir()
    sqlite3.connect(path).execute("CREATE TABLE t (x)").connection.close()
    found = examine(settings)["path"]
    assert "it is not a spool" in found.words
    assert found.remedy == "set SPOOL_PATH to another file"


@only_root
def test_a_directory_that_may_not_be_written_is_said_with_who_may_not(
    settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place_of_root = Path("/var/lib/langfuse-spool-test")
    with as_user(STRANGER):
        found = examine(replace(settings, path=place_of_root / "spool.db"))["path"]
    assert f"user {STRANGER} may not write /var/lib" in found.words
    assert not place_of_root.exists()


@pytest.mark.parametrize("is_there", [True, False])
def test_a_read_only_disk_is_named_and_not_the_rights(
    settings: Settings,
    store: Store,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_there: bool,
) -> None:
    path.parent.mkdir()
    if is_there:
        store.open()
        store.close()
    monkeypatch.setattr(disk, "free", lambda _: (1 << 30, True))
    found = examine(settings)["rights" if is_there else "path"]
    assert found.is_well is False
    assert "read-only" in found.words
    assert "mount" in found.remedy


def test_a_place_that_is_no_disk_is_named(settings: Settings) -> None:
    found = examine(replace(settings, path=Path("/proc/spool.db")))
    assert "it lies on proc" in found["filesystem"].words
    assert "room" not in found


@pytest.mark.parametrize(
    ("kind", "is_well"), [("nfs4", False), ("cifs", False), ("tmpfs", None), ("xfs", True)]
)
def test_the_filesystem_is_judged(
    kind: str, is_well: bool | None, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(location, "filesystem", lambda _: kind)
    found = examine(settings)["filesystem"]
    assert found.is_well is is_well
    assert kind in found.words


def test_a_disk_with_less_room_than_the_limit_is_minded(settings: Settings, path: Path) -> None:
    free = shutil.disk_usage("/").total * 2
    found = examine(replace(settings, max_bytes=free))["room"]
    assert found.is_well is False
    assert "set SPOOL_MAX_BYTES below" in found.remedy
    assert not path.parent.exists()


def test_the_wal_reset_bug_is_named_where_sqlite_has_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version, is_bad in [((3, 40, 1), True), ((3, 51, 2), True), ((3, 51, 3), False)]:
        monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
        found = examine(settings)["sqlite"]
        assert ("WAL-reset bug" in found.words) is is_bad
        assert found.is_well
