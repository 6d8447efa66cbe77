"""Processes that end spans and leave a trail; made to be killed, stopped, forked and starved.

`python writer.py` is a nursery: for each line of standard input, a `Job` as JSON, it forks a
process, and it tells of each one's start and end; for `null` it says whether any are left. So a
process costs milliseconds, and a test can kill a thousand of them. `Nursery` is its other end,
`Trail` reads what the processes wrote.

A trail has a line for each span before it ends, and another with what `export()` returned for it.
It is written without buffers: what stands there when a process is killed has happened.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import json
import os
import queue
import resource
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from spans import provider_of
from spool import SpoolSpanExporter
from spool.commands.main import main as commands
from spool.delivery import drainer
from spool.delivery.http import sender
from spool.store import migrations, salvage

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer
    from typing_extensions import Self

# What a process would import only when it needs it is imported before the fork.
_PRELOADED = (drainer, migrations, salvage, sender)

FINISHED = "finished"

_PR_SET_CHILD_SUBREAPER = 36

_ANSWERS = 3


@dataclass(frozen=True)
class Job:
    """What one process does: end `count` spans, unless it is told to stop, or a spool `command`.

    With `children` it forks so many after a few spans, which go on with the exporter they inherit.
    `limits` are resource limits by name, `environment` is added to the nursery's.
    """

    trail: str
    count: int = 1 << 30
    pause: float = 0.002
    bytes: int = 500
    children: int = 0
    command: Sequence[str] = ()
    limits: Mapping[str, int] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


class Trail:
    """Which spans processes began to end, and what they were told about them, by span id."""

    def __init__(self) -> None:
        self.begun: set[str] = set()
        self.spooled: set[str] = set()
        self.failed: set[str] = set()

    @classmethod
    def of(cls, paths: Iterable[Path]) -> Trail:
        """Read trails; the last line of a killed process's may be missing, none is cut."""
        trail = cls()
        kinds = {"begun": trail.begun, "SUCCESS": trail.spooled, "FAILURE": trail.failed}
        for path in paths:
            for word, span_id in map(str.split, path.read_text().splitlines()):
                if word != FINISHED:
                    kinds[word].add(span_id)
        return trail

    def ended(self, arrived: Iterable[str]) -> set[str]:
        """Give what ended: what was acknowledged, and of the rest what arrived all the same."""
        return self.spooled | (self.begun & set(arrived))


class _Scribe(SpanExporter):
    """Exports to the spool, and writes down what came of it."""

    def __init__(self, trail: str) -> None:
        self._inner = SpoolSpanExporter()
        self.open(trail)

    def open(self, trail: str) -> None:
        self._fd = os.open(trail, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, word: str, span_id: int = 0) -> None:
        os.write(self._fd, f"{word} {span_id:016x}\n".encode())

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            self.note("begun", span.context.span_id)
        result = self._inner.export(spans)
        for span in spans:
            self.note(result.name, span.context.span_id)
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()
        self.note(FINISHED)


class _Stop:
    """Becomes true with SIGTERM."""

    def __init__(self) -> None:
        self._is_told = False
        signal.signal(signal.SIGTERM, self._tell)

    def _tell(self, *_: object) -> None:
        self._is_told = True

    def __bool__(self) -> bool:
        return self._is_told


def write(job: Job) -> None:
    """End spans until told to stop, killed or done."""
    stop, scribe = _Stop(), _Scribe(job.trail)
    tracer = provider_of(scribe).get_tracer("writer")
    if job.children:
        _end_spans(tracer, min(job.count, 5), job, stop)
        for number in range(job.children):
            if os.fork() == 0:
                scribe.open(f"{job.trail}.{number}")
                _say("forked", os.getpid())
                break
    _end_spans(tracer, job.count, job, stop)
    scribe.shutdown()


def _end_spans(tracer: Tracer, count: int, job: Job, stop: _Stop) -> None:
    for number in range(count):
        if stop:
            return
        tracer.start_span(f"span {number}", attributes={"text": "x" * job.bytes}).end()
        time.sleep(job.pause)


def _work(job: Job) -> None:
    os.environ.update(job.environment)
    for name, limit in job.limits.items():
        number = getattr(resource, name)
        resource.setrlimit(number, (limit, resource.getrlimit(number)[1]))
    if job.command:
        sys.argv = ["spool", *job.command]
        commands()
    else:
        write(job)


def _fork(job: Job) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        _work(job)
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:  # noqa: BLE001 - a forked child must never go on as the nursery
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _say(word: str, *numbers: int) -> None:
    os.write(_ANSWERS, f"{word} {' '.join(map(str, numbers))}\n".encode())


