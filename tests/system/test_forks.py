from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest

from ports import HOST, free_port
from spool.system.forks import PerProcess
from standin import StandIn

FORK_IN_C = ctypes.PyDLL(None).fork


@pytest.mark.parametrize("fork", [os.fork, FORK_IN_C], ids=["python", "c"])
def test_a_child_has_a_state_of_its_own_and_lets_go_of_its_parents_once(
    monkeypatch: pytest.MonkeyPatch, fork: type[int]
) -> None:
    abandoned: list[threading.Lock] = []
    own = PerProcess(threading.Lock, abandoned.append)
    parents = own.get()
    assert own.get() is parents
    with parents:
        if (pid := fork()) == 0:
            with ThreadPoolExecutor(8) as threads:
                states = set(threads.map(lambda _: id(own.get()), range(100)))
            is_well = states == {id(own.get())} and abandoned == [parents]
            os._exit(not (is_well and own.get().acquire(timeout=60)))
    assert os.waitpid(pid, 0)[1] == 0
    assert own.get() is parents
    assert abandoned == []


def test_a_child_with_its_parents_number_has_a_state_of_its_own_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as the first of a new namespace
    own = PerProcess(object, lambda _: None)
    parents = own.get()
    if (pid := os.fork()) == 0:
        os._exit(own.get() is parents or own.get() is not own.get())
    assert os.waitpid(pid, 0)[1] == 0
    assert own.get() is parents


# What uWSGI's module says before it forks, and in a worker.
AS_UWSGI = """
import ctypes, os, sys, threading, types
uwsgi = sys.modules["uwsgi"] = types.ModuleType("uwsgi")
uwsgi.worker_id, uwsgi.mule_id = lambda: 0, lambda: 0

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from spool import SpoolSpanExporter

exporter = SpoolSpanExporter()
provider = TracerProvider(shutdown_on_exit=False)
provider.add_span_processor(SimpleSpanProcessor(exporter))
provider.get_tracer("a").start_span("before the fork").end()
ours = [thread.name for thread in threading.enumerate() if thread.name.startswith("spool")]
assert ours == [], ours
if (pid := ctypes.PyDLL(None).fork()) == 0:
    uwsgi.worker_id = lambda: 1
    provider.get_tracer("a").start_span("in the worker").end()
    os._exit(not exporter.force_flush(60_000))
status = os.waitpid(pid, 0)[1]
exporter.shutdown()
os._exit(status != 0)
"""


def keys_of(langfuse: StandIn, path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "SPOOL_PATH": str(path),
        "LANGFUSE_PUBLIC_KEY": "pk-lf-test",
        "LANGFUSE_SECRET_KEY": "sk-lf-test",
        "LANGFUSE_HOST": langfuse.url,
    }


def test_no_thread_is_begun_before_uwsgi_has_forked(path: Path, langfuse: StandIn) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", AS_UWSGI], env=keys_of(langfuse, path), timeout=150, check=False
    )
    assert ran.returncode == 0
    assert set(langfuse.names()) == {"before the fork", "in the worker"}


APPLICATION = """
import os
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from spool import SpoolSpanExporter

provider = TracerProvider(shutdown_on_exit=False)
provider.add_span_processor(SimpleSpanProcessor(SpoolSpanExporter()))
tracer = provider.get_tracer("a")
tracer.start_span("before the fork").end()

def application(environ, start_response):
    tracer.start_span(f"of {os.getpid()}").end()
    start_response("200 OK", [])
    return [b"done"]
"""


@contextlib.contextmanager
def uwsgi(directory: Path, environment: dict[str, str]) -> Iterator[str]:
    """Serve the application with two workers; give its address."""
    command = shutil.which("uwsgi") or shutil.which("uwsgi", path=str(Path(sys.executable).parent))
    if command is None:
        pytest.skip("uWSGI is not here (pip install uwsgi)")
    (directory / "app.py").write_text(APPLICATION)
    address = f"{HOST}:{free_port()}"
    options = f"--http-socket {address} --master --processes 2 --enable-threads --die-on-term"
    environment = {**environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [command, *options.split(), "--need-app", "--wsgi-file", "app.py"],
        cwd=directory, env=environment, stderr=subprocess.DEVNULL,
    ) as server:  # fmt: skip
        try:
            yield address
        finally:
            server.terminate()
            server.wait(60)


def answer_of(address: str) -> HTTPResponse:
    """Get an answer within a minute; a worker that hangs gives none."""
    connection = HTTPConnection(address, timeout=60)
    connection.request("GET", "/")
    return connection.getresponse()


@pytest.mark.parametrize("start", range(3))
def test_uwsgi_workers_serve_and_deliver_after_a_span_right_before_the_fork(
    tmp_path: Path, path: Path, langfuse: StandIn, start: int
) -> None:
    with uwsgi(tmp_path, keys_of(langfuse, path)) as address:
        deadline = time.monotonic() + 120
        served = 0
        while served < 4:
            assert time.monotonic() < deadline
            with contextlib.suppress(ConnectionRefusedError), answer_of(address) as answer:
                served += answer.read() == b"done"
        while langfuse.names().total() < 5:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert "before the fork" in langfuse.names()


# It forks in the middle of the first import of the thread that sends, or when there was none.
FORKS_WHILE_ITS_FIRST_REQUEST_IS_PREPARED = """
import os, sys, threading
from importlib.machinery import PathFinder
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from spool import SpoolSpanExporter

has_ended, imports = threading.Event(), threading.Event()

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        spec = PathFinder.find_spec(name, path)
        if spec is None or threading.current_thread() is threading.main_thread():
            return spec
        execute = spec.loader.exec_module

        def wait_for_the_child(module):
            imports.set()
            has_ended.wait(60)
            execute(module)

        spec.loader.exec_module = wait_for_the_child
        return spec

exporter = SpoolSpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
tracer = provider.get_tracer("test")
sys.meta_path.insert(0, Finder)
tracer.start_span("parent").end()
while not imports.wait(0.01) and not exporter.force_flush(10):
    pass
pid = os.fork()
if pid == 0:
    sys.meta_path.remove(Finder)
    tracer.start_span("child").end()
    os._exit(not exporter.force_flush(30_000))
status = os.waitpid(pid, 0)[1]
has_ended.set()
assert status == 0, "the child cannot send"
provider.shutdown()
"""


def test_a_child_of_a_fork_beside_its_parents_first_request_can_send(
    path: Path, langfuse: StandIn
) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKS_WHILE_ITS_FIRST_REQUEST_IS_PREPARED],
        env=keys_of(langfuse, path),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    # A flush of 10 ms may say that it had no turn.
    assert (ran.returncode, "Traceback" in ran.stderr) == (0, False), ran.stderr
    assert langfuse.names() == {"parent": 1, "child": 1}
