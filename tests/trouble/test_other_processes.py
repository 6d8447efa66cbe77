"""What other processes left is found, however many there are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dead_processes import leave_many
from spans import batch
from spool.delivery.drainer import Drainer
from spool.settings.settings import Settings
from spool.settings.target import Target
from spool.store.store import Store
from standin import StandIn
from users import environment_of
from waits import wait_until

pytestmark = pytest.mark.once


def test_what_a_process_left_that_dies_unseen_is_sent_by_one_that_is_idle(
    store: Store, other: Store, settings: Settings, target: Target, langfuse: StandIn
) -> None:
    store.register(target)
    other.open()
    drainer = Drainer(store, settings)
    drainer.routes.add(target)
    drainer.start()
    try:
        other.accept(target, batch("left"), 1.0)
        wait_until(store.presence.path.exists)
        seen_at = os.stat(store.presence.path).st_mtime_ns
        wait_until(lambda: os.stat(store.presence.path).st_mtime_ns > seen_at)
        other.close()  # its death frees its lock, and changes no file
        langfuse.wait_for(lambda server: server.accepted == 1, timeout=30)
    finally:
        drainer.stop(30)


def test_status_and_drain_work_beside_more_dead_processes_than_files_may_be_open(
    path: Path, langfuse: StandIn
) -> None:
    leave_many(path, 300)
    langfuse.keys = {**langfuse.keys, "pk-lf-mine": "sk-lf-mine"}
    environment = {**os.environ, **environment_of(path, langfuse.url, "mine")}

    def run(*command: str) -> dict[str, object]:
        limited = f'ulimit -n 128; exec "{sys.executable}" -m spool {" ".join(command)}'
        done = subprocess.run(
            ["bash", "-c", limited], env=environment, capture_output=True, text=True, check=False
        )
        assert "Too many open files" not in done.stderr
        said: dict[str, object] = json.loads(done.stdout)
        return said

    pending = run("status", "--json")["pending"]
    assert isinstance(pending, dict)
    assert pending["spans"] == 300
    drained = run("drain", "--json")
    assert (drained["delivered"], drained["pending"]) == (300, 0)
    assert langfuse.accepted == 300
