from __future__ import annotations

from pathlib import Path

from journals import fill, the_file
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
