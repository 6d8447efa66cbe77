from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from spool.system import spool_files
from spool.system.drain_lock import DrainLock
from spool.system.locks import FileLock

NEVER = 1e9
AT_ONCE = 0.0


def create(path: Path) -> int:
    return spool_files.create(path, path)


@pytest.fixture(autouse=True)
def _turns_are_as_long_as_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spool.system.drain_lock._BESIDE_SENDING", 0.0)


@pytest.fixture
def locks(tmp_path: Path) -> Iterator[list[DrainLock]]:
    """Give four uses of one spool's drain lock."""
    locks = [DrainLock(tmp_path / "spool.db", create) for _ in range(4)]
    yield locks
    for lock in locks:
        lock.close()


def test_one_has_the_lock_and_the_next_gets_it_after_that(locks: list[DrainLock]) -> None:
    with locks[0].take(NEVER) as first, locks[1].take(NEVER) as second:
        assert (first, second) == (True, False)
    with locks[1].take(NEVER) as second:
        assert second


def test_who_had_the_last_turn_can_be_named(locks: list[DrainLock]) -> None:
    assert locks[0].pid() is None
    with locks[0].take(NEVER):
        assert locks[1].pid() == os.getpid()


def test_past_one_that_is_stuck_there_is_one_deputy(locks: list[DrainLock]) -> None:
    with locks[0].take(NEVER):
        assert not is_had(locks[1], AT_ONCE)  # seen for the first time
        time.sleep(0.01)
        with locks[1].take(AT_ONCE) as deputy:
            assert deputy
            assert not is_had(locks[2], AT_ONCE)
            time.sleep(0.01)
            assert not is_had(locks[2], AT_ONCE)
        assert is_had(locks[2], AT_ONCE)


def test_one_that_has_the_lock_and_has_not_signed_yet_is_not_taken_for_one_seen_long_ago(
    locks: list[DrainLock], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with locks[0].take(NEVER):
        assert not is_had(locks[1], 1.0)
    now += 600
    monkeypatch.setattr(FileLock, "sign", lambda _: None)
    with locks[0].take(NEVER):
        assert not is_had(locks[1], 1.0)


def test_a_lock_that_changes_hands_is_not_stuck(locks: list[DrainLock]) -> None:
    for _ in range(3):
        with locks[0].take(NEVER):
            assert not is_had(locks[1], AT_ONCE)
            time.sleep(0.01)


def test_a_turn_that_may_last_is_not_stuck(locks: list[DrainLock]) -> None:
    with locks[0].take(NEVER):
        for _ in range(3):
            assert not is_had(locks[1], NEVER)
            time.sleep(0.01)


def test_after_the_stopped_one_went_on_one_at_a_time_sends_again(locks: list[DrainLock]) -> None:
    with locks[0].take(NEVER):
        is_had(locks[1], AT_ONCE)
        time.sleep(0.01)
        assert is_had(locks[1], AT_ONCE)
    with locks[1].take(NEVER) as first:
        assert first
        assert not is_had(locks[0], NEVER)


def test_a_deputy_whose_requests_are_slow_goes_on(
    locks: list[DrainLock], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with locks[0].take(NEVER):
        assert not is_had(locks[1], 1.0)
        now += 2
        for _ in range(3):
            with locks[1].take(1.0) as deputy:
                assert deputy
                now += 60


def test_who_takes_it_again_and_again_leaves_gaps_for_one_that_looks_for_it(
    locks: list[DrainLock],
) -> None:
    is_over = threading.Event()

    def hog() -> None:
        while not is_over.is_set():
            with locks[0].take(NEVER):
                time.sleep(0.3)

    thread = threading.Thread(target=hog)
    thread.start()
    try:
        with locks[1].take(NEVER, patience=60) as had:
            assert had
    finally:
        is_over.set()
        thread.join()


def test_one_that_was_stopped_in_its_turn_leaves_no_gap_of_minutes(
    locks: list[DrainLock], monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "sleep", slept.append)
    with locks[0].take(NEVER):
        now += 86_400
    assert is_had(locks[0], NEVER)
    assert 0 < sum(slept) <= 0.25


def is_had(lock: DrainLock, longest: float) -> bool:
    with lock.take(longest) as had:
        return had
