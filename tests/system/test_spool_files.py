from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from owners import STRANGER, as_user, mode, only_root, umask
from spool.errors import SpoolStrangerError
from spool.system.spool_files import beside, create, open_file, strangers, sync_directory


@pytest.mark.parametrize("mask", [0, 0o22, 0o777])
def test_a_file_is_made_for_its_owner_alone(tmp_path: Path, mask: int) -> None:
    path = tmp_path / "file"
    with umask(mask):
        os.close(create(path, path))
    assert mode(path) == 0o600


def test_no_file_takes_the_place_of_a_closed_standard_input(tmp_path: Path) -> None:
    path = tmp_path / "file"
    if (pid := os.fork()) == 0:
        os.close(0)
        fds = [create(path, path), open_file(path, path)]
        os._exit(not all(fd > 2 and not os.get_inheritable(fd) for fd in fds))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_file_that_is_there_is_opened_as_it_is_for_reading_and_writing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("what was there")
    path.chmod(0o640)
    fd = create(path, path)
    os.pwrite(fd, b"WHAT", 0)
    assert os.pread(fd, 100, 0) == b"WHAT was there"
    assert not os.get_inheritable(fd)
    os.close(fd)
    assert mode(path) == 0o640


def test_beside_a_file_stand_its_companions(tmp_path: Path) -> None:
    assert beside(tmp_path / "spool.db", ".lock") == tmp_path / "spool.db.lock"
    assert beside(tmp_path / "spans", "-wal") == tmp_path / "spans-wal"


def test_a_directory_can_be_synced_and_only_a_directory(tmp_path: Path) -> None:
    sync_directory(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        sync_directory(tmp_path / "file")


@only_root
def test_root_does_not_hand_over_what_was_there_before(strangers_directory: Path) -> None:
    path, companion = strangers_directory / "spool.db", strangers_directory / "spool.db.lock"
    path.touch()
    companion.touch()
    os.chown(path, STRANGER, STRANGER)
    os.close(create(companion, path))
    assert companion.stat().st_uid == 0


@only_root
def test_root_does_not_write_through_a_link_to_a_file_of_its_own(strangers_directory: Path) -> None:
    path, victim = strangers_directory / "spool.db", strangers_directory / "victim"
    path.touch()
    os.chown(path, STRANGER, STRANGER)
    victim.touch()
    os.link(victim, beside(path, ".turn"))
    with pytest.raises(SpoolStrangerError, match=r"spool\.db\.turn: it belongs to user 0, not"):
        create(beside(path, ".turn"), path)


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR])
def test_what_is_no_regular_file_is_neither_used_nor_waited_for(tmp_path: Path, flags: int) -> None:
    path = tmp_path / "spool.db"
    path.touch()
    os.mkfifo(beside(path, ".turn"))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(beside(path, ".lock")))
        for suffix in (".turn", ".lock"):
            with pytest.raises(SpoolStrangerError, match="it is not a regular file; remove it"):
                open_file(beside(path, suffix), path, flags)
        with pytest.raises(SpoolStrangerError):
            create(beside(path, ".turn"), path)
    assert len(strangers(path)) == 2


@only_root
@pytest.mark.parametrize("rights", [0o600, 0o666])
def test_another_users_file_is_not_used_whatever_its_rights(
    shared_directory: Path, rights: int
) -> None:
    path = shared_directory / "spool.db"
    with as_user(STRANGER):
        os.close(create(path, path))
    companion = beside(path, ".inbox-1-0123456789ab")
    companion.touch()
    companion.chmod(rights)
    os.chown(companion, STRANGER + 1, STRANGER + 1)
    with as_user(STRANGER):
        with pytest.raises(SpoolStrangerError, match="belongs to user 12346, not to user 12345"):
            open_file(companion, path)
        assert strangers(path) == [f"{companion}: it belongs to user 12346, not to user 12345"]
