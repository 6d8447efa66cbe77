from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from owners import STRANGER, as_user, mode, names, only_root, umask
from spool.errors import SpoolFileError, SpoolStrangerError
from spool.system import spool_files
from spool.system.location import check, prepare
from spool.system.spool_files import beside, create


@pytest.mark.parametrize("mask", [0, 0o177, 0o777])
def test_a_directory_that_is_missing_is_made_for_its_owner_alone(tmp_path: Path, mask: int) -> None:
    tmp_path.chmod(0o755)
    with umask(mask):
        prepare(tmp_path / "a" / "b" / "spool.db")
    assert mode(tmp_path / "a") == mode(tmp_path / "a" / "b") == 0o700
    assert mode(tmp_path) == 0o755
    assert names(tmp_path / "a" / "b") == []


def test_what_is_there_and_ours_is_described_and_what_is_not_there_is_none(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    assert check(path) is None
    path.write_bytes(b"123")
    status = check(path)
    assert status is not None
    assert status.st_size == 3


def test_parents_of_what_is_made_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(spool_files, "sync_directory", synced.append)
    prepare(tmp_path / "a" / "b" / "spool.db")
    assert synced == [tmp_path, tmp_path / "a"]
    prepare(tmp_path / "a" / "b" / "spool.db")
    assert len(synced) == 2


def assert_refused(path: Path, words: str) -> None:
    """The error names the path and the way out, and nothing was made or changed."""
    before = names(path.parent) if path.parent.is_dir() else None
    with pytest.raises(SpoolFileError) as caught:
        prepare(path)
    said = str(caught.value)
    assert any(said.startswith(f"{where}: ") for where in (path, *path.parents))
    assert words in said
    assert "SPOOL_PATH" in said
    assert "\n" not in said
    assert (names(path.parent) if path.parent.is_dir() else None) == before


@pytest.mark.parametrize("exists", [True, False])
def test_a_symlink_is_refused_and_what_it_names_is_untouched(tmp_path: Path, exists: bool) -> None:
    real = tmp_path / "real" / "victim"
    real.parent.mkdir()
    if exists:
        real.write_text("mine")
    link = tmp_path / "spool.db"
    link.symlink_to(real)
    assert_refused(link, "symlink")
    with pytest.raises(SpoolStrangerError, match=f"^{link}: it is a symlink; remove it$"):
        create(link, link)
    assert real.exists() == exists
    assert not exists or real.read_text() == "mine"


def test_a_directory_behind_a_symlink_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    prepare(tmp_path / "link" / "spool.db")


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    assert_refused(tmp_path / "directory", "not a regular file")
    assert_refused(tmp_path / "fifo", "not a regular file")


def test_a_file_where_the_directory_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert_refused(tmp_path / "file" / "spool.db", "not a directory")
    assert_refused(tmp_path / "file" / "below" / "spool.db", "not a directory")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_dangling_symlink_where_the_directory_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert_refused(tmp_path / "link" / "spool.db", "cannot be used as the spool")
    assert not (tmp_path / "nowhere").exists()


def test_a_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / ("x" * 300), "cannot be used as the spool")


@only_root
def test_a_file_of_another_owner_is_refused(shared_directory: Path) -> None:
    path = shared_directory / "spool.db"
    path.touch(mode=0o666)
    with as_user(STRANGER):
        assert_refused(
            path,
            "belongs to user root (0), not to user 12345; run as its owner, since application and "
            "drainer must be one user",
        )


@only_root
def test_a_directory_without_the_right_to_enter_it_is_refused(shared_directory: Path) -> None:
    shared_directory.chmod(0o700)
    path = shared_directory / "spool.db"
    with as_user(STRANGER), pytest.raises(SpoolFileError) as caught:
        prepare(path)
    assert str(caught.value).startswith(
        f"{path}: Permission denied: {shared_directory} belongs to user root (0), not to user "
        "12345; run as its owner, since application and drainer must be one user"
    )


@only_root
def test_a_directory_that_cannot_be_made_is_refused(shared_directory: Path) -> None:
    shared_directory.chmod(0o755)
    with as_user(STRANGER):
        assert_refused(shared_directory / "new" / "spool.db", "Permission denied")
    assert names(shared_directory) == []


@only_root
def test_root_uses_a_file_of_another_owner_and_hands_over_what_it_makes(
    strangers_directory: Path,
) -> None:
    path = strangers_directory / "spool.db"
    path.touch(mode=0o600)
    os.chown(path, STRANGER, 54321)
    prepare(path)
    companion = beside(path, ".lock")
    with umask(0):
        os.close(create(companion, path))
    status = companion.stat()
    assert (status.st_uid, status.st_gid, mode(companion)) == (STRANGER, 54321, 0o600)
    with as_user(STRANGER):
        os.close(create(companion, path))


