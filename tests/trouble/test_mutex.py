"""The file's first invariant, watched from outside: who writes or checkpoints has the mutex."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.trust,
    pytest.mark.skipif(
        shutil.which("strace") is None, reason="strace is not here (Debian: strace)"
    ),
]

# Three writers and a drainer on one file, which is checkpointed often; each ends in order.
PROCESSES = """
import contextlib, os, sqlite3, sys, time
from pathlib import Path
from spans import batch
from spool.store import connections, limits, maintenance, maintenance_thread, row_packing, sqlite
from spool.store.maintenance_thread import MaintenanceThread
from spool.settings.settings import Settings
from spool.settings.target import Target
from spool.store.store import Store

for module in connections, limits, maintenance, maintenance_thread:
    module.LARGE_WAL = 50_000
path, target = Path(sys.argv[1]), Target.langfuse("pk-lf-a", "sk-lf-a", "https://x.example")
Store(path).register(target)
children = []
for number in range(4):
    child = os.fork()
    if child:
        children.append(child)
        continue
    store = Store(path)
    thread = MaintenanceThread(store, Settings(path=path, target=target, sync_seconds=0.1))
    thread.start()
    steps = 120 if number else 30
    while steps:
        if number:
            store.append(target, batch("a", size=2000), 1.0, patience=60)
        elif (take := store.oldest(1, max_bytes=20_000, max_spans=10)) is not None:
            store.settle(take, 2.0)
            row_packing.pack(store.database, 1, 10_000)
        else:
            time.sleep(0.001)  # the writers are still to come
            continue
        steps -= 1
    thread.stop(60)
    store.close()
    os._exit(0)
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""

# A child that was forked beside an open file, and comes to a normal end without having used it.
FORK = """
import os, sys
from pathlib import Path
from spans import batch
from spool.settings.target import Target
from spool.store.store import Store

target = Target.langfuse("pk-lf-a", "sk-lf-a", "https://x.example")
store = Store(Path(sys.argv[1]))
store.append(target, batch("a"), 1.0)
store.ledger()
child = os.fork()
if child:
    os.waitpid(child, 0)
    store.append(target, batch("b"), 2.0)
    store.close()
"""

LINE = re.compile(
    r"(?P<thread>\d+) +(?P<call>\w+)\((?P<arguments>.*?)"
    r"(?:\)\s+= (?P<result>-?\d+).*| <unfinished.*)"
)
RESUMED = re.compile(r"(?P<thread>\d+) +<\.\.\. flock resumed>.*= (?P<result>-?\d+)")


@dataclass
class FileWatch:
    """Reads a trace line by line: who has the mutex, and who writes without it."""

    holder: str | None = None
    asking: set[str] = field(default_factory=set)
    writes: Counter[str] = field(default_factory=Counter)
    strays: list[str] = field(default_factory=list)
    failure: str = ""

    def read(self, line: str) -> None:
        """Take in a call: freeing counts from its beginning, taking from its end."""
        if resumed := RESUMED.match(line):
            if resumed["thread"] in self.asking and resumed["result"] == "0":
                self.take(resumed["thread"], line)
            self.asking.discard(resumed["thread"])
        elif match := LINE.match(line):
            self.see(match["thread"], match["call"], match["arguments"], match["result"], line)

    def see(self, thread: str, call: str, arguments: str, result: str | None, line: str) -> None:
        if call == "flock" and "spool.db.lock>" in arguments:
            if "LOCK_UN" in arguments:  # one that did not get it says so, too
                self.holder = None if self.holder == thread else self.holder
            elif result == "0":
                self.take(thread, line)
            elif result is None:
                self.asking.add(thread)
        elif call != "flock" and re.search(r"spool\.db(-wal)?[>\"]", arguments):
            self.writes[call] += 1
            if self.holder != thread:
                self.strays.append(line)

    def take(self, thread: str, line: str) -> None:
        assert self.holder is None, f"{self.holder} has it: {line}"
        self.holder = thread


def watch(path: Path, code: str) -> FileWatch:
    path.parent.mkdir(mode=0o700)
    trace = path.with_name("trace")
    calls = "trace=flock,pwrite64,ftruncate,unlink"
    strace = ["strace", "-f", "-y", "-s", "0", "-e", calls, "-o", str(trace)]
    done = subprocess.run(
        [*strace, sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    seen = FileWatch(failure=done.stderr if done.returncode else "")
    for line in trace.read_text().splitlines():
        seen.read(line)
    return seen


def test_no_write_and_no_checkpoint_overlaps_another_in_any_process(path: Path) -> None:
    seen = watch(path, PROCESSES)
    print(seen.writes)
    assert seen.failure == ""
    assert seen.strays == []
    assert seen.writes["pwrite64"] > 1000
    assert seen.writes["ftruncate"] > 2  # checkpoints that began the WAL anew


def test_a_forked_child_that_comes_to_its_end_writes_nothing(path: Path) -> None:
    seen = watch(path, FORK)
    assert seen.failure == ""
    assert seen.strays == []
    assert seen.writes["pwrite64"] > 5


def test_a_checkpoint_without_the_mutex_is_found_out(path: Path) -> None:
    careless = PROCESSES.replace(
        "store.settle(take, 2.0)",
        "with contextlib.suppress(sqlite3.Error):\n"
        "                sqlite.checkpoint(store.database._connections.writer())",
    )
    assert watch(path, careless).strays  # and it may make the others fail: SQLite says "locked"
