"""kill -9 at any moment loses no span that ended: the first promise, with real kills.

A span counts as ended when it was acknowledged, or when it arrived though its process was killed
before it could say so.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from seeds import seed
from spool.system.locks import signature
from spool.system.spool_files import beside
from standin import Exchange
from trials import Trial
from users import SHORT_WAITS, environment_of
from witness import Witness
from writer import Nursery

# With --full it takes minutes.
pytestmark = [pytest.mark.trust, pytest.mark.timeout(1200)]

WRITERS = 6


def spool(path: Path, langfuse: Witness, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **environment_of(path, langfuse.url, **SHORT_WAITS)}
    command = [sys.executable, "-m", "spool", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def verdict(name: str, kills: int, path: Path, langfuse: Witness, nursery: Nursery) -> Trial:
    """Deliver all that is left, and say what came of it."""
    langfuse.start()
    langfuse.behave(None)
    drained = spool(path, langfuse, "drain", "--json")
    assert drained.returncode == 0, drained
    assert nursery.deaths() == {}, nursery.errors()
    assert "Traceback" not in nursery.errors(), nursery.errors()
    ledger = json.loads(spool(path, langfuse, "status", "--json").stdout)["ledger"]
    assert ledger["pending"] == ledger["dead"] == 0
    assert ledger["accepted"] == ledger["delivered"]
    arrived, trail = langfuse.span_ids(), nursery.trail()
    return Trial(
        name=name,
        tried=kills,
        ended=len(trail.ended(arrived)),
        accepted=ledger["accepted"],
        refused=ledger["refused"],
        in_memory=ledger["in_memory"],
        lost=len(trail.spooled - set(arrived)),
        duplicates=sum(arrived.values()) - len(arrived),
    )


def test_no_acknowledged_span_is_lost_by_kill_9(
    path: Path, tmp_path: Path, is_full: bool, report: Callable[[Trial], None]
) -> None:
    chance = random.Random(seed())
    kills = 1000 if is_full else 20
    with (
        Witness() as langfuse,
        Nursery(tmp_path / "trails", environment_of(path, langfuse.url, **SHORT_WAITS)) as nursery,
    ):
        for number in range(kills):
            while len(nursery.alive) < WRITERS:
                drain = chance.choice(["on", "off"])
                nursery.start(environment={"SPOOL_DRAIN": drain})
            if number % 10 == 0:
                (langfuse.stop if number % 20 else langfuse.start)()
            time.sleep(chance.uniform(0, 0.05))
            killed = chance.choice(sorted(nursery.alive))
            nursery.kill(killed)
            nursery.wait(killed)
        nursery.stop()
        trouble = verdict("kill -9 of writers", kills, path, langfuse, nursery)
        assert trouble.ended > kills
        # A stop of the server interrupts a request as well.
        assert langfuse.repeated() <= kills + kills // 20
    report(trouble)


class Killer:
    """Kills the process whose request it is, before or after the server has accepted it."""

    def __init__(self, path: Path, nursery: Nursery, kills: int, chance: random.Random) -> None:
        self.drain_lock = beside(path, ".turn")
        self.nursery = nursery
        self.left = kills
        self.chance = chance
        self.killed = 0

    def __call__(self, exchange: Exchange) -> None:
        moment = self.chance.choice(["before it is read", "read", "accepted", "answered"])
        if moment == "before it is read":
            self.kill()
        reply = exchange.judge()
        if moment == "read":
            self.kill()
        if moment == "accepted":
            exchange.settle(reply)
            self.kill()
            exchange.reset()
            return
        exchange.answer(reply)
        if moment == "answered":
            self.kill()

    def kill(self) -> None:
        signed = signature(self.drain_lock, self.drain_lock)
        if self.left and signed and signed[0] in self.nursery.alive:
            pid = signed[0]
            self.left -= 1
            self.nursery.kill(pid)
            self.nursery.wait(pid)
            self.killed += 1


def test_a_drainer_that_is_killed_in_mid_request_repeats_that_request_and_nothing_else(
    path: Path, tmp_path: Path, is_full: bool, report: Callable[[Trial], None]
) -> None:
    chance = random.Random(seed())
    kills = 1000 if is_full else 20
    with (
        Witness() as langfuse,
        Nursery(tmp_path / "trails", environment_of(path, langfuse.url, **SHORT_WAITS)) as nursery,
    ):
        killer = Killer(path, nursery, kills, chance)
        langfuse.behave(killer)
        writer = nursery.start(environment={"SPOOL_DRAIN": "off"})
        deadline = time.monotonic() + 120 + 5 * kills
        while killer.left:
            assert time.monotonic() < deadline, langfuse.describe()
            while len(nursery.alive) < 4:
                nursery.start(command=chance.choice([(), ("run",)]))
            time.sleep(0.005)
        assert writer in nursery.alive
        langfuse.behave(None)
        nursery.stop()
        trouble = verdict("kill -9 of drainers in mid-request", kills, path, langfuse, nursery)
        assert killer.killed == kills
        assert 0 < langfuse.repeated() <= kills
    report(trouble)
