"""Instruments are made once a MeterProvider is set, by a thread, and by nobody who only looks."""

from __future__ import annotations

import threading
from collections import deque

import pytest
from opentelemetry.metrics import Meter, MeterProvider, NoOpMeterProvider

from meters import Meters
from spool.system import metering
from waits import wait_until


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note the threads that make the one instrument that is wanted."""
    found: list[str] = []

    def make(_: Meter) -> None:
        found.append(threading.current_thread().name)

    monkeypatch.setattr(metering, "_unmade", deque([make]))
    return found


def provide(monkeypatch: pytest.MonkeyPatch, provider: MeterProvider) -> None:
    monkeypatch.setattr(metering, "get_meter_provider", lambda: provider)
    monkeypatch.setattr(metering, "get_meter", provider.get_meter)


def test_where_a_meter_provider_is_set_a_thread_makes_what_is_wanted_once(
    made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    provide(monkeypatch, Meters().provider)
    assert metering.look()
    wait_until(lambda: made == ["spool-metrics"])
    assert metering.look()
    assert made == ["spool-metrics"]


def test_where_none_is_set_nothing_is_begun_until_one_is(
    made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    provide(monkeypatch, NoOpMeterProvider())
    assert not metering.look()
    assert not [one for one in threading.enumerate() if one.name == "spool-metrics"]
    provide(monkeypatch, Meters().provider)
    assert metering.look()
    wait_until(lambda: made == ["spool-metrics"])


def test_one_that_was_shut_down_is_asked_for_nothing(
    made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = Meters().provider
    provider.shutdown()
    provide(monkeypatch, provider)
    assert not metering.look()
    assert not [one for one in threading.enumerate() if one.name == "spool-metrics"]
    assert made == []
