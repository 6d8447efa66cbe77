from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from owners import STRANGER, mode, only_root
from spool.store import drainers
from spool.store.drainers import Presence, SeenDrainer
from spool.store.store import Store
from spool.system import spool_files
from waits import wait_until

pytestmark = pytest.mark.once


def files(store: Store) -> list[Path]:
    return sorted(store.database.path.parent.glob("spool.db.drainer-*"))


@contextlib.contextmanager
def child(work: Callable[[], object]) -> Iterator[int]:
    """Let a child do something, and kill it."""
    if not (pid := os.fork()):
        try:
            work()
        finally:
            os._exit(0)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@contextlib.contextmanager
def draining_child(presence: Presence, other: Store) -> Iterator[int]:
    """Let a child drain."""

    def drain() -> None:
        with presence.shown():
            presence.tell({"a"})
            signal.pause()

    with child(drain) as pid:
        wait_until(lambda: [seen.pid for seen in drainers.seen(other)] == [pid])
        yield pid


@pytest.fixture
def presence(store: Store) -> Presence:
    store.open()
    return Presence(store, sending=10)


def test_a_drainer_is_seen_as_long_as_it_drains(presence: Presence, other: Store) -> None:
    assert drainers.seen(other) == ()
    before = time.time()
    with presence.shown():
        presence.tell({"pk-lf-b", "pk-lf-a"})
        (seen,) = drainers.seen(other)
        assert (seen.pid, seen.kind, seen.is_stopped) == (os.getpid(), "application", False)
        assert sorted(seen.routes or ()) == ["pk-lf-a", "pk-lf-b"]
        assert seen.can_send("pk-lf-a")
        assert not seen.can_send("pk-lf-c")
        assert before <= (seen.since or 0) <= time.time()
        assert before - 1 <= (seen.acted_at or 0) <= time.time()
        assert drainers.is_any(other)
    assert drainers.seen(other) == ()
    assert files(other) == []


def test_its_routes_are_those_that_it_has_told_last(presence: Presence, other: Store) -> None:
    with presence.shown():
        for routes in (frozenset({"a-long-name", "another"}), frozenset("a"), frozenset[str]()):
            presence.tell(routes)
            assert [seen.routes for seen in drainers.seen(other)] == [routes]


def test_nothing_is_written_while_nothing_changes_but_that_it_moves(
    presence: Presence, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with presence.shown():
        presence.tell({"a"})
        (path,) = files(store)
        written = path.read_bytes()
        presence.tell({"a"})
        presence.move()
        assert path.read_bytes() == written
        monkeypatch.setattr(drainers, "MOVES_SECONDS", 0.0)
        presence.tell({"b"})
        written = path.read_bytes()
        presence.move()
        assert path.read_bytes()[:20] > written[:20]
        assert path.read_bytes()[20:] == written[20:]


def test_no_secret_is_in_its_file(presence: Presence, store: Store) -> None:
    with presence.shown():
        presence.tell({"pk-lf-a"})
        (path,) = files(store)
        assert mode(path) == 0o600
        assert json.loads(path.read_text()[20:]).keys() == {
            "pid", "born", "kind", "version", "since", "still_seconds", "routes",
        }  # fmt: skip


def test_one_that_was_killed_is_seen_no_more_and_its_file_goes(
    presence: Presence, store: Store, other: Store
) -> None:
    with draining_child(presence, other) as pid:
        drainers.remove_dead(other.database.path)
        assert len(files(store)) == 1  # it lives
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: drainers.seen(other) == ())
        assert len(files(store)) == 1
        drainers.remove_dead(other.database.path)
        assert files(store) == []


def test_one_that_is_stopped_is_seen_to_be(presence: Presence, other: Store) -> None:
    with draining_child(presence, other) as pid:
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: drainers.seen(other)[0].is_stopped)
        assert not drainers.seen(other)[0].can_send("a")
        assert drainers.seen(other)[0].is_here
        os.kill(pid, signal.SIGCONT)
        wait_until(lambda: not drainers.seen(other)[0].is_stopped)


def test_one_that_has_not_moved_for_long_is_stopped_whatever_its_pid_says(
    presence: Presence, store: Store, other: Store
) -> None:
    with presence.shown():
        presence.tell({"a"})
        (path,) = files(store)
        with path.open("r+b") as file:
            file.write(f"{time.monotonic() - 310:<20.3f}".encode())
        (seen,) = drainers.seen(other)
        assert not seen.is_stopped  # two requests may take 20 s of it
        with path.open("r+b") as file:
            file.write(f"{time.monotonic() - 330:<20.3f}".encode())
        (seen,) = drainers.seen(other)
    assert seen.is_stopped
    assert 320 < time.time() - (seen.acted_at or 0) < 600


