"""A fault at the Nth system call, for every N: the application sees nothing of it, no span is lost.

strace makes a call fail with EIO or ENOSPC, once or from then on, or kills the process at it. It
counts the calls of each thread for itself, so one run meets the fault in each thread that gets so
far. The calls are those that change the file or make it certain. In every second run the endpoint
is down, too.

What this cannot show: after an fsync that failed, a real disk may hold other bytes than the page
cache, and that is what the next process reads here.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from crashes import WORKER, Found, found_in
from seeds import seed
from spool.settings.target import Target
from spool.store.store import Store
from standin import StandIn, unavailable
from syscalls import calls, has_strace
from trials import Trial
from users import environment_of

pytestmark = [
    pytest.mark.trust,
    pytest.mark.timeout(5400),
    pytest.mark.skipif(not has_strace, reason="needs strace, and the right to use it"),
]

STEPS = "export=3 sleep=0.25 export=2 checkpoint export=1 close"
# `writev` appends to the journal, and does nothing else; the other writes are SQLite's.
CALLS = ("writev", "pwrite64", "fdatasync", "fsync", "ftruncate")
FAULTS = {
    "error=EIO": ("writev", "pwrite64", "fdatasync", "fsync", "ftruncate"),
    "error=ENOSPC": ("writev", "pwrite64", "ftruncate"),
    "signal=SIGKILL": ("writev", "pwrite64", "fdatasync", "fsync", "ftruncate"),
}
AT_ONCE_AND_FOR_EVER = ["writev:error=EIO:when=1+", "pwrite64:error=EIO:when=1+"]
FEW_RUNS = 4


@dataclass(frozen=True)
class Run:
    """What one process said, what its receiver got, and what the next process finds."""

    fault: str
    is_met: bool
    said: tuple[tuple[str, ...], ...]
    arrived: Counter[str]
    found: Found

    def ids(self, word: str) -> set[str]:
        """Give the spans of which the process said this."""
        return {ids[0] for first, *ids in self.said if first == word}

    @property
    def in_memory(self) -> int:
        """Count what only the memory had at the end, and could not be counted as refused any more.

        A commit that failed may yet be on disk. What was sent from the memory counts here as well
        where the disk did not take that it was delivered.
        """
        kept = {span_id for first, *ids in self.said if first == "in_memory" for span_id in ids}
        ledger = self.found.ledger
        in_memory = max(0, len(kept - self.found.spans) - ledger.refused)
        sent = (self.ids("held") & set(self.arrived)) - self.found.spans - kept
        uncounted = self.ended - ledger.accepted - ledger.refused - in_memory
        return in_memory + min(len(sent), max(0, uncounted))

    @property
    def lost(self) -> set[str]:
        """Give what it acknowledged and is nowhere."""
        return self.ids("spooled") - self.found.spans - set(self.arrived)

    @property
    def ended(self) -> int:
        """Count what ended: when killed, the last span only if it is found."""
        unanswered = self.ids("begun") - self.ids("spooled") - self.ids("held")
        is_found = unanswered & (self.found.spans | set(self.arrived))
        return len(self.ids("spooled") | self.ids("held") | is_found)


def run(directory: Path, fault: str, sync_seconds: str, *, is_new: bool, is_up: bool = True) -> Run:
    """Let a worker write and drain, to a new spool or an existing one, and inject a fault."""
    directory.mkdir()
    trace, path = directory / "trace", directory / "spool" / "spool.db"
    strace = ["strace", "-f", "--seccomp-bpf", "-o", str(trace), "-e", f"trace={','.join(CALLS)}"]
    inject = ["-e", f"inject={fault}"] if fault else []
    with StandIn() as langfuse:
        langfuse.behave(None if is_up else unavailable())
        if not is_new:
            create(path, langfuse)
        done = subprocess.run(
            [*strace, *inject, sys.executable, str(WORKER), *STEPS.split()],
            env=environment(path, langfuse, sync_seconds),
            capture_output=True,
            text=True,
            check=False,
        )
    is_kill = "SIGKILL" in fault
    assert done.returncode in ((0, -9) if is_kill else (0,)), (fault, done)
    assert "Traceback" not in done.stderr, (fault, done.stderr)
    is_met = bool(set(trace.read_text().split()) & {"(INJECTED)", "SIGKILL"})
    said = tuple(tuple(line.split()) for line in done.stdout.splitlines())
    try:
        found = found_in(path)
    except Exception as error:
        raise AssertionError(f"{fault}, SPOOL_SYNC_SECONDS={sync_seconds}: {error}") from error
    return Run(fault, is_met, said, langfuse.span_ids(), found)


def create(path: Path, langfuse: StandIn) -> None:
    store = Store(path)
    store.register(Target.langfuse("pk-lf-test", "sk-lf-test", langfuse.url))
    store.close()


def environment(path: Path, langfuse: StandIn, sync_seconds: str) -> dict[str, str]:
    more = {"SPOOL_SYNC_SECONDS": sync_seconds, "SPOOL_BACKOFF_SECONDS": "0.01..0.05"}
    return {**os.environ, **environment_of(path, langfuse.url, **more)}


def numbers(trace: Path) -> Counter[str]:
    """Count a trace's calls: of each kind those of the thread that makes the most."""
    counts = Counter((call.thread, call.name) for call in calls(trace) if call.result is None)
    return Counter({name: max(n for (_, of), n in counts.items() if of == name) for name in CALLS})


