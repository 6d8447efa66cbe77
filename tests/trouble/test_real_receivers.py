"""Receivers that other people wrote, from PyPI, each in an environment that scripts/test makes."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from manners import OTLP_OK, receiver
from ports import HOST, free_port
from spans import batch, span
from spool import SpoolSpanExporter
from spool.delivery import drain_once
from spool.delivery.drainer import Drainer
from spool.otlp.batch import Codec
from spool.settings.settings import Settings
from spool.settings.target import Target
from spool.store import row_packing
from spool.store.store import Store
from standin import StandIn
from trials import Trial
from waits import PATIENCE, wait_until

# What runs does not depend on the Python; a small machine needs its time to start it.
pytestmark = [pytest.mark.trust, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
PACK_BYTES = 64 << 10


@dataclass(frozen=True)
class Receiver:
    """A server that runs: where its traces go, and how often it has a span of each name."""

    endpoint: str
    names: Callable[[], Counter[str]]


def environment(package: str) -> Path:
    """Find the environment of a package, or skip."""
    found = ROOT / f".venv-{package}"
    if not (found / "wanted").exists():
        pytest.skip(f"{package} is not installed in {found.name}: scripts/test does that if it can")
    return found


@contextlib.contextmanager
def running(command: list[str], log: Path, is_up: Callable[[], bool]) -> Iterator[None]:
    """Run a server until the block ends."""
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=log.parent)
    try:
        wait_until(lambda: is_up() or server.poll() is not None, every=0.1)
        assert server.poll() is None, log.read_text()[-2000:]
        yield
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


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


@pytest.fixture(scope="module")
def rotel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """Run rotel, which reads the first gzip member only, and sends what it got to a stand-in."""
    (agent,) = environment("rotel").glob("lib/python*/site-packages/rotel/rotel-agent")
    directory, port = tmp_path_factory.mktemp("rotel"), free_port()
    with StandIn(manner=receiver("behind rotel", OTLP_OK)) as behind:
        command = [
            str(agent), "start",
            "--pid-file", str(directory / "pid"),
            "--otlp-http-endpoint", f"{HOST}:{port}",
            "--otlp-grpc-endpoint", f"{HOST}:{free_port()}",
            "--exporter", "otlp",
            "--otlp-exporter-protocol", "http",
            "--otlp-exporter-endpoint", behind.url,
        ]  # fmt: skip
        with running(command, directory / "log", lambda: listens(port)):
            yield Receiver(f"http://{HOST}:{port}/v1/traces", behind.names)


@pytest.fixture(scope="module")
def phoenix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """Run Phoenix, which writes what it got into an SQLite file."""
    program = environment("arize-phoenix") / "bin" / "phoenix"
    directory, port = tmp_path_factory.mktemp("phoenix"), free_port()
    settings = {
        "PHOENIX_WORKING_DIR": directory,
        "PHOENIX_HOST": HOST,
        "PHOENIX_PORT": port,
        "PHOENIX_GRPC_PORT": free_port(),
        "PHOENIX_TELEMETRY_ENABLED": "false",
    }
    command = ["env", *(f"{name}={value}" for name, value in settings.items()), str(program)]

    def names() -> Counter[str]:
        uri = (directory / "phoenix.db").as_uri() + "?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=30)) as database:
            return Counter(dict(database.execute("SELECT name, count(*) FROM spans GROUP BY name")))

    with running([*command, "serve"], directory / "log", lambda: listens(port)):
        yield Receiver(f"http://{HOST}:{port}/v1/traces", names)


@pytest.fixture(params=["rotel", "phoenix"])
def real(request: pytest.FixtureRequest) -> Receiver:
    """Give each real receiver in turn."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Receiver)
    return found


def assert_arrived(real: Receiver, names: list[str]) -> None:
    """Wait for what it was sent; it may do its own work later."""

    def found() -> Counter[str]:
        return Counter({name: times for name, times in real.names().items() if name in wanted})

    wanted = Counter(names)
    wait_until(lambda: found() == wanted, every=0.1)


@pytest.fixture
def report_arrival(report: Callable[[Trial], None]) -> Callable[[Path, int], None]:
    """Report spans that have all arrived, as `assert_arrived` found."""

    def report_all(path: Path, spans: int) -> None:
        store = Store(path)
        ledger = store.ledger()
        store.close()
        name, held = "rotel and Phoenix as receivers", ledger.in_memory
        report(Trial(name, 1, spans, ledger.accepted, ledger.refused, held, 0, 0))

    return report_all


def assert_drained(path: Path, real: Receiver, spans: int) -> None:
    target = Target.otlp(real.endpoint, {})
    store = Store(path)
    drainer = Drainer(store, Settings(path=path, target=target, timeout_seconds=60))
    drainer.routes.add(target)
    drain_once.drain(drainer, PATIENCE, lambda: None)
    ledger, error = store.ledger(), store.routes()[0].last_error
    store.close()
    assert (ledger.delivered, ledger.dead, ledger.pending) == (spans, 0, 0), error


def test_a_packed_backlog_arrives_whole(
    real: Receiver, path: Path, report_arrival: Callable[[Path, int], None]
) -> None:
    names = [f"packed {os.getpid()} {number}" for number in range(3000)]
    target = Target.otlp(real.endpoint, {})
    store = Store(path)
    for name in names:
        store.append(target, batch(name), time.time())
    while row_packing.pack(store.database, store.routes()[0].id, PACK_BYTES):
        pass
    packed = [row for row in store.pending() if row.batch.codec != Codec.RAW]
    store.close()
    assert len(packed) > 10
    assert_drained(path, real, len(names))
    assert_arrived(real, names)
    report_arrival(path, len(names))


def test_single_rows_arrive_whole(
    real: Receiver, path: Path, report_arrival: Callable[[Path, int], None]
) -> None:
    names = [f"single {number}" for number in range(100)]
    store = Store(path)
    for name in names:
        store.append(Target.otlp(real.endpoint, {}), batch(name), time.time())
    store.close()
    assert_drained(path, real, len(names))
    assert_arrived(real, names)
    report_arrival(path, len(names))


def test_a_batch_arrives_whole(
    real: Receiver, path: Path, report_arrival: Callable[[Path, int], None]
) -> None:
    names = [f"batch {number}" for number in range(500)]
    exporter = SpoolSpanExporter(path=path, endpoint=real.endpoint)
    exporter.export([span(name) for name in names])
    is_flushed = exporter.force_flush(60_000)
    exporter.shutdown()
    assert is_flushed
    assert_arrived(real, names)
    report_arrival(path, len(names))
