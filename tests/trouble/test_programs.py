"""The shapes that programs have, each with either span processor: all that ended arrives in time.

In time: when the program has ended nothing is missing, as its endpoint is well all the while. Each
is a real program, and the receiver a real one on loopback. What a program does by halves (threads
that cannot be started, outages, forks in C) is `test_program_ends`' and `test_threads`'.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

import spool
from ports import HOST, free_port
from programs import serving_app
from spool.store.store import Store
from standin import StandIn
from trials import Trial
from users import environment_of
from waits import wait_until

pytestmark = pytest.mark.timeout(600)

PATIENCE = 300  # seconds for one program, on a machine that is busy
BEGIN = """
import os, signal, sys, threading, time
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from spool import SpoolSpanExporter

Processor = {"simple": SimpleSpanProcessor, "batch": BatchSpanProcessor}[os.environ["PROCESSOR"]]
provider = TracerProvider()
provider.add_span_processor(Processor(SpoolSpanExporter()))
tracer = provider.get_tracer("program")

def end(who, count=5):
    for number in range(count):
        tracer.start_span(f"{who} {number}").end()
"""

# What a program does, and who ends how many spans in it.
SHAPES = {
    "short": ("end('main')", {"main": 5}),
    "of some seconds": ("end('a'); time.sleep(6); end('b')", {"a": 5, "b": 5}),
    "one whose main thread returns while others work": (
        """
def work(who):
    for number in range(30):
        tracer.start_span(f"{who} {number}").end()
        time.sleep(0.1)

for who in "ab":
    threading.Thread(target=work, args=(who,)).start()
""",
        {"a": 30, "b": 30},
    ),
    "one with threads beside busy ones": (
        """
is_over = False

def be_busy():
    while not is_over:
        pass

busy = threading.Thread(target=be_busy)
busy.start()
ending = [threading.Thread(target=end, args=(str(number), 20)) for number in range(8)]
[thread.start() for thread in ending]
[thread.join() for thread in ending]
is_over = True
""",
        {str(number): 20 for number in range(8)},
    ),
    "one whose signal handlers end spans": (
        """
numbers, handled = iter(range(40)), []

def handle(*_):
    own = next(numbers, None)  # another may come in the middle of this one
    if own is not None:
        tracer.start_span(f"handler {own}").end()
        handled.append(own)

signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
number = 0
while len(handled) < 40:
    # A handler that comes within the batch processor's own lock would wait for itself for ever.
    if Processor is SimpleSpanProcessor and number < 200:
        tracer.start_span(f"main {number}").end()
        number += 1
    else:
        time.sleep(0.001)
signal.setitimer(signal.ITIMER_REAL, 0)
end("main", 200) if number == 0 else None
assert number in (0, 200), number
""",
        {"handler": 40, "main": 200},
    ),
    "one that forks before its first span": (
        """
pid = os.fork()
end("parent" if pid else "child")
if pid:
    assert os.waitpid(pid, 0)[1] == 0
""",
        {"parent": 5, "child": 5},
    ),
    "one that forks after its first span": (
        """
end("before")
pid = os.fork()
end("parent" if pid else "child")
if pid:
    assert os.waitpid(pid, 0)[1] == 0
""",
        {"before": 5, "parent": 5, "child": 5},
    ),
    "one of multiprocessing, forked": (
        """
import multiprocessing

def work(who):
    end(who)
    provider.force_flush()  # such a process runs no exit handlers: the processor's queue is lost

end("before")
context = multiprocessing.get_context("fork")
children = [context.Process(target=work, args=(f"child{number}",)) for number in range(2)]
[child.start() for child in children]
[child.join() for child in children]
assert [child.exitcode for child in children] == [0, 0]
""",
        {"before": 5, "child0": 5, "child1": 5},
    ),
    "one of multiprocessing, spawned": (
        """
import multiprocessing

def work(who):
    end(who)
    provider.force_flush()  # as above

if __name__ == "__main__":
    end("before")
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=work, args=("child",))
    child.start()
    child.join()
    assert child.exitcode == 0
""",
        {"before": 5, "child": 5},
    ),
    "one of asyncio, and after its loop is closed": (
        """
import asyncio

async def work(who):
    for number in range(5):
        tracer.start_span(f"{who} {number}").end()
        await asyncio.sleep(0.01)

async def main():
    await asyncio.gather(work("a"), work("b"))

asyncio.run(main())
end("after")
""",
        {"a": 5, "b": 5, "after": 5},
    ),
    "one that exits by an exception": (
        """
end("main")
raise SystemExit(0)
""",
        {"main": 5},
    ),
    "one that is told to end": (
        """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
end("main")
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(60)
""",
        {"main": 5},
    ),
}
SERVED = (
    BEGIN
    + """
# uWSGI's master runs no thread of Python's: the batch processor's queue would stay there.
if Processor is SimpleSpanProcessor or "uwsgi" not in sys.modules:
    end("before", 1)