def _reap() -> bool:
    """Tell of those that have ended; say whether any are left, also such as nobody knows of yet."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True
        _say("ended", pid, os.waitstatus_to_exitcode(status))


def main() -> None:
    """Fork as told, until standard input ends; then kill who is left."""
    if sys.platform == "linux":  # grandchildren are reaped here too
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    faulthandler.register(signal.SIGUSR1)  # to see where one stands that does not end
    os.dup2(1, _ANSWERS, inheritable=False)
    os.dup2(2, 1)  # what a command prints is no answer
    buffered = b""
    while True:
        _reap()
        if not select.select([0], [], [], 0.005)[0]:
            continue
        read = os.read(0, 1 << 16)
        if not read:
            return
        *lines, buffered = (buffered + read).split(b"\n")
        for line in lines:
            if (job := json.loads(line)) is None:
                _say("left", int(_reap()))
            else:
                _say("started", _fork(Job(**job)))


class Nursery:
    """Starts processes in one nursery, and knows how each ended; nobody outlives it."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self.directory = directory
        self.alive: set[int] = set()
        self.exits: dict[int, int] = {}
        self.sent: list[tuple[int, int]] = []
        self.asked: set[int] = set()
        self.jobs: dict[int, str] = {}
        self._numbers = 0
        self._answers: queue.Queue[int] = queue.Queue()
        self._ended = threading.Condition()
        directory.mkdir(parents=True, exist_ok=True)
        self._errors = (directory / "errors").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **environment},
            text=True,
            bufsize=1,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def start(self, **job: object) -> int:
        """Start a process, and give its pid."""
        self._numbers += 1
        made = Job(str(self.directory / f"{self._numbers}.trail"), **job)  # type: ignore[arg-type]
        pid = self._ask(asdict(made))
        self.jobs[self._numbers] = f"process {pid}, {made}"
        if made.command:
            self.asked.add(pid)
        return pid

    def kill(self, pid: int, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a process that this nursery started, if it is still there."""
        with self._ended:
            if pid in self.alive:
                self.sent.append((pid, number))
                with contextlib.suppress(ProcessLookupError):  # its end is not known here yet
                    os.kill(pid, number)

    def wait(self, pid: int, timeout: float = 120) -> int:
        """Wait for a process's end; give its exit code, negative for a signal."""
        with self._ended:
            if not self._ended.wait_for(lambda: pid in self.exits, timeout):
                os.kill(pid, signal.SIGUSR1)
                time.sleep(0.5)
                raise AssertionError(f"{pid} does not end:\n{self.errors()}")
            return self.exits[pid]

    def stop(self) -> None:
        """Let all end in an orderly way."""
        self._end_all(signal.SIGTERM)

    def _end_all(self, number: signal.Signals) -> None:
        """End all: those, too, that were just forked by another, and have not said so yet."""
        while self._ask(None):
            known = list(self.alive)
            for pid in known:
                self.kill(pid, number)
            for pid in known:
                self.wait(pid)
            time.sleep(0.005)

    def _ask(self, question: object) -> int:
        assert self._process.stdin is not None
        print(json.dumps(question), file=self._process.stdin, flush=True)
        return self._answers.get(timeout=120)

    def trail(self) -> Trail:
        """Read what all of them left."""
        return Trail.of(self.directory.glob("*.trail*"))

    def finished_trail(self) -> Trail:
        """Read what those left that ended in order."""
        paths = self.directory.glob("*.trail*")
        return Trail.of(path for path in paths if FINISHED in path.read_text())

    def errors(self) -> str:
        """Give what they said on standard error."""
        return (self.directory / "errors").read_text()

    def deaths(self) -> dict[int, int]:
        """Give those that did not end well, unless by a signal from here; with exit codes.

        A command's own exit codes, 1 and 2, are well.
        """
        return {
            pid: code
            for pid, code in self.exits.items()
            if code and (pid, -code) not in self.sent and not (pid in self.asked and code in (1, 2))
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_all(signal.SIGKILL)
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            word, *numbers = line.split()
            with self._ended:
                if word in ("started", "forked"):
                    self.alive.add(int(numbers[0]))
                if word in ("started", "left"):
                    self._answers.put(int(numbers[0]))
                if word == "ended":
                    self.alive.discard(int(numbers[0]))
                    self.exits[int(numbers[0])] = int(numbers[1])
                    self._ended.notify_all()


if __name__ == "__main__":
    main()
