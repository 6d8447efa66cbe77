from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from drains import Clock, drain_all
from spans import batch
from spool.delivery.drainer import Drainer
from spool.delivery.http import connection
from spool.settings.settings import Settings
from spool.settings.target import Target
from spool.store.store import Store
from standin import StandIn
from waits import wait_until

# Of /proc/net/tcp (proc(5)): ESTABLISHED and CLOSE_WAIT.
OPEN = ("01", "08")


def open_to(server: StandIn) -> int:
    """Count the connections to a server that its clients have open."""
    port = f"{int(server.url.rpartition(':')[2]):04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return sum(one[2].endswith(f":{port}") and one[3] in OPEN for one in fields)


def a_route(store: Store, drainer: Drainer, server: StandIn, number: int) -> None:
    """Let spans of a project wait, on that server."""
    target = Target.langfuse(f"pk-lf-{number}", f"sk-lf-{number}", server.url)
    server.keys = {**server.keys, f"pk-lf-{number}": f"sk-lf-{number}"}
    store.append(target, batch(str(number)), 1.0)
    drainer.routes.add(target)


@pytest.fixture
def servers() -> Iterator[list[StandIn]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(StandIn()) for _ in range(12)]


@pytest.fixture
def drainer(store: Store, settings: Settings, clock: Clock) -> Drainer:
    return Drainer(store, settings, clock=clock)


def test_many_routes_of_one_host_share_a_connection(
    store: Store, drainer: Drainer, langfuse: StandIn
) -> None:
    for number in range(30):
        a_route(store, drainer, langfuse, number)
    drain_all(drainer)
    assert (langfuse.connections, langfuse.accepted) == (1, 30)


def test_of_many_hosts_few_connections_are_kept_those_that_were_used_last(
    store: Store, drainer: Drainer, servers: list[StandIn]
) -> None:
    for number, server in enumerate(servers):
        a_route(store, drainer, server, number)
    drain_all(drainer)
    assert [open_to(server) for server in servers] == [0] * 4 + [1] * 8
    assert [server.accepted for server in servers] == [1] * 12


def test_a_connection_that_its_server_closes_is_closed_here_too(
    store: Store, drainer: Drainer, langfuse: StandIn
) -> None:
    a_route(store, drainer, langfuse, 1)
    drainer.start()
    try:
        langfuse.wait_for(lambda server: server.accepted == 1)
        langfuse.stop()
        wait_until(lambda: open_to(langfuse) == 0)
    finally:
        drainer.stop(10)


def test_a_connection_that_is_idle_is_closed(
    store: Store, drainer: Drainer, langfuse: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_LONGEST_IDLE", 0.5)
    a_route(store, drainer, langfuse, 1)
    drainer.start()
    try:
        langfuse.wait_for(lambda server: server.accepted == 1)
        wait_until(lambda: open_to(langfuse) == 0)
    finally:
        drainer.stop(10)


def test_no_socket_is_left_when_the_drainer_has_stopped(
    store: Store, drainer: Drainer, langfuse: StandIn
) -> None:
    a_route(store, drainer, langfuse, 1)
    drainer.start()
    langfuse.wait_for(lambda server: server.accepted == 1)
    drainer.stop(30)
    assert open_to(langfuse) == 0