def faults(counts: Mapping[str, int]) -> Iterator[str]:
    """Give every fault at every call, once, and from then on where it is not a kill."""
    for fault, names in FAULTS.items():
        for name in names:
            for number in range(1, counts[name] + 1):
                yield f"{name}:{fault}:when={number}"
                if "error" in fault:
                    yield f"{name}:{fault}:when={number}+"


@pytest.mark.parametrize("is_new", [True, False], ids=["new", "existing"])
@pytest.mark.parametrize("sync_seconds", ["0", "0.1"])
def test_no_fault_of_the_disk_reaches_the_application_or_loses_a_span(
    tmp_path: Path,
    sync_seconds: str,
    is_new: bool,
    is_full: bool,
    report: Callable[[Trial], None],
) -> None:
    chance = random.Random(seed())
    clean = run(tmp_path / "clean", "", sync_seconds, is_new=is_new)
    assert clean.ended == len(clean.arrived) == clean.found.ledger.accepted > 0
    chosen = list(faults(numbers(tmp_path / "clean" / "trace")))
    if not is_full:
        chosen = 2 * AT_ONCE_AND_FOR_EVER + chance.sample(chosen, FEW_RUNS)

    def try_one(numbered: tuple[int, str]) -> Run:
        number, fault = numbered
        is_up = number % 2 == 0
        return run(tmp_path / str(number), fault, sync_seconds, is_new=is_new, is_up=is_up)

    with ThreadPoolExecutor(2) as pool:
        runs = [one for one in pool.map(try_one, enumerate(chosen)) if one.is_met]
    for one in runs:
        ledger = one.found.ledger
        assert not one.lost, one
        assert one.ended == ledger.accepted + ledger.refused + one.in_memory, one
    kind = "new" if is_new else "existing"
    report(row(f"faults, {kind} spool, SPOOL_SYNC_SECONDS={sync_seconds}", runs))


def row(name: str, runs: Sequence[Run]) -> Trial:
    return Trial(
        name=name,
        tried=len(runs),
        ended=sum(one.ended for one in runs),
        accepted=sum(one.found.ledger.accepted for one in runs),
        refused=sum(one.found.ledger.refused for one in runs),
        in_memory=sum(one.in_memory for one in runs),
        lost=sum(len(one.lost) for one in runs),
        duplicates=sum(sum(one.arrived.values()) - len(one.arrived) for one in runs),
    )
