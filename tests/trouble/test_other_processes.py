"""What other processes left, and what waits beside them: it is found, at next to no cost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
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


# Of a core, together. The promise is 1 and 2 %; busy machines count more.
LITTLE = 0.03


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


IDLE = """
import os, sys, time
from spool import SpoolSpanExporter
from spans import span

for _ in range(int(sys.argv[1]) - 1):
    if os.fork() == 0:
        break
exporter = SpoolSpanExporter()
exporter.export([span()])
time.sleep(5)  # until all is done
before = time.process_time()
time.sleep(10)
os.write(1, f"{time.process_time() - before}\\n".encode())
os._exit(0)
"""


def test_idle_processes_cost_next_to_nothing_however_many_they_are(
    path: Path, langfuse: StandIn
) -> None:
    environment = {**os.environ, **environment_of(path, langfuse.url)}
    command = [sys.executable, "-c", IDLE, "32"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        costs = [float(line) for line in running.stdout]
    assert (len(costs), langfuse.accepted) == (32, 32)
    assert sum(costs) / 10 < 32 * 0.01  # a hundredth of a core each, on a slow machine, too


def test_many_routes_that_wait_cost_next_to_nothing(path: Path, tmp_path: Path) -> None:
    store, credentials = Store(path), tmp_path / "credentials"
    for number in range(400):
        target = Target.langfuse(f"pk-lf-{number}", f"sk-lf-{number}", "http://127.0.0.1:9")
        store.append(target, batch("waits"), time.time())
    with store.database.transaction() as connection:
        connection.execute(
            "UPDATE route SET attempts = 9, waited_at = ?, wait_seconds = 3600", (time.time(),)
        )
    store.close()
    credentials.touch(0o600)
    lines = (f"pk-lf-{number}: sk-lf-{number} http://127.0.0.1:9\n" for number in range(400))
    credentials.write_text("".join(lines))
    environment = {
        **os.environ,
        "SPOOL_PATH": str(path),
        "SPOOL_CREDENTIALS_FILE": str(credentials),
    }
    with subprocess.Popen(
        [sys.executable, "-m", "spool", "run"], env=environment, stderr=subprocess.PIPE
    ) as running:
        assert running.stderr is not None
        assert running.stderr.readline()  # it drains
        time.sleep(5)
        before = cpu_seconds(running.pid)
        time.sleep(10)
        cost = cpu_seconds(running.pid) - before
        running.terminate()
    assert cost / 10 < LITTLE


def cpu_seconds(pid: int) -> float:
    """Tell what a process has used (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
