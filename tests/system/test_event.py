from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading

import pytest

from spool.system.event import SignalSafeEvent


def test_who_waits_is_woken_and_who_comes_later_does_not_wait() -> None:
    event, woken = SignalSafeEvent(), threading.Event()

    def wait() -> None:
        assert event.wait(60)
        woken.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    event.set()
    assert woken.wait(60)
    waiter.join()
    assert event.wait(60)
    assert event.is_set()


def test_what_was_cleared_is_waited_for_anew() -> None:
    event = SignalSafeEvent()
    event.set()
    event.set()
    event.clear()
    assert not event.is_set()
    assert not event.wait(0.01)
    event.set()
    assert event.wait(60)


def test_an_event_that_is_set_and_cleared_again_and_again_takes_no_memory() -> None:
    event = SignalSafeEvent()
    for _ in range(1000):
        event.set()
        assert event.wait(60)  # at once: it takes nothing out of the queue
        event.clear()
    assert event._queue.qsize() == 0


def test_an_exception_out_of_a_signal_handler_in_the_middle_of_setting_makes_nobody_deaf(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Interruption(BaseException):
        """As Celery's time limit."""

    def interrupt(_: SignalSafeEvent) -> None:
        raise Interruption

    event, woken = SignalSafeEvent(), threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(SignalSafeEvent, "_own_queue", interrupt)
        with pytest.raises(Interruption):
            event.set()

    def wait() -> None:
        event._own_queue().get()
        woken.set()

    threading.Thread(target=wait, daemon=True).start()  # as one that has just looked at the flag
    event.set()
    assert woken.wait(60)


def test_a_signal_handler_that_interrupts_setting_does_not_meet_itself() -> None:
    code = """
import signal, threading, time
from spool.system.event import SignalSafeEvent

event, rung, is_over = SignalSafeEvent(), 0, False

def ring(*_):
    global rung
    event.set()
    rung += 1

def wait():
    while not is_over:
        event.wait()
        event.clear()

waiter = threading.Thread(target=wait)
waiter.start()
signal.signal(signal.SIGALRM, ring)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
while rung < 1000:
    event.set()
signal.setitimer(signal.ITIMER_REAL, 0)
is_over = True
event.set()
waiter.join()
"""
    ran = subprocess.run([sys.executable, "-c", code], timeout=120, check=False)
    assert ran.returncode == 0


def test_a_child_of_a_fork_in_c_is_woken_by_its_own_threads() -> None:
    event = SignalSafeEvent()
    waiter = threading.Thread(target=event.wait, args=(60,))
    waiter.start()
    if (pid := ctypes.PyDLL(None).fork()) == 0:  # while the other thread waits
        threading.Timer(0.01, event.set).start()
        os._exit(not event.wait(60))
    assert os.waitpid(pid, 0)[1] == 0
    event.set()
    waiter.join()
