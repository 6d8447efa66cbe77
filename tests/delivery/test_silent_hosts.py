from __future__ import annotations

import time

import pytest

from spool.delivery.silent_hosts import SilentHosts
from waits import wait_until

pytestmark = pytest.mark.once

ALWAYS = 0.0
ONE, OTHER = "https://one.example/v1/traces", "https://one.example/api/traces"
ELSEWHERE = "https://two.example/v1/traces"


def muted(seconds: float = 60.0) -> tuple[SilentHosts, float]:
    """Let a request to a host get no answer."""
    hosts, began_at = SilentHosts(), time.monotonic()
    hosts.mute(ONE, began_at, seconds, "no answer")
    return hosts, began_at


def test_a_host_that_answers_nobody_is_silent_for_all_of_its_endpoints() -> None:
    hosts, _ = muted()
    silence = hosts.silence(OTHER, ALWAYS)
    assert silence is not None
    assert silence.reason == "no answer"
    assert hosts.silence(ELSEWHERE, ALWAYS) is None


def test_any_answer_ends_a_silence() -> None:
    hosts, _ = muted()
    hosts.answered(OTHER)
    assert hosts.silence(ONE, ALWAYS) is None


def test_where_others_were_answered_meanwhile_the_host_is_not_silent() -> None:
    hosts, began_at = SilentHosts(), time.monotonic()
    hosts.answered(OTHER)
    hosts.mute(ONE, began_at, 60.0, "no answer")
    assert hosts.silence(ONE, ALWAYS) is None


def test_a_silence_is_over_when_its_host_is_tried_again() -> None:
    hosts, _ = muted(-1.0)
    wait_until(lambda: hosts.silence(ONE, ALWAYS) is None)


def test_a_silence_that_began_before_is_not_told_of_those_who_try() -> None:
    hosts, _ = muted()
    assert hosts.silence(ONE, time.monotonic() + 1) is None
