"""The reach: the way to a host, step by step, as a request takes it."""

from __future__ import annotations

import http.client
import time
import urllib.parse
from typing import TYPE_CHECKING, Final

from spool.commands.checks.finding import Finding
from spool.delivery.http.connection import Connection
from spool.delivery.http.deadline import Deadline, Step
from spool.delivery.http.failure import explain
from spool.delivery.http.proxy import proxy_for
from spool.system.words import duration_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spool.delivery.http.connection import Peer
    from spool.settings.settings import Settings

# One that is renewed by itself was renewed before.
_SOON: Final = 3 * 86400.0
# In the order in which they are taken.
_STEPS: Final = {
    Step.RESOLVE: "name",
    Step.CONNECT: "connection",
    Step.TUNNEL: "proxy",
    Step.SECURE: "tls",
}


def reach(endpoint: str, settings: Settings) -> Iterator[Finding]:
    """Say how far one comes on the way to an endpoint. No request is sent."""
    host = urllib.parse.urlsplit(endpoint).netloc.rpartition("@")[2]
    deadline = Deadline(settings.timeout_seconds)
    try:
        peer = _connect(endpoint, settings, deadline)
        way = _way(endpoint, settings)
    except (OSError, http.client.HTTPException, ValueError) as error:
        seconds, proxies = settings.timeout_seconds, settings.proxies
        failure = explain(error, deadline.step, endpoint, proxies, seconds)
        if deadline.step in {Step.TUNNEL, Step.SECURE}:
            yield Finding("connection", f"{host}: one is made")
        name = _STEPS.get(deadline.step, "connection")
        yield Finding.wrong(name, failure.words, failure.cause.remedy)
        return
    yield Finding("connection", f"{host} takes one, {way} ({peer.address})")
    if peer.protocol:
        yield _certificate(host, peer)


def _connect(endpoint: str, settings: Settings, deadline: Deadline) -> Peer:
    connection = Connection(endpoint, settings)
    connection.deadline = deadline
    try:
        connection.connect()
        return connection.peer()
    finally:
        connection.close()


def _way(endpoint: str, settings: Settings) -> str:
    proxy = proxy_for(urllib.parse.urlsplit(endpoint), settings.proxies)
    return f"by way of the proxy {proxy.hostname}:{proxy.port or 80}" if proxy else "directly"


def _certificate(host: str, peer: Peer) -> Finding:
    left = peer.expires_at - time.time()
    until = time.strftime("%Y-%m-%d", time.localtime(peer.expires_at))
    said = f"{host} is trusted ({peer.protocol}), its certificate until {until}"
    if left < _SOON:
        return Finding.wrong("tls", f"{said}, for {duration_of(left)}", "renew it")
    return Finding("tls", f"{said}, for {duration_of(left)}")
