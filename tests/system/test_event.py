from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading

import pytest

from spool.system.event import SignalSafeEvent


def test_who_waits_is_roused_and_who_comes_later_does_not_wait() -> None:
    wake, roused = SignalSafeEvent(), threading.Event()

    def wait() -> None:
        assert wake.wait(60)
        roused.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    wake.set()
    assert roused.wait(60)
    waiter.join()
    assert wake.wait(60)
    assert wake.is_set()


def test_what_was_cleared_is_waited_for_anew() -> None:
    wake = SignalSafeEvent()
    wake.set()
    wake.set()
    wake.clear()
    assert not wake.is_set()
    assert not wake.wait(0.01)
    wake.set()
    assert wake.wait(60)


def test_a_wake_that_is_set_and_cleared_again_and_again_takes_no_memory() -> None:
    wake = SignalSafeEvent()
    for _ in range(1000):
        wake.set()
        assert wake.wait(60)  # at once: it takes nothing out of the queue
        wake.clear()
    assert wake._queue.qsize() == 0


def test_an_exception_out_of_a_signal_handler_in_the_middle_of_a_wake_makes_nobody_deaf(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Interruption(BaseException):
        """As Celery's time limit."""

    def interrupt(_: SignalSafeEvent) -> None:
        raise Interruption

    wake, roused = SignalSafeEvent(), threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(SignalSafeEvent, "_own_queue", interrupt)
        with pytest.raises(Interruption):
            wake.set()

    def wait() -> None:
        wake._own_queue().get()
        roused.set()

    threading.Thread(target=wait, daemon=True).start()  # as one that has just looked at the flag
    wake.set()
    assert roused.wait(60)


def test_a_signal_handler_that_interrupts_a_wake_does_not_meet_itself() -> None:
    code = """
import signal, threading, time
from spool.system.event import SignalSafeEvent

wake, rung, is_over = SignalSafeEvent(), 0, False

def ring(*_):
    global rung
    wake.set()
    rung += 1

def wait():
    while not is_over:
        wake.wait()
        wake.clear()

waiter = threading.Thread(target=wait)
waiter.start()
signal.signal(signal.SIGALRM, ring)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
while rung < 1000:
    wake.set()
signal.setitimer(signal.ITIMER_REAL, 0)
is_over = True
wake.set()
waiter.join()
"""
    ran = subprocess.run([sys.executable, "-c", code], timeout=120, check=False)
    assert ran.returncode == 0


def test_a_child_of_a_fork_in_c_is_roused_by_its_own_threads() -> None:
    wake = SignalSafeEvent()
    waiter = threading.Thread(target=wake.wait, args=(60,))
    waiter.start()
    if (pid := ctypes.PyDLL(None).fork()) == 0:  # while the other thread waits
        threading.Timer(0.01, wake.set).start()
        os._exit(not wake.wait(60))
    assert os.waitpid(pid, 0)[1] == 0
    wake.set()
    waiter.join()
