from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from spool.store import drainers
from spool.store.store import Store
from trials import Trial
from users import SHORT_WAITS, environment_of
from waits import wait_until
from witness import Witness
from writer import Nursery

WRITERS = 8


@pytest.mark.trust
def test_eight_writers_share_one_drainer_and_the_next_takes_over_when_it_is_killed(
    path: Path, tmp_path: Path, is_full: bool, report: Callable[[Trial], None]
) -> None:
    kills = 50 if is_full else 5
    gaps = []
    with (
        Witness() as langfuse,
        Nursery(tmp_path / "trails", environment_of(path, langfuse.url, **SHORT_WAITS)) as nursery,
    ):
        for _ in range(WRITERS):
            nursery.start(pause=0.01)
        for _ in range(kills):
            killed = drainer_of(path, nursery)
            nursery.kill(killed)
            started, requests = time.monotonic(), len(langfuse.requests)
            nursery.wait(killed)
            nursery.start(pause=0.01)
            wait_until(lambda: len(langfuse.requests) > requests)  # noqa: B023 - waited for here
            gaps.append(time.monotonic() - started)
        nursery.stop()
        by_hand = nursery.start(command=("drain",))
        assert nursery.wait(by_hand) == 0, nursery.errors()
        assert not nursery.deaths(), nursery.errors()
        trail, arrived = nursery.trail(), langfuse.span_ids()
    print(f"the next one had sent after {max(gaps):.2f} s at most")
    store = Store(path)
    ledger = store.ledger()
    store.close()
    assert (ledger.pending, ledger.dead) == (0, 0)
    report(
        Trial(
            name="8 writers, their drainer killed",
            tried=kills,
            ended=len(trail.ended(arrived)),
            accepted=ledger.accepted,
            refused=ledger.refused,
            in_memory=ledger.in_memory,
            lost=len(trail.spooled - set(arrived)),
            duplicates=sum(arrived.values()) - len(arrived),
        )
    )


def drainer_of(path: Path, nursery: Nursery) -> int:
    """Wait for a process to have had a turn that is alive still."""
    found: list[int] = []

    def is_found() -> bool:
        store = Store(path)
        pid = store.drain_lock.pid() if path.exists() and drainers.is_any(store) else None
        store.close()
        if pid in nursery.alive:
            found.append(pid or 0)
        return bool(found)

    wait_until(is_found)
    return found[0]


@pytest.mark.trust
def test_workers_go_on_when_the_parent_that_preloaded_them_is_killed(
    path: Path, tmp_path: Path
) -> None:
    with (
        Witness() as langfuse,
        Nursery(tmp_path / "trails", environment_of(path, langfuse.url, **SHORT_WAITS)) as nursery,
    ):
        parent = nursery.start(children=3, pause=0.005)
        wait_until(lambda: len(nursery.alive) == 4)
        nursery.kill(parent)
        nursery.wait(parent)
        requests = len(langfuse.requests)
        wait_until(lambda: len(langfuse.requests) > requests)
        nursery.stop()  # the workers exit normally
        assert not nursery.deaths(), nursery.errors()
        by_hand = nursery.start(command=("drain", "--json"))
        assert nursery.wait(by_hand) == 0, nursery.errors()
        trail, arrived = nursery.trail(), langfuse.span_ids()
    assert trail.spooled <= set(arrived)
