"""A box somewhere: programs with a spool, the Langfuse that they send to, and who looks at it.

Who looks knows where the spool is, and no keys: `status` must do with that.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from unittest import mock

import ports
from programs import SIMPLE, Program, tell
from spool.commands.main import main
from spool.errors import SpoolError
from spool.store import drainers
from spool.store.records import Ledger, Route
from spool.store.store import Store
from standin import StandIn
from users import environment_of
from waits import wait_until

OWNERS: Final = ("shop", "chat", "team")

# An application that lives on, and ends a span for each line that it is told: its name, its bytes,
# and whose it is, if it is another's. Without jitter what waits says the same each time.
APP: Final = f"""{SIMPLE}
import os, random, sys
from spool.settings.target import Target
random.uniform = max
exporter = provider._active_span_processor._span_processors[0].span_exporter
for line in sys.stdin:
    name, size, owner = line.split()
    span = tracer.start_span(name, attributes={{"input": random.randbytes(int(size) // 2).hex()}})
    if owner != "-":
        host = os.environ["LANGFUSE_HOST"]
        exporter._target = Target.langfuse(f"pk-lf-{{owner}}", f"sk-lf-{{owner}}", host)
    span.end()
    print("ended", flush=True)
"""

# To be put before a program: its clock is so many seconds ahead.
CLOCK: Final = """
import time
for name, unit in (("time", 1), ("time_ns", 10**9)):
    setattr(time, name, lambda real=getattr(time, name), unit=unit: real() + {ahead} * unit)
"""

# To be put before a program: what a resolver says to a name that is not there.
NO_SUCH_NAME: Final = """
import socket
def getaddrinfo(*_, **__): raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
socket.getaddrinfo = getaddrinfo
"""


class Box:
    """A machine with a spool; its programs are killed when it is left."""

    def __init__(self, directory: Path, langfuse: StandIn) -> None:
        self.path = directory / "spool" / "spool.db"
        self.log = directory / "log"  # what its programs say
        self.langfuse = langfuse
        self.programs: list[Program] = []

    def app(self, host: str = "", before: str = "", owner: str = "shop", **more: str) -> Program:
        """Run an application that lives on."""
        return self._run([sys.executable, "-c", before + APP], host, owner, **more)

    def sidecar(self, owner: str = "shop", **more: str) -> Program:
        """Run a drainer, and wait until others see whose spans it sends."""
        program = self._run([sys.executable, "-m", "spool", "run"], "", owner, **more)
        self._wait(lambda store: any(one.routes is not None for one in drainers.seen(store)))
        return program

    def end(self, app: Program, *names: str, size: int = 200, owner: str = "-") -> None:
        """Let an application end spans."""
        for name in names:
            assert tell(app, f"{name} {size} {owner}") == "ended"

    def kill(self, program: Program) -> None:
        with program:
            program.kill()

    def stop(self, program: Program) -> None:
        """Stop it, as Ctrl-Z or a debugger does."""
        program.send_signal(signal.SIGSTOP)

    def close(self) -> None:
        for program in self.programs:
            self.kill(program)

    def wait_for(self, holds: Callable[[Route], bool]) -> None:
        """Wait until something holds for the one route that there is."""
        self._wait(lambda store: holds(store.routes()[0]))

    def wait_for_trouble(self) -> None:
        """Wait until the route's last request has failed."""
        self.wait_for(lambda route: bool(route.last_error))

    def wait_for_ledger(self, holds: Callable[[Ledger], bool]) -> None:
        """Wait until something holds for what became of all spans."""
        self._wait(lambda store: holds(store.ledger()))

    def _wait(self, holds: Callable[[Store], bool]) -> None:
        def is_so() -> bool:
            with contextlib.suppress(SpoolError, IndexError):  # not yet there, or being salvaged
                return holds(store)
            return False

        with contextlib.closing(Store(self.path)) as store:
            wait_until(is_so)

    def status(self, *arguments: str) -> tuple[int, str]:
        """Look at it as a person does, who knows no keys: give the exit code and what is shown."""
        done = subprocess.run(
            [sys.executable, "-m", "spool", "status", *arguments],
            env={**os.environ, "SPOOL_PATH": str(self.path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stdout, done.stdout
        return done.returncode, self.anywhere(done.stdout)

    def as_json(self) -> tuple[int, dict[str, Any]]:
        """Give the exit code and what `status --json` says."""
        code = 0
        asked = mock.patch.object(sys, "argv", ["spool", "status", "--json"])
        here = mock.patch.dict(os.environ, SPOOL_PATH=str(self.path))
        with contextlib.redirect_stdout(io.StringIO()) as said, asked, here:
            try:
                main()
            except SystemExit as exiting:
                code = int(exiting.code or 0)
        return code, json.loads(said.getvalue())

    def anywhere(self, text: str) -> str:
        """Take out of a text what is only this machine's."""
        text = text.replace(str(self.path.parent), "/var/lib/app")
        text = text.replace(f"{ports.HOST}:{self.langfuse.port}", "10.0.0.5:3000")
        for number, program in enumerate(self.programs):
            text = text.replace(str(program.pid), str(4711 + number))
        return text.replace(ports.HOST, "10.0.0.5")

    def _run(self, command: list[str], host: str, owner: str, **more: str) -> Program:
        given = environment_of(self.path, host or self.langfuse.url, owner)
        waits = {"SPOOL_BACKOFF_SECONDS": "120..600"}
        with self.log.open("a") as log:
            program = subprocess.Popen(
                command,
                env={**os.environ, **given, **waits, **more},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.programs.append(program)
        return program


@contextlib.contextmanager
def a_box(directory: Path) -> Iterator[Box]:
    """Have a box, beside a Langfuse that is well."""
    with StandIn({f"pk-lf-{one}": f"sk-lf-{one}" for one in OWNERS}) as langfuse:
        box = Box(directory, langfuse)
        with contextlib.closing(box):
            yield box