def application(environ, start_response):
    who = environ["PATH_INFO"].strip("/")
    if who:
        tracer.start_span(f"request {who}").end()
    start_response("200 OK", [("Content-Length", "4")])
    return [b"done"]
"""
)
REQUESTS = 12


@pytest.fixture(params=["simple", "batch"])
def environment(request: pytest.FixtureRequest, path: Path, langfuse: StandIn) -> dict[str, str]:
    """Name spool, stand-in and processor; with waits as they are by default."""
    wanted = environment_of(path, langfuse.url)
    # A machine that is busy may take longer than 2 s for all that is sent at the end.
    wanted["SPOOL_SHUTDOWN_SECONDS"] = "60"
    return {**os.environ, **wanted, "PROCESSOR": request.param}


@pytest.fixture
def assert_arrived(
    langfuse: StandIn, path: Path, report: Callable[[Trial], None]
) -> Callable[[Counter[str]], None]:
    """Compare what has arrived with what ended."""

    def compare(wanted: Counter[str]) -> None:
        found, store = langfuse.names(), Store(path)
        ledger = store.ledger()
        store.close()
        lost, again = (wanted - found).total(), (found - wanted).total()
        name = "programs of every shape, with either processor"
        ended, held = wanted.total(), ledger.in_memory
        report(Trial(name, 1, ended, ledger.accepted, ledger.refused, held, lost, again))
        assert found == wanted

    return compare


def names_of(counts: dict[str, int]) -> Counter[str]:
    return Counter(f"{who} {number}" for who, count in counts.items() for number in range(count))


def run(environment: dict[str, str], *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize("shape", SHAPES)
def test_all_that_ended_has_arrived_when_a_program_has_ended(
    shape: str,
    environment: dict[str, str],
    tmp_path: Path,
    assert_arrived: Callable[[Counter[str]], None],
) -> None:
    code, counts = SHAPES[shape]
    program = tmp_path / "program.py"
    program.write_text(BEGIN + code)
    run(environment, str(program))
    assert_arrived(names_of(counts))


def test_all_that_ended_has_arrived_when_a_one_liner_has_ended(
    environment: dict[str, str], assert_arrived: Callable[[Counter[str]], None]
) -> None:
    run(environment, "-c", BEGIN + "end('main')")
    assert_arrived(names_of({"main": 5}))


def test_all_that_ended_has_arrived_when_a_program_in_a_zip_has_ended(
    environment: dict[str, str], tmp_path: Path, assert_arrived: Callable[[Counter[str]], None]
) -> None:
    archive = tmp_path / "app.zip"
    with zipfile.ZipFile(archive, "w") as written:
        source = Path(spool.__file__).parent
        for module in source.rglob("*.py"):
            written.write(module, str(Path("spool") / module.relative_to(source)))
        check = "import spool\nassert '.zip' in spool.__file__\nend('main')\n"
        written.writestr("__main__.py", BEGIN + check)
    run(environment, str(archive))
    assert_arrived(names_of({"main": 5}))


# Servers that fork


def command_of(server: str, address: str) -> list[str]:
    binaries = Path(sys.executable).parent
    found = shutil.which(server, path=f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        pytest.skip(f"{server} is not here (pip install {server})")
    if server == "gunicorn":
        return [found, "--preload", "--workers=2", f"--bind={address}", "app:application"]
    options = "--master --processes 2 --enable-threads --die-on-term --need-app --wsgi-file app.py"
    return [found, "--http-socket", address, *options.split()]


@contextlib.contextmanager
def served(server: str, directory: Path, environment: dict[str, str]) -> Iterator[str]:
    """Serve the application with two workers that are forked after a span; give its address."""
    address = f"{HOST}:{free_port()}"
    command = command_of(server, address)
    (directory / "app.py").write_text(SERVED)
    paths = os.pathsep.join([str(directory), *filter(None, sys.path)])
    is_up = functools.partial(answers, address, "")
    with serving_app(command, directory, is_up, **{**environment, "PYTHONPATH": paths}):
        yield address


def answers(address: str, path: str) -> bool:
    connection = HTTPConnection(address, timeout=60)
    try:
        connection.request("GET", f"/{path}")
        return connection.getresponse().read() == b"done"
    except ConnectionError:
        return False
    finally:
        connection.close()


@pytest.mark.parametrize("server", ["gunicorn", "uwsgi"])
def test_all_that_ended_has_arrived_when_a_server_that_forks_has_ended(
    server: str,
    environment: dict[str, str],
    langfuse: StandIn,
    tmp_path: Path,
    assert_arrived: Callable[[Counter[str]], None],
) -> None:
    with served(server, tmp_path, environment) as address:
        for number in range(REQUESTS):
            assert answers(address, str(number))
        wanted = names_of({"request": REQUESTS, "before": 1})
        if server == "uwsgi" and environment["PROCESSOR"] == "batch":
            del wanted["before 0"]
        # A worker that is told to end may be killed before it has sent: it has sent by now.
        wait_until(lambda: not wanted - langfuse.names())
    assert_arrived(wanted)
