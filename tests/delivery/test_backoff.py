from __future__ import annotations

import resource
import sys

import pytest

from spool.delivery import backoff

pytestmark = pytest.mark.once


def test_a_process_without_a_free_descriptor_waits_the_longest_backoff(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "tenacity"]:
        monkeypatch.delitem(sys.modules, name)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        seconds = backoff.draw(1, 1, 60)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert seconds == 60


def test_a_backoff_is_exponential_with_full_jitter_and_has_a_ceiling() -> None:
    for attempt, ceiling in ((1, 1), (2, 2), (5, 16), (7, 60), (1000, 60)):
        drawn = [backoff.draw(attempt, 1, 60) for _ in range(200)]
        assert 0 <= min(drawn) < ceiling / 2 < max(drawn) <= ceiling


def test_the_ceiling_of_a_backoff_doubles_up_to_the_largest() -> None:
    assert [backoff.longest(attempt, 1, 60) for attempt in (1, 2, 5, 7, 100_000)] == [
        1, 2, 16, 60, 60
    ]  # fmt: skip


def test_the_first_probe_is_due_at_once_and_each_that_is_refused_quadruples_the_pause() -> None:
    assert [backoff.between_probes(probes, 1, 330) for probes in (0, 1, 2, 5, 100_000)] == [
        0, 1, 4, 256, 330
    ]  # fmt: skip
