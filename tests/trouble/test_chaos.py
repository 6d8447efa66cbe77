from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from chaos import rounds, total
from trials import Trial


@pytest.mark.trust
@pytest.mark.timeout(1200)
def test_nothing_is_lost_in_chaos(is_full: bool, report: Callable[[Trial], None]) -> None:
    seed = random.randrange(1 << 32)
    print(f"scripts/chaos --seed {seed}")
    seconds = 120 if is_full else 10
    verdicts = list(rounds(seconds, seed))
    assert {verdict.plan.seed: verdict.complaints() for verdict in verdicts} == {
        verdict.plan.seed: [] for verdict in verdicts
    }
    report(total([verdict.trouble() for verdict in verdicts]))
