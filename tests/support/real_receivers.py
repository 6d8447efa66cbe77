"""Receivers that other people wrote, from PyPI, each in an environment that scripts/test makes."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from manners import OTLP_OK, receiver
from pages import ROOT
from ports import HOST, free_port
from standin import StandIn
from waits import wait_until

START_SECONDS: Final = 300  # MLflow imports half of PyPI, and makes its database


@dataclass
class Server:
    """A server's processes: they can be killed, and started again where they were."""

    command: list[str]
    log: Path
    port: int
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with self.log.open("ab") as output:
            self.process = process = subprocess.Popen(
                self.command,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.log.parent,
                env={**os.environ, "PYTHONPATH": "", **self.environment},
                start_new_session=True,
            )
        is_up = lambda: listens(self.port) or process.poll() is not None  # noqa: E731
        wait_until(is_up, every=0.1, within=START_SECONDS)
        assert process.poll() is None, self.log.read_text()[-2000:]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all of its processes."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """Let it die as by a crash."""
        self.signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    def stop(self) -> None:
        """End it, as one does."""
        if self.process is None:
            return
        self.signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        self.kill()


def listens(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    try:
        connection.request("GET", "/")
        connection.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    """Run a server until the block ends."""
    try:
        server.start()
        yield server
    finally:
        server.stop()


@dataclass(frozen=True)
class Receiver:
    """A receiver that runs: what a program's environment says, and how often it has which names."""

    server: Server
    names: Callable[[], Counter[str]]
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server.port}"

    @property
    def endpoint(self) -> str:
        return f"{self.url}/v1/traces"

    @property
    def environment(self) -> dict[str, str]:
        """Name it as a user would."""
        headers = ",".join(f"{name}={value}" for name, value in self.headers.items())
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_EXPORTER_OTLP_HEADERS": headers}

    def wait_for(self, names: list[str]) -> None:
        """Wait until it has just these of the names that stand there; it may do its work later."""
        wanted = Counter(names)

        def found() -> Counter[str]:
            return Counter({name: n for name, n in self.names().items() if name in wanted})

        wait_until(lambda: found() == wanted, every=0.1)


def installed(package: str) -> Path:
    """Find the environment of a package, or skip."""
    found = ROOT / f".venv-{package}"
    if not (found / "wanted").exists():
        pytest.skip(f"{package} is not installed in {found.name}: scripts/test does that if it can")
    return found


def rotel_agent() -> Path:
    (agent,) = installed("rotel").glob("lib/python*/site-packages/rotel/rotel-agent")
    return agent


@contextlib.contextmanager
def rotel(directory: Path) -> Iterator[Receiver]:
    """Run rotel, which reads the first gzip member only, and sends what it got to a stand-in."""
    port = free_port()
    with StandIn(manner=receiver("behind rotel", OTLP_OK)) as behind:
        command = [
            str(rotel_agent()), "start",
            "--otlp-http-endpoint", f"{HOST}:{port}",
            "--otlp-grpc-endpoint", f"{HOST}:{free_port()}",
            "--exporter", "otlp",
            "--otlp-exporter-protocol", "http",
            "--otlp-exporter-endpoint", behind.url,
        ]  # fmt: skip
        with running(Server(command, directory / "log", port)) as server:
            yield Receiver(server, behind.names)


@contextlib.contextmanager
def phoenix(directory: Path) -> Iterator[Receiver]:
    """Run Phoenix, which writes what it got into an SQLite file a little later."""
    port = free_port()
    settings = {
        "PHOENIX_WORKING_DIR": str(directory),
        "PHOENIX_HOST": HOST,
        "PHOENIX_PORT": str(port),
        "PHOENIX_GRPC_PORT": str(free_port()),
        "PHOENIX_TELEMETRY_ENABLED": "false",
    }
    command = [str(installed("arize-phoenix") / "bin" / "phoenix"), "serve"]
    with running(Server(command, directory / "log", port, settings)) as server:
        yield Receiver(server, names_in(directory / "phoenix.db"))


@contextlib.contextmanager
def mlflow(directory: Path) -> Iterator[Receiver]:
    """Run MLflow, which writes a request into an SQLite file, or refuses it, and then answers."""
    port, database = free_port(), directory / "mlflow.db"
    command = [
        str(installed("mlflow") / "bin" / "mlflow"), "server",
        "--backend-store-uri", f"sqlite:///{database}",
        "--host", HOST,
        "--port", str(port),
        "--workers", "1",
    ]  # fmt: skip
    settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with running(Server(command, directory / "log", port, settings)) as server:
        yield Receiver(server, names_in(database), {"x-mlflow-experiment-id": "0"})


def names_in(database: Path) -> Callable[[], Counter[str]]:
    """Count the rows of the table `spans`, as both have one, by name."""

    def names() -> Counter[str]:
        uri = database.as_uri() + "?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=30)) as connection:
            rows = connection.execute("SELECT name, count(*) FROM spans GROUP BY name")
            return Counter(dict(rows.fetchall()))

    return names


REAL: Final = {"rotel": rotel, "phoenix": phoenix, "mlflow": mlflow}
