"""Two exporters on one spool: each has its route, its progress, its backoff and its hold.

Whatever becomes of one destination, the other gets what it is to get, before and after a restart.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from typing_extensions import Self

import standin
from programs import tell
from projects import OWN_KEY, PROJECTS, TEAM_KEY, credentials_file
from standin import PATH, StandIn
from users import SHORT_WAITS, environment_of, spool, status
from waits import wait_until

pytestmark = pytest.mark.once

PROGRAM: Final = """
import os, sys
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from spool import SpoolSpanExporter
provider = TracerProvider()
for endpoint in os.environ["SECOND"].split():
    provider.add_span_processor(SimpleSpanProcessor(SpoolSpanExporter(endpoint=endpoint)))
provider.add_span_processor(SimpleSpanProcessor(SpoolSpanExporter()))
for line in sys.stdin:
    provider.get_tracer("x").start_span(line.strip()).end()
    print("ended", flush=True)
"""
# Of the second; it has a key of its own, which is in the program only.
TEAM: Final = "pk-lf-team:sk-lf-team@"
ONCE: Final = {f"{number}": 1 for number in range(5)}


@pytest.fixture
def langfuse() -> Iterator[StandIn]:
    """Serve the first destination."""
    with StandIn(PROJECTS) as server:
        yield server


@pytest.fixture
def other() -> Iterator[StandIn]:
    """Serve the second one."""
    with StandIn(PROJECTS) as server:
        yield server


@pytest.fixture
def environment(path: Path, langfuse: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment_of(path, langfuse.url, **SHORT_WAITS).items():
        monkeypatch.setenv(name, value)


class Program:
    """A program that ends a span for each name that it is told."""

    def __init__(self, *second: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SECOND", " ".join(second))
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM], stdin=pipe, stdout=pipe, text=True
            )

    def end(self, *names: str) -> None:
        for name in names:
            assert tell(self.process, name) == "ended"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        assert self.process.wait(60) == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def endpoint_of(server: StandIn, user: str = TEAM) -> str:
    return server.url.replace("://", f"://{user}") + PATH


def routes() -> dict[str, dict[str, Any]]:
    return {route["route"]: route for route in status()["routes"]}


def has(name: str, server: StandIn) -> bool:
    return name in server.names()


def refuse() -> standin.Behaviour:
    return standin.status(401)


@pytest.mark.parametrize(
    ("trouble", "states"),
    [
        (standin.mute, ("waiting",)),
        (refuse, ("held",)),
        (standin.unavailable, ("waiting", "ok")),
        (None, ("waiting",)),
    ],
    ids=["hangs", "refuses the key", "is down", "refuses connections"],
)
def test_a_dead_destination_delays_the_other_by_nothing(
    environment: None,
    langfuse: StandIn,
    other: StandIn,
    trouble: Callable[[], standin.Behaviour] | None,
    states: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Only a request that is given up can arrive twice. Here that is only the first, which has a
    # second while others wait; one to who is in trouble ends with the program, before that is well.
    for patience in ("SPOOL_TIMEOUT_SECONDS", "SPOOL_SHUTDOWN_SECONDS"):
        monkeypatch.setenv(patience, "60")
    if trouble is None:
        other.stop()
    else:
        other.behave(trouble())
    with Program(endpoint_of(other)) as program:
        # One after the other, each when the one before has arrived, while nothing gets there.
        for number in range(5):
            program.end(f"{number}")
            langfuse.wait_for(partial(has, f"{number}"))
        assert other.accepted == 0
        wait_until(lambda: routes()["pk-lf-team"]["state"] in states, every=0.2)
        assert routes()["pk-lf-team"]["pending_spans"] == 5
        assert routes()["pk-lf-test"]["state"] == "ok"
    other.start()
    other.behave(None)
    spool_drain(other)
    assert langfuse.names() in ({**ONCE, "0": first} for first in (1, 2))
    assert other.names() == ONCE
    for server, key in ((langfuse, OWN_KEY), (other, TEAM_KEY)):
        assert {r.headers["authorization"] for r in server.requests} == {key}


def test_while_a_request_hangs_spans_arrive_at_the_other_destination(
    environment: None, langfuse: StandIn, other: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPOOL_TIMEOUT_SECONDS", "3600")  # longer than the test waits
    other.behave(standin.mute())
    with Program(endpoint_of(other)) as program:
        program.end("0")
        other.wait_for(lambda server: len(server.requests) == 1)
        program.end("1", "2", "3")
        langfuse.wait_for(lambda server: server.accepted == 4)
        assert {request.status for request in other.requests} == {0}
        other.stop()


def spool_drain(other: StandIn, code: int = 0) -> None:
    """Drain with both secrets: one from the environment, one from the credentials file."""
    with pytest.MonkeyPatch.context() as patch:
        file = Path(os.environ["SPOOL_PATH"]).parent / "credentials"
        patch.setenv("SPOOL_CREDENTIALS_FILE", credentials_file(file, other.url))
        spool("drain", code=code)


def test_after_a_kill_each_goes_where_it_was_to_go_as_far_as_its_secret_is_there(
    environment: None, langfuse: StandIn, other: StandIn
) -> None:
    for server in (langfuse, other):
        server.stop()
    program = Program(endpoint_of(other))
    program.end("a", "b", "c")
    program.kill()
    for server in (langfuse, other):
        server.start()
    spool("drain", code=1)  # it has one secret of the two
    assert langfuse.names() == {"a": 1, "b": 1, "c": 1}
    assert other.requests == []
    assert {name: route["pending_spans"] for name, route in routes().items()} == {
        "pk-lf-test": 0,
        "pk-lf-team": 3,
    }
    with Program(endpoint_of(other)):  # without a span of its own it sends nothing
        pass
    with Program(endpoint_of(other)) as program:
        program.end("d")
        other.wait_for(lambda server: server.accepted == 4)
    assert other.names() == dict.fromkeys("abcd", 1)
    assert langfuse.names() == dict.fromkeys("abcd", 1)


def test_one_key_on_two_hosts_is_two_destinations(
    environment: None, langfuse: StandIn, other: StandIn
) -> None:
    langfuse.stop()
    own = endpoint_of(other, "pk-lf-test:sk-lf-test@")
    program = Program(own)
    program.end("a")
    other.wait_for(lambda server: server.accepted == 1)
    first, second = routes()
    assert {first, second} >= {"pk-lf-test"}
    assert {name.partition("#")[0] for name in (first, second)} == {"pk-lf-test"}
    program.kill()
    langfuse.start()
    with Program(own) as program:
        program.end("b")
        for server in (langfuse, other):
            server.wait_for(lambda server: server.accepted == 2)
    assert langfuse.names() == other.names() == {"a": 1, "b": 1}


def test_of_one_key_on_two_hosts_a_drain_sends_for_both_where_the_file_lists_it(
    environment: None, langfuse: StandIn, other: StandIn, tmp_path: Path
) -> None:
    for server in (langfuse, other):
        server.stop()
    # The environment's is made first.
    program = Program(*(endpoint_of(one, "pk-lf-test:sk-lf-test@") for one in (langfuse, other)))
    program.end("a")
    program.kill()
    for server in (langfuse, other):
        server.start()
    file = tmp_path / "credentials"
    file.write_text(f"pk-lf-test: sk-lf-test {other.url}\n")
    file.chmod(0o600)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPOOL_CREDENTIALS_FILE", str(file))
        spool("drain")
    assert set(langfuse.names()) == set(other.names()) == {"a"}


def test_a_third_destination_is_one_more_route(
    environment: None, langfuse: StandIn, other: StandIn
) -> None:
    with StandIn(PROJECTS) as third:
        own = endpoint_of(third, "pk-lf-test:sk-lf-test@")
        with Program(endpoint_of(other), own) as program:
            program.end("a")
            for server in (langfuse, other, third):
                server.wait_for(lambda server: server.accepted == 1)
        assert len(routes()) == 3
        assert {route["state"] for route in routes().values()} == {"ok"}
        assert langfuse.names() == other.names() == third.names() == {"a": 1}
