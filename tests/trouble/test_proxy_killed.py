"""A real LiteLLM proxy whose workers are killed in an outage, beside LiteLLM's own callback."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

import span_witness
from ledgers import ledger_of
from projects import PROJECTS
from proxies import Proxy, needs_proxy
from standin import StandIn
from trials import Trial
from users import SHORT_WAITS
from waits import wait_until

pytestmark = [needs_proxy, pytest.mark.trust, pytest.mark.timeout(1200)]

STOCK: Final = 'litellm_settings:\n  callbacks: ["langfuse_otel"]\n'
SPOOLED: Final = {"LITELLM_WORKER_STARTUP_HOOKS": "spool.litellm:install", **SHORT_WAITS}
V2: Final = {"LITELLM_OTEL_V2": "true"}
# Each key asks in turn; of five answers one is streamed, and one fails.
REQUESTS: Final = [
    (("sk-own", "sk-team")[n % 2], "broken" if n % 5 == 4 else "mock", n % 5 == 3)
    for n in range(100)
]


@dataclass(frozen=True)
class Killed:
    """What became of the spans of a proxy that was killed: those that ended, by id, all told."""

    ended: set[str]
    arrived: Counter[str]

    @property
    def lost(self) -> set[str]:
        return self.ended - set(self.arrived)

    @property
    def duplicates(self) -> int:
        return self.arrived.total() - len(self.arrived)


def kill_amid_an_outage(directory: Path, langfuse: StandIn, **environment: str) -> Killed:
    """Ask 100 times, kill -9 the workers at once, end the outage, ask those that come after them.

    What those end must arrive, from whatever exporter; what the killed ones had ended may.
    """
    langfuse.keys.update(PROJECTS)
    langfuse.stop()
    witness = directory / "ended"
    named = {span_witness.FILE: str(witness), "LANGFUSE_HOST": langfuse.url}
    proxy = Proxy(directory / "proxy", STOCK, 2, **named, **environment)
    with contextlib.closing(proxy):
        proxy.wait_until_up()
        with ThreadPoolExecutor(8) as clients:
            answers = list(clients.map(lambda request: proxy.ask(*request), REQUESTS))
        proxy.kill_workers()
        assert Counter(status for status, _ in answers) == {200: 80, 500: 20}, answers
        before = set(span_witness.noted(witness))
        langfuse.start()
        proxy.wait_until_up(is_anew=True)
        for key in ("sk-own", "sk-team"):
            assert proxy.ask(key, "mock") == (200, "hello")
        must = (lambda ended: ended - before) if "SPOOL_PATH" not in environment else set

        def all_is_there() -> bool:
            ended = set(span_witness.noted(witness))
            return ended > before and must(ended) <= set(langfuse.span_ids())

        wait_until(all_is_there, every=0.1)
    arrived = langfuse.span_ids()
    return Killed(set(span_witness.noted(witness)) | set(arrived), arrived)


@pytest.mark.parametrize("v2", [{}, V2], ids=["v1", "v2"])
def test_all_spans_of_killed_workers_arrive_from_those_that_come_after(
    tmp_path: Path,
    path: Path,
    langfuse: StandIn,
    report: Callable[[Trial], None],
    is_full: bool,
    v2: dict[str, str],
) -> None:
    if not is_full and not v2:
        pytest.skip("its proxy is tried as it is terminated; killed as well: with --full")
    killed = kill_amid_an_outage(tmp_path, langfuse, SPOOL_PATH=str(path), **SPOOLED, **v2)
    ledger = ledger_of(path)
    report(
        Trial(
            name=f"kill -9 of a LiteLLM proxy's workers, {'v2' if v2 else 'v1'}",
            tried=1,
            ended=len(killed.ended),
            accepted=ledger.accepted,
            refused=ledger.refused,
            in_memory=0,
            lost=len(killed.lost),
            duplicates=killed.duplicates,
        )
    )


@pytest.mark.parametrize("v2", [{}, V2], ids=["v1", "v2"])
def test_beside_it_litellms_own_callback_loses_them(
    tmp_path: Path,
    langfuse: StandIn,
    show: Callable[[Trial], None],
    is_full: bool,
    v2: dict[str, str],
) -> None:
    if not is_full:
        pytest.skip("a comparison, for the table in tests/README.md: with --full")
    killed = kill_amid_an_outage(tmp_path, langfuse, **v2)
    assert killed.lost
    show(
        Trial(
            name=f"the same with LiteLLM's own callback, {'v2' if v2 else 'v1'}",
            tried=1,
            ended=len(killed.ended),
            accepted=0,
            refused=0,
            in_memory=0,
            lost=len(killed.lost),
            duplicates=killed.duplicates,
        )
    )
