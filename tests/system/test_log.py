from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from spool.system import log
from spool.system.log import LimitedWarning


class Clock:
    now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(log, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "spool")
    return caplog


def test_the_first_trouble_is_said_at_once_as_a_warning(
    clock: Clock, said: pytest.LogCaptureFixture
) -> None:
    clock.now = 0.0  # just booted
    LimitedWarning("route pk waits").warn("503 Service Unavailable")
    (record,) = said.records
    assert (record.name, record.levelname) == ("spool", "WARNING")
    assert record.getMessage() == "langfuse-spool: route pk waits: 503 Service Unavailable"


def test_more_of_the_same_is_not_said_within_a_minute(
    clock: Clock, said: pytest.LogCaptureFixture
) -> None:
    trouble = LimitedWarning("trouble")
    for _ in range(100):
        trouble.warn("again")
        clock.now += 0.59
    assert len(said.records) == 1


def test_what_was_not_said_is_counted_when_the_minute_is_over(
    clock: Clock, said: pytest.LogCaptureFixture
) -> None:
    trouble = LimitedWarning("trouble")
    for detail in ("first", "second", "third"):
        trouble.warn(detail)
    clock.now += 60
    trouble.warn("fourth")
    assert said.messages[1:] == [
        "langfuse-spool: trouble: fourth (and 2 times more since the last such line)"
    ]
    clock.now += 60
    trouble.warn("fifth")
    assert said.messages[2:] == ["langfuse-spool: trouble: fifth"]


def test_two_kinds_of_trouble_do_not_silence_each_other(
    clock: Clock, said: pytest.LogCaptureFixture
) -> None:
    LimitedWarning("one").warn(clock.now)
    LimitedWarning("other").warn(clock.now)
    assert len(said.records) == 2


@pytest.mark.usefixtures("clock")
def test_a_percent_sign_in_a_detail_is_only_text(said: pytest.LogCaptureFixture) -> None:
    LimitedWarning("100 %s").warn("%d %(x)s")
    assert said.messages == ["langfuse-spool: 100 %s: %d %(x)s"]
