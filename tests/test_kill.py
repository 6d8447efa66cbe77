"""kill -9 at any moment loses no span that ended: the first promise, with real kills."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

import standin
from standin import StandIn

WRITER = Path(__file__).parent / "writer.py"
ROUNDS = 30
SPANS = 200
PAUSE = 0.004


def seed() -> int:
    """Draw a seed, or take the one to repeat; it is printed with a failure."""
    drawn = int(os.environ.get("TEST_SEED", random.randrange(1 << 32)))
    print(f"TEST_SEED={drawn}")
    return drawn


def start_writer(count: int, pause: float) -> subprocess.Popen[str]:
    command = [sys.executable, str(WRITER), str(count), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def killed_writer(delay: float) -> list[str]:
    """Kill a writer after `delay` seconds; give the ids of the spans it acknowledged."""
    with start_writer(SPANS, PAUSE) as writer:
        time.sleep(delay)
        writer.kill()
        said, _ = writer.communicate()
    return [line for line in said.splitlines() if len(line) == 16]


def spool(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "spool", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_no_acknowledged_span_is_lost_by_kill_9(
    path: Path,
    langfuse: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    chance = random.Random(seed())
    monkeypatch.setenv("SPOOL_PATH", str(path))
    monkeypatch.setenv("SPOOL_BACKOFF_SECONDS", "0.01..0.05")
    monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", "pk-lf-test")
    monkeypatch.setenv("LANGFUSE_SECRET_KEY", "sk-lf-test")
    monkeypatch.setenv("LANGFUSE_HOST", langfuse.url)
    started = time.monotonic()
    with start_writer(SPANS, PAUSE) as whole:
        acknowledged = [line.strip() for line in whole.communicate()[0].splitlines()]
    run_seconds = time.monotonic() - started
    assert len(acknowledged) == SPANS
    for number in range(ROUNDS):
        if number % 2:
            langfuse.stop()
        else:
            langfuse.start()
        acknowledged += killed_writer(chance.uniform(0, run_seconds))
    langfuse.start()
    drained = spool("drain", "--json")
    assert drained.returncode == 0, drained

    arrived = langfuse.span_ids()
    assert len(acknowledged) >= 1000
    assert [span for span in acknowledged if span not in arrived] == []
    ledger = json.loads(spool("status", "--json").stdout)["ledger"]
    assert ledger["pending"] == ledger["dead"] == 0
    assert ledger["accepted"] == ledger["delivered"] == len(arrived) >= len(acknowledged)
    # A kill can repeat the request in flight, and nothing else.
    duplicates = sum(arrived.values()) - len(arrived)
    sizes = [len(list(standin.spans_of(standin.parse(request)))) for request in langfuse.requests]
    print(f"{len(acknowledged)} acknowledged, 0 lost, {duplicates} duplicates")
    assert duplicates <= ROUNDS * max(sizes)
