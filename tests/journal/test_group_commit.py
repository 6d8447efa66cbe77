from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from journals import fill, of_all, read, the_file
from spool.errors import SpoolUnsyncedError
from spool.journal.journal import Journal
from spool.system import spool_files
from waits import wait_until


@pytest.mark.parametrize("is_broken", [False, True])
def test_one_fsync_is_for_all_who_wait_for_it(
    synced: Journal, path: Path, monkeypatch: pytest.MonkeyPatch, is_broken: bool
) -> None:
    frames_synced = list[int]()
    is_syncing, may_end = threading.Event(), threading.Event()
    fill(synced, 1)

    def sync(fd: int) -> None:
        frames_synced.append(len(read(the_file(path))[0]))
        is_syncing.set()
        assert may_end.wait(60)
        if is_broken and len(frames_synced) == 2:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(spool_files, "sync", sync)
    with ThreadPoolExecutor(33) as threads:
        first = threads.submit(fill, synced, 1)
        assert is_syncing.wait(60)
        others = [threads.submit(fill, synced, 1) for _ in range(32)]
        wait_until(lambda: len(read(the_file(path))[0]) == 34)
        may_end.set()
        first.result()
        errors = [other.exception() for other in others]
    assert frames_synced[:2] == [2, 34]
    assert len(frames_synced) == 2
    assert all(isinstance(error, SpoolUnsyncedError) for error in errors) == is_broken
    assert any(errors) == is_broken


def test_a_signal_handler_syncs_in_the_middle_of_its_threads_own_sync(
    synced: Journal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = spool_files.sync

    def interrupted(fd: int) -> None:
        monkeypatch.setattr(spool_files, "sync", sync)
        fill(synced, 1)
        sync(fd)

    monkeypatch.setattr(spool_files, "sync", interrupted)
    fill(synced, 1)
    fill(synced, 1)
    assert of_all(path) == (3, 0)
