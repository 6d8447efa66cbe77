from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from spool.errors import SpoolError, SpoolNotMadeError
from spool.system.background_thread import BackgroundThread
from spool.system.event import SignalSafeEvent
from waits import PATIENCE, wait_until


class Worker(BackgroundThread):
    """Counts how often it was woken."""

    def __init__(self) -> None:
        super().__init__("spool-worker", "cannot work")
        self.done = 0
        self._awake = SignalSafeEvent()

    def wake(self) -> None:
        self._awake.set()

    def run(self) -> None:
        while not self.stopping.is_set():
            self._awake.wait()
            self._awake.clear()
            self.done += 1


@pytest.fixture
def worker() -> Iterator[Worker]:
    """Stop it in the end, if the test does not."""
    worker = Worker()
    yield worker
    worker.stop(PATIENCE)


def is_alive() -> bool:
    return "spool-worker" in {thread.name for thread in threading.enumerate()}


def test_it_works_at_once_unless_it_is_to_wait(worker: Worker) -> None:
    worker.start()
    worker.wake()
    wait_until(lambda: worker.done == 1)


def test_it_does_nothing_until_it_is_told_to_begin(worker: Worker) -> None:
    worker.start(at_once=False)
    worker.wake()
    assert (is_alive(), worker.done) == (True, 0)
    worker.begin()
    wait_until(lambda: worker.done == 1)


def test_one_that_never_began_ends_at_once(worker: Worker) -> None:
    worker.start(at_once=False)
    worker.stop(PATIENCE)
    assert (is_alive(), worker.done) == (False, 0)


def test_one_that_was_never_started_can_be_stopped(worker: Worker) -> None:
    worker.stop(PATIENCE)
    assert not is_alive()


@pytest.mark.parametrize("trouble", [SpoolError("the disk is full"), ValueError("a defect")])
def test_what_it_does_safely_is_said_and_does_not_end_it(
    worker: Worker, caplog: pytest.LogCaptureFixture, trouble: Exception
) -> None:
    def fail() -> int:
        raise trouble

    assert worker.safely(fail, otherwise=7) == 7
    assert worker.safely(lambda: 8, otherwise=7) == 8
    assert str(trouble) in caplog.text


def test_after_a_defect_it_rests(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float | None] = []

    def rest(timeout: float | None = None) -> bool:
        rests.append(timeout)
        return False

    monkeypatch.setattr(worker.stopping, "wait", rest)
    worker.safely(lambda: 1 // 0, otherwise=0)
    worker.safely(lambda: 1, otherwise=0)
    assert rests == [1.0]


def test_that_another_process_makes_the_file_just_now_is_nothing_to_say(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    def read() -> bool:
        raise SpoolNotMadeError("its first writer has not set it up yet")

    assert worker.safely(read, otherwise=False) is False
    assert caplog.text == ""