def test_a_pid_that_is_anothers_by_now_says_nothing(
    presence: Presence, store: Store, other: Store
) -> None:
    """As in another container: there our pid may be that of a process that is stopped."""
    with child(signal.pause) as pid, presence.shown():
        os.kill(pid, signal.SIGSTOP)
        presence.tell({"a"})
        (path,) = files(store)
        stamp, said = path.read_text()[:20], json.loads(path.read_text()[20:])
        path.write_text(stamp + json.dumps({**said, "pid": pid}))
        (seen,) = drainers.seen(other)
        assert (seen.pid, seen.is_stopped, seen.is_here) == (pid, False, False)


def test_a_child_neither_takes_its_parents_file_away_nor_keeps_its_lock(
    presence: Presence, store: Store, other: Store
) -> None:
    is_over, written = os.pipe()
    is_ended, ended = os.pipe()

    def fork_while_it_drains() -> None:
        with presence.shown():
            presence.tell({"a"})
            if not os.fork():
                presence.end()
                os.close(written)
                os.write(ended, f"{os.getpid():10}".encode())
                os.read(is_over, 1)
                os._exit(0)
            signal.pause()

    with child(fork_while_it_drains) as parent:
        grandchild = int(os.read(is_ended, 10))
        assert [seen.pid for seen in drainers.seen(other)] == [parent]
        os.kill(parent, signal.SIGKILL)
        wait_until(lambda: drainers.seen(other) == ())
        assert len(files(store)) == 1
        os.kill(grandchild, 0)
    for fd in (is_over, written, is_ended, ended):
        os.close(fd)


def test_one_whose_file_was_removed_makes_another(
    presence: Presence, store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drainers, "MOVES_SECONDS", 0.0)
    with presence.shown():
        presence.tell({"a"})
        files(store)[0].unlink()
        presence.move()
        assert [seen.routes for seen in drainers.seen(other)] == [frozenset("a")]
    assert files(store) == []


def test_on_a_disk_that_takes_no_file_it_is_seen_by_its_lock(
    presence: Presence, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patched, presence.shown():
        patched.setattr(spool_files, "create", refuse)
        presence.tell({"a"})
        (seen,) = drainers.seen(other)
        assert seen == SeenDrainer(pid=None)
        assert seen.can_send("whatever")


def test_one_whose_file_says_nothing_is_known_by_its_name(
    presence: Presence, store: Store, other: Store
) -> None:
    with presence.shown():
        presence.tell({"a"})
        for said in (b"", b"x" * 50, b"1.0                 []", b"1.0                 {}"):
            files(store)[0].write_bytes(said)
            assert drainers.seen(other) == (SeenDrainer(pid=os.getpid()),)


@pytest.mark.parametrize("kind", ["directory", "symlink", "fifo"])
def test_what_is_none_of_the_spools_is_passed_over_and_named(
    presence: Presence, store: Store, other: Store, tmp_path: Path, kind: str
) -> None:
    strange = spool_files.beside(store.database.path, ".drainer-1-0123456789ab")
    if kind == "directory":
        strange.mkdir()
    elif kind == "symlink":
        (tmp_path / "mine").touch()
        strange.symlink_to(tmp_path / "mine")
    else:
        os.mkfifo(strange)
    with presence.shown():
        presence.tell({"a"})
        assert [seen.pid for seen in drainers.seen(other)] == [os.getpid()]
        drainers.remove_dead(store.database.path)
    assert os.path.lexists(strange)
    assert str(strange) in "".join(spool_files.strangers(store.database.path))


@only_root
def test_root_gives_its_file_to_the_spools_owner(store: Store, presence: Presence) -> None:
    for path in (store.database.path.parent, *store.database.path.parent.iterdir()):
        os.chown(path, STRANGER, STRANGER)
    with presence.shown():
        presence.tell({"a"})
        assert files(store)[0].stat().st_uid == STRANGER


def test_a_drainer_knows_whether_it_moves_itself(
    presence: Presence, monkeypatch: pytest.MonkeyPatch
) -> None:
    with presence.shown():
        presence.move()
        assert presence.is_moving()
        monkeypatch.setattr(drainers, "_STILL_SECONDS", -21.0)
        assert not presence.is_moving()