@only_root
def test_root_makes_files_and_directories_for_the_owner_of_the_directory(
    strangers_directory: Path,
) -> None:
    path = strangers_directory / "new" / "spool.db"
    prepare(path)
    for made in (path, beside(path, ".lock")):
        os.close(create(made, path))
        assert (made.stat().st_uid, made.stat().st_gid) == (STRANGER, STRANGER)
    assert path.parent.stat().st_uid == STRANGER
    with as_user(STRANGER):
        prepare(path)
        os.close(create(path, path))


@only_root
@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal", ".salvaged", ".grafted"])
def test_what_another_user_lays_beside_a_file_is_neither_replayed_nor_put_in_its_place(
    shared_directory: Path, suffix: str
) -> None:
    path = shared_directory / "spool.db"
    companion = beside(path, suffix)
    companion.touch()
    companion.chmod(0o666)
    with as_user(STRANGER), pytest.raises(SpoolStrangerError, match=f"^{companion}: it belongs to"):
        prepare(path)


@only_root
def test_a_directory_where_everybody_may_remove_files_is_refused(shared_directory: Path) -> None:
    path = shared_directory / "spool.db"
    shared_directory.chmod(0o777)
    assert_refused(path, "no sticky bit")
    shared_directory.chmod(0o1777)
    prepare(path)
    os.chown(shared_directory, STRANGER, STRANGER)  # whom the sticky bit does not stop
    assert_refused(path, "it belongs to user 12345")
    shared_directory.chmod(0o775)  # the directory's owner has chosen who is in its group
    prepare(path)


@only_root
def test_root_does_not_write_into_what_another_user_put_where_everybody_may(
    shared_directory: Path,
) -> None:
    path = shared_directory / "spool.db"
    path.touch()
    os.chown(path, STRANGER, STRANGER)
    assert_refused(path, "every user may put files there")
    shared_directory.chmod(0o755)
    prepare(path)


def mounted(path: Path, kind: str, mount_point: bytes = b"/mnt/disk") -> bytes:
    """A mountinfo that says which filesystem a directory lies on (proc(5))."""
    device = path.stat().st_dev
    numbers = f"{os.major(device)}:{os.minor(device)}".encode()
    return b"\n".join(
        [
            b"22 1 0:999999 / / rw,relatime shared:1 - ext4 /dev/sda1 rw",
            b"36 22 "
            + numbers
            + b" / "
            + mount_point
            + b" rw master:1 - "
            + kind.encode()
            + b" x rw",
            b"",
        ]
    )


def say_mounted(monkeypatch: pytest.MonkeyPatch, mountinfo: bytes) -> None:
    read_text = Path.read_text

    def fake(self: Path, encoding: str | None = None, errors: str | None = None) -> str:
        if self == Path("/proc/self/mountinfo"):
            return mountinfo.decode(encoding or "utf-8", errors or "strict")
        return read_text(self, encoding, errors)

    monkeypatch.setattr(Path, "read_text", fake)


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3"])
def test_a_network_filesystem_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    say_mounted(monkeypatch, mounted(tmp_path, kind))
    assert_refused(tmp_path / "spool.db", f"it lies on {kind}, where SQLite's WAL does not work")


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "overlay", "tmpfs", "fuse.nfs-lookalike"])
def test_a_local_filesystem_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    say_mounted(monkeypatch, mounted(tmp_path, kind))
    prepare(tmp_path / "spool.db")


def test_an_unknown_filesystem_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    say_mounted(monkeypatch, b"22 1 0:999999 / / rw - nfs server:/ rw\n")
    prepare(tmp_path / "spool.db")


def test_a_mount_point_whose_name_is_no_utf8_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    say_mounted(monkeypatch, mounted(tmp_path, "ext4", b"/media/caf\xe9"))
    prepare(tmp_path / "spool.db")


@pytest.mark.parametrize("platform", ["win32", "cygwin"])
def test_another_operating_system_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    with pytest.raises(SpoolFileError, match="runs on Linux and macOS"):
        prepare(tmp_path / "new" / "spool.db")
    assert not (tmp_path / "new").exists()


def test_the_error_of_a_place_is_one_without_another_before_it() -> None:
    with pytest.raises(SpoolFileError) as caught:
        prepare(Path("/proc/none/spool.db"))
    assert caught.value.__suppress_context__
