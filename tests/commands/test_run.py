from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from damaged_files import damage_the_routes
from spool.store.store import Store
from standin import StandIn
from users import spool

pytestmark = pytest.mark.once


def test_run_ends_when_it_is_told_to_in_the_moment_that_it_goes_on(filled: Store) -> None:
    command = [sys.executable, "-m", "spool", "run"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as sidecar:
        assert sidecar.stderr is not None
        sidecar.stderr.readline()
        for number in (signal.SIGSTOP, signal.SIGCONT, signal.SIGTERM):
            sidecar.send_signal(number)
        assert sidecar.wait(120) == 0


def test_run_drains_until_it_is_told_to_stop(
    filled: Store, store: Store, langfuse: StandIn
) -> None:
    command = [sys.executable, "-m", "spool", "run"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as sidecar:
        langfuse.wait_for(lambda server: server.accepted == 10)
        said = json.loads(spool("status", "--json").stdout)
        assert said["drainer"] == {"running": True, "pid": sidecar.pid}
        sidecar.send_signal(signal.SIGTERM)
    assert sidecar.returncode == 0
    assert store.ledger().delivered == 10


def test_run_salvages_a_damaged_file_and_drains_on(filled: Store, path: Path) -> None:
    filled.database.checkpoint()
    damage_the_routes(filled)
    command = [sys.executable, "-m", "spool", "run"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as sidecar:
        assert sidecar.stderr is not None
        assert "was damaged and was moved to" in sidecar.stderr.readline()
        assert f"draining {path}" in sidecar.stderr.readline()
        sidecar.send_signal(signal.SIGTERM)
    assert sidecar.returncode == 0
    assert filled.ledger().pending == 10
