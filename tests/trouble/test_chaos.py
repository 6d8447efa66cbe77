from __future__ import annotations

from collections.abc import Callable

import pytest

from chaos import rounds
from seeds import seed
from trials import Trial


@pytest.mark.trust
@pytest.mark.timeout(1200)
def test_nothing_is_lost_in_chaos(is_full: bool, report: Callable[[Trial], None]) -> None:
    seconds, drawn = 120 if is_full else 5, seed()
    print(f"for longer: scripts/chaos --seed {drawn}")
    verdicts = list(rounds(seconds, drawn))
    print(*[verdict.evidence for verdict in verdicts if verdict.evidence], sep="\n")
    assert {verdict.plan.seed: verdict.complaints() for verdict in verdicts} == {
        verdict.plan.seed: [] for verdict in verdicts
    }
    report(Trial.total(verdict.trial() for verdict in verdicts))
