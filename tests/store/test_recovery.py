"""What a salvage that was cut short has left is finished, or removed."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path

import pytest

from damaged_files import ROWS, read_all, ruin_root_page, use
from spans import batch
from spool.store import salvage
from spool.store.store import Store
from targets import MINE

pytestmark = pytest.mark.once


def test_a_kill_in_a_salvage_leaves_nothing_that_others_can_read_and_the_next_opening_removes_it(
    crashed: Path,
) -> None:
    path = crashed / "spool.db"
    ruin_root_page(path)
    pid = os.fork()
    if pid == 0:
        os.umask(0)
        salvage._graft = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        Store(path).open()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    modes = {stat.S_IMODE(one.stat().st_mode) for one in crashed.glob("*graft*")}
    assert modes == {0o600}
    store = use(path)
    assert len(read_all(store)) == ROWS // 2 + 1 + 1
    store.close()
    assert not [*crashed.glob("*graft*"), *crashed.glob("*salvag*")]


def test_what_a_salvage_left_is_removed_by_an_opening_that_salvages_nothing(path: Path) -> None:
    store = Store(path)
    store.open()
    store.close()
    for left in (".salvaging", ".grafted", ".grafted-wal"):
        path.with_name(f"spool.db{left}").touch()
    store.open()
    store.close()
    assert not [*path.parent.glob("*graft*"), *path.parent.glob("*salvag*")]


def test_a_salvage_that_was_killed_at_its_end_is_finished(
    crashed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = crashed / "spool.db"
    ruin_root_page(path)
    replaced = Path.replace

    def killed(*_: object) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        Store(path).open()
    monkeypatch.setattr(Path, "replace", replaced)
    store = Store(path)
    store.open()
    assert len(list(crashed.glob("spool.db.corrupt-*"))) == 1
    store.append(MINE, batch("after"), now=1.0)
    assert store.ledger().pending >= 1
    store.close()
