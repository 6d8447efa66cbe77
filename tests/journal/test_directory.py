from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from journals import fill, made, the_file
from spool.errors import SpoolStrangerError
from spool.journal import directory
from spool.journal.journal import Journal


def test_what_is_not_a_journal_is_none_of_ours(mine: Journal, path: Path) -> None:
    fill(mine, 1)
    name = the_file(path).name
    for other in (f"{name}.bak", "spool.db.inbox-notes", "spool.db.inbox-1-0123456789abX"):
        path.with_name(other).write_text("mine")
    path.with_name("spool.db.inbox-1-0123456789ab").mkdir()
    path.with_name("spool.db.inbox-2-0123456789ab").symlink_to("elsewhere")
    assert [file.name for file in directory.paths(path)] == [name]


def test_what_waits_is_added_up_behind_what_of_each_was_moved(path: Path) -> None:
    one, two = made(path), made(path)
    fill(one, 1)
    fill(two, 2)
    (first,), (second,) = one.files(), two.files()
    waiting = first.unmoved_bytes + second.unmoved_bytes
    assert directory.bytes_beside(path, {}) == waiting
    moved = {second.path.name: second.size}
    assert directory.bytes_beside(path, moved) == first.unmoved_bytes
    for each in (one, two):
        each.close()


def test_one_that_is_opened_to_be_read_is_closed_again(mine: Journal, path: Path) -> None:
    fill(mine, 2)
    with directory.opened(the_file(path), path) as file:
        file.moved = file.begins_at(b"")
        assert [chunk.spans for chunk in file.unmoved()] == [2]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file.fd)


@pytest.mark.parametrize(
    ("error", "reported"),
    [
        pytest.param(FileNotFoundError(), None, id="gone, not reported"),
        pytest.param(SpoolStrangerError(), None, id="a stranger's, not reported"),
        pytest.param(
            OSError(errno.EIO, "Input/output error"), "Input/output error", id="broken, reported"
        ),
    ],
)
def test_one_that_cannot_be_read_keeps_no_other_back(
    error: Exception, reported: str | None, path: Path
) -> None:
    found: dict[Path, str] = {}
    with directory.passing_over(path, found):
        raise error
    assert found == ({path: reported} if reported else {})


def test_where_this_process_has_too_many_files_open_none_is_passed_over(path: Path) -> None:
    with pytest.raises(OSError, match="Too many"), directory.passing_over(path, {}):
        raise OSError(errno.EMFILE, "Too many open files")
