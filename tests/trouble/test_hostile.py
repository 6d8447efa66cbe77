"""Hostile answers and networks: every span arrives once the server is well, or is a dead letter."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trustme

import ports
import standin
from drains import Clock
from ledgers import balances
from ports import HOST
from spans import batch, span
from spool import Settings, SpoolSpanExporter
from spool.delivery import drain_once
from spool.delivery.backoff import HOLD_SECONDS
from spool.delivery.drainer import Drainer
from spool.settings.target import Target
from spool.store.store import Store
from standin import Behaviour, Exchange, StandIn
from trials import Trial
from waits import wait_until

pytestmark = pytest.mark.once

NAMES = [f"s{number}" for number in range(12)]
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def saying(data: bytes, *, closes: bool = True) -> Behaviour:
    """Read the request, say these bytes, and close the connection or leave it open for ever."""

    def behave(exchange: Exchange) -> None:
        exchange.read()
        exchange.send(data)
        (exchange.close if closes else exchange.hang)()

    return behave


def endless(data: bytes) -> Behaviour:
    """Read the request, and say this again and again."""

    def behave(exchange: Exchange) -> None:
        exchange.read()
        while True:
            exchange.send(data)
            exchange.pause(0.001)

    return behave


def hasty() -> Behaviour:
    """Refuse without reading the request, and reset the connection."""

    def behave(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
        exchange.reset()

    return behave


def reset_when_used_again() -> Behaviour:
    """Answer well, and reset the connection that was to be kept."""

    def behave(exchange: Exchange) -> None:
        exchange.answer(exchange.judge())
        exchange.reset()

    return behave


# Networks: what stands at the server's port instead of it

Network = Callable[[StandIn], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def nobody(server: StandIn) -> Iterator[None]:
    """Refuse every connection."""
    server.stop()
    yield
    server.start()


@contextlib.contextmanager
def half_open(server: StandIn) -> Iterator[None]:
    """Let the kernel take connections, which nobody ever accepts or reads."""
    server.stop()
    ports.release(server.port)
    with socket.create_server((HOST, server.port), backlog=64):
        yield
    server.start()


@contextlib.contextmanager
def black_hole(server: StandIn) -> Iterator[None]:
    """Drop what would open a connection, as a full backlog does."""
    server.stop()
    ports.release(server.port)
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.create_server((HOST, server.port), backlog=0))
        for _ in range(4):
            caller = sockets.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(listener.getsockname())
        yield
    server.start()


def presenting(name: str, *, is_trusted: bool) -> Network:
    """Show a certificate for that name, from the authority that is trusted or from another."""

    @contextlib.contextmanager
    def network(server: StandIn) -> Iterator[None]:
        good = server.tls
        server.tls = tls_of(AUTHORITY if is_trusted else trustme.CA(), name)
        yield
        server.tls = good

    return network


@contextlib.contextmanager
def without_tls(server: StandIn) -> Iterator[None]:
    """Speak plain HTTP where TLS is expected."""
    good, server.tls = server.tls, None
    yield
    server.tls = good


AUTHORITY = trustme.CA()


def tls_of(authority: trustme.CA, name: str = HOST) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


@dataclass(frozen=True)
class Kind:
    """One kind of hostility. `dead`: how many spans it makes dead letters, in which words.

    `needs_company`: only other spans that are delivered prove whose fault it is.
    """

    behaviour: Behaviour | None = None
    network: Network | None = None
    host: str = ""
    is_secure: bool = False
    dead: int = 0
    words: str = ""
    needs_company: bool = False


def kinds() -> dict[str, Kind]:
    """Make each kind anew: some behaviours remember what they did."""
    return {
        "a refused connection": Kind(network=nobody),
        "a half-open connection": Kind(network=half_open),
        "a black hole": Kind(network=black_hole),
        "a name that does not resolve": Kind(host="http://langfuse.invalid"),
        "a certificate of an unknown authority": Kind(
            network=presenting(HOST, is_trusted=False), is_secure=True
        ),
        "a certificate of another host": Kind(
            network=presenting("other.example", is_trusted=True), is_secure=True
        ),
        "no TLS where it is expected": Kind(network=without_tls, is_secure=True),
        "400 with a page": Kind(
            standin.status(400, body=b"<html>no</html>", content_type="text/html")
        ),
        "401": Kind(standin.status(401)),
        "403": Kind(standin.suspended()),
        "404": Kind(standin.status(404, body=b"<html>no</html>", content_type="text/html")),
        "405": Kind(standin.status(405)),
        "408": Kind(standin.status(408)),
        "425": Kind(standin.status(425)),
        "429 with seconds": Kind(standin.too_many(1)),
        "429 with a date": Kind(standin.retry_after_date(1)),
        "429 with a date of a clock that is a year ahead": Kind(
            standin.retry_after_date(1, clock_offset=365 * 86400)
        ),
        "500": Kind(standin.server_error()),
        "502 with a page": Kind(
            standin.status(502, body=b"<html>no</html>", content_type="text/html")
        ),
        "503": Kind(standin.unavailable()),
        "503 with Retry-After, closing": Kind(standin.busy()),
        "503 before the request is read": Kind(hasty()),
        "a captive portal's page": Kind(standin.html_200()),
        "a captive portal's redirect": Kind(standin.redirect_302()),
        "200 without a body or type": Kind(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")),
        "200 with JSON that is none": Kind(standin.status(200, body=b'{"partialSuccess": [')),
        "no answer": Kind(standin.mute()),
        "a request that is not read": Kind(standin.deaf()),
        "an answer that is late": Kind(standin.delay(1)),
        "slow headers": Kind(standin.slow_headers(0.1)),
        "a slow body": Kind(standin.slow_body(0.1)),
        "headers without end": Kind(endless(b"X-More: and more\r\n")),
        "a body without end": Kind(
            endless(OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 100)
        ),
        "100 Continue for ever": Kind(endless(b"HTTP/1.1 100 Continue\r\n\r\n")),
        "a Content-Length that is too long, then the end": Kind(
            saying(OK + b"Content-Length: 999\r\n\r\n{}")
        ),
        "a Content-Length that is too long, then nothing": Kind(
            saying(OK + b"Content-Length: 999\r\n\r\n{}", closes=False)
        ),
        "a Content-Length that is too short": Kind(
            saying(OK + b'Content-Length: 5\r\n\r\n{"partialSuccess": {}}')
        ),
        "a Content-Length that is no number": Kind(saying(OK + b"Content-Length: many\r\n\r\n{}")),
        "garbage": Kind(standin.garbage()),
        "half an answer": Kind(standin.half_answer()),
        "a reset in mid-body": Kind(standin.reset_mid_body()),
        "accepted, then a reset": Kind(standin.reset_after_accept()),
        "a reset of the connection that was kept": Kind(reset_when_used_again()),
        "413 above a size": Kind(standin.too_large(700)),
        "413 for everything": Kind(standin.too_large(1)),
        "400 for everything": Kind(standin.status(400)),
        "422 for everything": Kind(standin.status(422)),
        "400 for one span": Kind(
            standin.reject_span("s3"), dead=1, words="400 cannot take the span s3"
        ),
        "500 for one span, for ever": Kind(
            standin.poison("s3"), dead=1, words="500 cannot take the span s3", needs_company=True
        ),
        "a partial success": Kind(
            standin.sequence([standin.partial_success(1, "one too many"), None]),
            dead=1,
            words="one too many",
        ),
        "a partial success in JSON": Kind(
            standin.sequence([standin.partial_success(1, "one too many", as_json=True), None]),
            dead=1,
            words="one too many",
        ),
    }


class Meeting:
    """A real exporter and its drainer meet a kind of trouble, and then a server that is well."""

    def __init__(self, kind: Kind, directory: Path) -> None:
        self.kind = kind
        self.server = StandIn(tls=tls_of(AUTHORITY) if kind.is_secure else None)
        self.path = directory / "spool.db"
        bundle = directory / "ca.pem"
        AUTHORITY.cert_pem.write_to_path(str(bundle))
        self.settings = Settings(
            path=self.path,
            certificate=bundle,
            backoff_seconds=(0.01, 0.05),
            timeout_seconds=10 if kind.dead else 0.5,  # a late answer would make no dead letter
            shutdown_seconds=0,
        )
        self.store = Store(self.path)
        self.ended: list[str] = []

    def happen(self) -> Trial:
        with self.server:
            self.suffer()
            self.recover()
            return self.judge()

    def suffer(self) -> None:
        network = self.kind.network or (lambda _: contextlib.nullcontext())
        with network(self.server), self.exporting(self.kind.host or self.server.url) as exporter:
            self.server.behave(self.kind.behaviour)
            for name in NAMES:
                self.end_span(exporter, name)
            wait_until(lambda: self.has_met_it(exporter))

    def end_span(self, exporter: SpoolSpanExporter, name: str) -> None:
        self.ended.append(name)
        exporter.export([span(name)])

    def has_met_it(self, exporter: SpoolSpanExporter) -> bool:
        if self.kind.needs_company:
            self.end_span(exporter, f"company {len(self.ended)}")
        if self.kind.dead:
            return self.store.ledger().dead >= self.kind.dead
        (route,) = self.store.routes()
        return bool(route.attempts) or self.is_through()

    def is_through(self) -> bool:
        """Say whether all that ended has come out of the journal, and waits no more."""
        ledger = self.store.ledger()
        return ledger.accepted == len(self.ended) and not ledger.pending

    def recover(self) -> None:
        self.server.behave(None)
        with self.exporting(self.server.url) as exporter:
            (route,) = self.store.routes()
            if route.fingerprints:  # what `python -m spool drain` does about a held route
                drainer = Drainer(self.store, self.settings)
                drainer.routes.add(exporter._target)
                drain_once.drain(drainer, 10, lambda: None)
            self.end_span(exporter, "well")
            wait_until(self.is_through)

    @contextlib.contextmanager
    def exporting(self, url: str) -> Iterator[SpoolSpanExporter]:
        target = Target.langfuse("pk-lf-test", "sk-lf-test", url)
        exporter = SpoolSpanExporter(settings=replace(self.settings, target=target))
        try:
            yield exporter
        finally:
            exporter.shutdown()

    def judge(self) -> Trial:
        ledger, names = self.store.ledger(), self.server.names()
        letters = self.store.dead_letters()
        self.store.close()
        missing = len(set(self.ended) - set(names))
        assert missing <= ledger.dead, names
        assert balances(ledger), ledger
        assert (ledger.pending, ledger.dead) == (0, self.kind.dead), ledger
        assert all(letter.reason.startswith(self.kind.words) for letter in letters), letters
        return Trial(
            name="",
            tried=1,
            ended=len(self.ended),
            accepted=ledger.accepted,
            refused=ledger.refused,
            in_memory=ledger.in_memory,
            lost=missing - ledger.dead,
            duplicates=sum(names.values()) - len(names),
        )


@pytest.mark.trust
@pytest.mark.timeout(1200)
def test_after_any_hostile_answer_every_span_arrives_or_is_a_dead_letter(
    tmp_path: Path, is_full: bool, report: Callable[[Trial], None]
) -> None:
    troubles, failures = [], {}
    with ThreadPoolExecutor(12) as pool:
        meetings = {}
        for number in range(5 if is_full else 1):
            for name, kind in kinds().items():
                directory = tmp_path / f"{number} {name}"
                directory.mkdir()
                meetings[f"{number} {name}"] = pool.submit(Meeting(kind, directory).happen)
        for name, meeting in meetings.items():
            try:
                troubles.append(meeting.result())
            except Exception as error:  # noqa: BLE001 - all that failed are shown
                failures[name] = error
    assert not failures
    numbers = {
        name: sum(getattr(trouble, name) for trouble in troubles)
        for name in ("tried", "ended", "accepted", "refused", "in_memory", "lost", "duplicates")
    }
    report(Trial(name=f"{len(kinds())} kinds of hostile answers and networks", **numbers))


# Clocks


YEAR = 365 * 86400.0
JUMPS = {
    "from 1970 to now": (0.0, 1_700_000_000.0),
    "back to 1970": (1_700_000_000.0, -1_700_000_000.0),
    "a year forward": (1_700_000_000.0, YEAR),
    "a year back": (1_700_000_000.0, -YEAR),
}
# The longest that each waits, and how many requests it may cost in ten minutes.
WAITS: dict[str, tuple[Behaviour, float, int]] = {
    "backoff": (standin.unavailable(), 60, 60),
    "Retry-After": (standin.too_many(60), 60, 12),
    "a hold": (standin.status(401), HOLD_SECONDS, 3),
}


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("jump", JUMPS)
def test_a_clock_that_jumps_during_a_wait_neither_stalls_nor_storms(
    jump: str, wait: str, store: Store, path: Path, target: Target, langfuse: StandIn
) -> None:
    random.seed(f"{jump} {wait}")
    begin, distance = JUMPS[jump]
    behaviour, longest, most = WAITS[wait]
    clock = Clock()
    clock.now = begin
    store.register(target)
    for name in NAMES:
        store.append(target, batch(name), clock.now)
    drainer = Drainer(store, Settings(path=path), clock=clock)
    drainer.routes.add(target)
    langfuse.behave(behaviour)
    drainer.send_due()
    clock.now += distance
    for _ in range(600):
        clock.now += 1
        drainer.send_due()
    assert 1 < len(langfuse.requests) <= most
    langfuse.behave(None)
    for _ in range(int(longest) + 1):
        clock.now += 1
        drainer.send_due()
    assert set(langfuse.names()) == set(NAMES)
    assert balances(store.ledger())


def test_a_captive_portal_costs_few_requests_in_an_hour_and_no_span(
    store: Store, path: Path, target: Target, langfuse: StandIn
) -> None:
    random.seed("captive portal")
    clock = Clock()
    drainers = [Drainer(store, Settings(path=path), clock=clock) for _ in range(3)]
    for drainer in drainers:
        drainer.routes.add(target)
    langfuse.behave(standin.html_200())
    for second in range(3600):
        if second % 60 == 0:
            store.append(target, batch(f"minute {second // 60}"), clock.now)
        clock.now += 1
        for drainer in drainers:
            drainer.send_due()
    # Full jitter up to 60 s: one each 30 s, after a quicker beginning.
    assert 60 <= len(langfuse.requests) <= 200
    assert store.ledger().pending == 60
    langfuse.behave(None)
    clock.now += 60
    while drainers[0].send_due():
        pass
    assert sorted(langfuse.names().values()) == [1] * 60
    assert store.ledger().delivered == 60
