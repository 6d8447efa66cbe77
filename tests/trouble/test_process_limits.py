"""A peer that holds the mutex and stands still, and processes at their limits of files."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from opentelemetry.sdk.trace.export import SpanExportResult

from refusal import Refusal
from spool import Settings
from spool.store.store import Store
from spool.system.spool_files import beside
from standin import StandIn
from trials import Trial
from users import SHORT_WAITS, environment_of
from waits import wait_until
from witness import Witness
from writer import Nursery

pytestmark = pytest.mark.once


HOLDER = """
import fcntl, os, signal, sys
fd = os.open(sys.argv[1], os.O_RDWR)
fcntl.flock(fd, fcntl.LOCK_EX)
print("held", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
"""


@pytest.mark.trust
@pytest.mark.timeout(1200)
def test_a_stopped_peer_that_holds_the_mutex_costs_nobody_a_wait(
    settings: Settings,
    path: Path,
    langfuse: StandIn,
    is_full: bool,
    report: Callable[[Trial], None],
) -> None:
    rounds = 10 if is_full else 1
    refusal = Refusal(settings, langfuse)
    refusal.end_spans(20)
    for number in range(rounds):
        command = [sys.executable, "-c", HOLDER, str(beside(path, ".lock"))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as peer:
            assert peer.stdout is not None
            assert peer.stdout.readline() == "held\n"
            assert refusal.end_spans(500) == [SpanExportResult.SUCCESS] * 500
            peer.send_signal(signal.SIGCONT if number % 2 else signal.SIGKILL)
        wait_until(lambda: refusal.arrived() == len(refusal.results))
    refusal.recover()
    report(refusal.trial("a stopped peer that holds the mutex", rounds))


@pytest.mark.trust
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("limit", ["RLIMIT_FSIZE", "RLIMIT_NOFILE"])
def test_a_process_at_its_limit_goes_on(
    limit: str,
    path: Path,
    tmp_path: Path,
    is_full: bool,
    report: Callable[[Trial], None],
) -> None:
    rounds = 10 if is_full else 1
    values = {"RLIMIT_FSIZE": 300_000, "RLIMIT_NOFILE": 13}
    with (
        Witness() as langfuse,
        Nursery(tmp_path / "trails", environment_of(path, langfuse.url, **SHORT_WAITS)) as nursery,
    ):
        for _ in range(rounds):
            started = [
                nursery.start(count=300, limits={limit: values[limit]} if number % 2 else {})
                for number in range(4)
            ]
            for pid in started:
                assert nursery.wait(pid) == 0, nursery.errors()
        assert "Traceback" not in nursery.errors(), nursery.errors()
        by_hand = nursery.start(command=("drain",))
        assert nursery.wait(by_hand) == 0, nursery.errors()
        trail, arrived = nursery.trail(), langfuse.span_ids()
    assert len(trail.spooled | trail.failed) == 4 * 300 * rounds
    store = Store(path)
    ledger = store.ledger()
    store.close()
    report(
        Trial(
            name=f"{limit} in every second process",
            tried=rounds,
            ended=len(trail.spooled | trail.failed),
            accepted=ledger.accepted,
            refused=ledger.refused,
            # What a limited process still held at its end, when it could not even count it.
            in_memory=len(trail.spooled | trail.failed) - ledger.accepted - ledger.refused,
            lost=len(trail.spooled - set(arrived)),
            duplicates=sum(arrived.values()) - len(arrived),
        )
    )
