"""Chaos: minutes of random trouble for several processes on one spool, then a verdict.

`scripts/chaos --seconds 120 --seed 7` goes in rounds, each with a spool of its own: writers
that drain and writers that do not, `python -m spool run`, preloaded processes that fork. They are
killed, stopped and ended at random; the server stands, falls and lies at random; some rounds have a
limit, some a disk that becomes full. At the end of a round the server is well and everything is
drained. Then every acknowledged span has arrived, or is a dead letter, or was evicted and counted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import inquest
import standin
from disks import enlarge_disk, fill_disk, small_disk
from spool.otlp.batch import unpack
from spool.store.records import Ledger
from spool.store.store import Store
from spool.system.locks import signature
from spool.system.spool_files import beside
from standin import Behaviour
from trials import Trial
from users import SHORT_WAITS, environment_of
from verdict import LIMITS, Plan, Verdict
from witness import Witness
from writer import Nursery

ROUND_SECONDS = 20.0
DISK_BYTES = 32 << 20

BEHAVIOURS: dict[str, Callable[[], Behaviour | None]] = {
    "well": lambda: None,
    "500": standin.server_error,
    "503": standin.unavailable,
    "503 with Retry-After": standin.busy,
    "429 with Retry-After": lambda: standin.too_many(1),
    "401": lambda: standin.status(401),
    "403": standin.suspended,
    "404": lambda: standin.status(404),
    "a captive portal": standin.html_200,
    "a redirect": standin.redirect_302,
    "mute": standin.mute,
    "late": lambda: standin.delay(2.5),
    "slow headers": lambda: standin.slow_headers(0.01),
    "slow body": lambda: standin.slow_body(0.1),
    "a reset in mid-body": standin.reset_mid_body,
    "accepted, then a reset": standin.reset_after_accept,
    "half an answer": standin.half_answer,
    "garbage": standin.garbage,
    "413 above a size": lambda: standin.too_large(5_000),
    "one bad span": lambda: standin.reject_span("span 7"),
    "one span that gets 500": lambda: standin.poison("span 8"),
    "a partial success": lambda: standin.partial_success(1, "one too many"),
    "a collector": standin.protobuf_ok,
}

# They hold a route for minutes, in which nothing else happens: so they are rare.
HOLDING = ("401", "403", "404")


class Round:
    """One round on a spool of its own."""

    def __init__(self, plan: Plan, directory: Path) -> None:
        self.plan = plan
        self.chance = random.Random(plan.seed)
        self.directory = directory
        self.path = directory / "disk" / "spool.db"
        self.ballast = directory / "disk" / "ballast"
        self.langfuse = Witness()
        self.langfuse.start()
        environment = {
            **environment_of(self.path, self.langfuse.url, **SHORT_WAITS),
            **LIMITS[plan.limit],
            "SPOOL_SYNC_SECONDS": plan.sync_seconds,
        }
        self.environment = environment
        self.nursery = Nursery(directory / "trails", environment)
        self.stopped: dict[int, float] = {}
        self.interruptions = 0
        self.done: dict[str, int] = {}

    # The trouble

    def run(self, seconds: float) -> Verdict:
        """Make trouble, and judge what came of it."""
        end = time.monotonic() + seconds
        actions = [
            (self.kill, 4), (self.kill_the_drainer, 3), (self.pause, 3), (self.end, 1),
            (self.ask, 1), (self.change_the_server, 6), (self.change_the_disk, 2),
        ]  # fmt: skip
        with self.nursery, self.langfuse:
            while time.monotonic() < end:
                self.people()
                self.resume(time.monotonic())
                (action,) = self.chance.choices(*zip(*actions, strict=True))
                action()
                time.sleep(self.chance.uniform(0, 0.2))
            self.calm_down()
            return self.judge()

    def people(self) -> None:
        """Start processes in the place of those that are gone."""
        while len(self.nursery.alive) < 8:
            kind = self.chance.choice(["drains", "drains", "writes", "writes", "run", "family"])
            self.nursery.start(
                command=("run",) if kind == "run" else (),
                children=2 if kind == "family" else 0,
                pause=self.chance.choice([0.001, 0.005, 0.02]),
                bytes=self.chance.choice([10, 500, 500, 20_000]),
                environment={"SPOOL_DRAIN": "off" if kind == "writes" else "on"},
            )

    def anybody(self) -> int:
        return self.chance.choice(sorted(self.nursery.alive))

    def interrupt(self, pid: int, number: signal.Signals) -> None:
        self.done[number.name] = self.done.get(number.name, 0) + 1
        self.interruptions += 1
        self.nursery.kill(pid, number)

    def kill(self) -> None:
        self.interrupt(self.anybody(), signal.SIGKILL)

    def kill_the_drainer(self) -> None:
        signed = signature(beside(self.path, ".turn"), self.path) if self.path.exists() else None
        if signed and signed[0] in self.nursery.alive:
            self.interrupt(signed[0], signal.SIGKILL)

    def pause(self) -> None:
        pid = self.anybody()
        self.interrupt(pid, signal.SIGSTOP)
        self.stopped[pid] = time.monotonic() + self.chance.uniform(0.05, 1.5)

    def resume(self, now: float) -> None:
        for pid, until in list(self.stopped.items()):
            if now >= until:
                self.nursery.kill(pid, signal.SIGCONT)
                del self.stopped[pid]

    def end(self) -> None:
        self.interrupt(self.anybody(), signal.SIGTERM)

    def ask(self) -> None:
        commands = [("status",), ("peek",), ("drain", "--timeout", "1"), ("dead", "retry", "--all")]
        command = self.chance.choice(commands)
        self.done[command[0]] = self.done.get(command[0], 0) + 1
        self.interruptions += command[0] == "drain"
        self.nursery.start(command=command)

    def change_the_server(self) -> None:
        name = self.chance.choice(["down", "well", "well", "well", *BEHAVIOURS])
        if name in HOLDING and self.chance.random() < 0.8:
            name = "well"
        self.done[name] = self.done.get(name, 0) + 1
        self.interruptions += 1
        if name == "down":
            self.langfuse.stop()
        else:
            self.langfuse.start()
            self.langfuse.behave(BEHAVIOURS[name]())

    def change_the_disk(self) -> None:
        if not self.plan.has_small_disk:
            return
        if self.ballast.exists():
            self.ballast.unlink()
        else:
            self.done["a full disk"] = self.done.get("a full disk", 0) + 1
            fill_disk(self.ballast)

    # The end

    def calm_down(self) -> None:
        self.ballast.unlink(missing_ok=True)
        if self.plan.has_small_disk:  # the spool itself may have filled it
            enlarge_disk(self.path.parent, 16 * DISK_BYTES)
        self.resume(float("inf"))
        self.langfuse.start()
        self.langfuse.behave(None)
        self.nursery.stop()

    def judge(self) -> Verdict:
        drained = self.command("drain", "--json", "--timeout", "60")
        store = Store(self.path)
        try:
            verdict = Verdict(
                plan=self.plan,
                done=self.done,
                ledger=store.ledger(),
                trail=self.nursery.trail(),
                finished=self.nursery.finished_trail(),
                arrived=dict(self.langfuse.span_ids()),
                dead=dead_spans(store),
                repeated=self.langfuse.repeated(),
                interruptions=self.interruptions + self.unanswered(),
                deaths=self.nursery.deaths(),
                errors=self.nursery.errors() + drained.stderr,
            )
            return replace(verdict, evidence=self.evidence(verdict, drained, store))
        finally:
            store.close()

    def evidence(
        self, verdict: Verdict, drained: subprocess.CompletedProcess[str], store: Store
    ) -> str:
        """Say what tells of the cause, and keep the files, where something is wrong."""
        if not verdict.complaints():
            return ""
        return "\n".join(
            [
                f"the last drain ended with {drained.returncode}: {drained.stdout.strip()}",
                *inquest.sightings(store, self.nursery, verdict.trail.spooled - verdict.found),
                f"the files are in {inquest.keep(self.directory, self.ballast)}",
                self.command("status", "--json").stdout,
                verdict.errors,
            ]
        )

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "spool", *arguments],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def unanswered(self) -> int:
        """Count the requests that the server took without, or long before, an answer."""
        return sum(request.status == 0 for request in self.langfuse.requests)


def dead_spans(store: Store) -> set[str]:
    """Give the ids of the spans in dead letters, perhaps with their neighbours in a request."""
    found: set[str] = set()
    first = 0
    while letters := store.dead_letters(first):
        first = letters[-1].id + 1
        for letter in letters:
            request = standin.parse_protobuf(unpack(letter.batch))
            found |= {span.span_id.hex() for span in standin.spans_of(request)}
    return found


def rounds(seconds: float, seed: int) -> Iterator[Verdict]:
    """Go on for so long; the n-th round's seed is `seed` + n."""
    end = time.monotonic() + seconds
    number = 0
    while (left := end - time.monotonic()) > 0:
        plan = Plan.draw(seed + number)
        number += 1
        with contextlib.ExitStack() as stack:
            name = stack.enter_context(tempfile.TemporaryDirectory(prefix="spool-chaos-"))
            if plan.has_small_disk:
                stack.enter_context(small_disk(Path(name) / "disk", DISK_BYTES))
            yield Round(plan, Path(name)).run(min(left, ROUND_SECONDS))


def main() -> int:
    parser = argparse.ArgumentParser(description="Random trouble for a spool, then a verdict.")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}, {arguments.seconds:g} seconds", flush=True)
    trials, is_well = [], True
    for verdict in rounds(arguments.seconds, arguments.seed):
        print(f"\n{verdict.plan}")
        print("  " + ", ".join(f"{name} {count}" for name, count in sorted(verdict.done.items())))
        print(f"  {json.dumps(vars_of(verdict.ledger))}")
        print(f"  {verdict.repeated} requests repeated, {verdict.interruptions} interruptions")
        for pid, code in verdict.deaths.items():
            print(f"  process {pid} died of itself: {code}")
        for complaint in verdict.complaints():
            is_well = False
            print(f"  WRONG: {complaint}")
        if verdict.evidence:
            print(verdict.evidence)
        sys.stdout.flush()
        trials.append(verdict.trial())
    print(f"\n{Trial.table([Trial.total(trials)])}")
    print("all is well" if is_well else "NOT WELL")
    return 0 if is_well else 1


def vars_of(ledger: Ledger) -> dict[str, int]:
    return {name: getattr(ledger, name) for name in ledger.__slots__}


if __name__ == "__main__":
    sys.exit(main())
