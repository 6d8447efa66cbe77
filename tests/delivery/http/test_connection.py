"""The wire, as the sender uses it: deadlines, kept connections, names, TLS and proxies."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme

import standin
from spans import batch
from spool.delivery.http import connection
from spool.delivery.http.classification import Outcome, Verdict
from spool.delivery.http.sender import Sender
from spool.otlp.batch import join
from spool.settings.settings import Settings
from spool.settings.target import Target
from standin import HOST, PATH, Behaviour, StandIn

if TYPE_CHECKING:
    from typing_extensions import Self

BODY = join([batch("call")], compress=True)
DEADLINE = 0.5
# What a busy machine may take beyond the deadline; what hangs here hangs for longer.
GRACE = 15.0

Addresses = list[tuple[Any, ...]]


def sender_to(url: str, **settings: Any) -> Sender:
    target = Target.langfuse("pk-lf-test", "sk-lf-test", url)
    return Sender(target, Settings(path=Path("/nowhere/spool.db"), target=target, **settings))


@pytest.fixture
def sender(langfuse: StandIn) -> Iterator[Sender]:
    sender = sender_to(langfuse.url)
    yield sender
    sender.close()


def raw(data: bytes, *, again: bool = False) -> Behaviour:
    """Say these bytes, once or for ever, and keep the connection open."""

    def behave(exchange: standin.Exchange) -> None:
        exchange.read()
        exchange.send(data)
        while again:
            exchange.send(data)
        exchange.hang()

    return behave


def closing(data: bytes) -> Behaviour:
    """Say these bytes and close the connection."""

    def behave(exchange: standin.Exchange) -> None:
        exchange.read()
        exchange.send(data)
        exchange.close()

    return behave


def slow_reader() -> Behaviour:
    """Take the request in sips, so that sending it never stands still for long."""

    def behave(exchange: standin.Exchange) -> None:
        while exchange.connection.socket.recv(1 << 16):
            exchange.pause(0.005)
        exchange.close()

    return behave


def slowly(data: bytes, then: bytes = b"") -> Behaviour:
    """Say these bytes one by one; if `then`, that for ever after, slowly too."""

    def behave(exchange: standin.Exchange) -> None:
        exchange.read()
        for byte in data:
            exchange.pause(0.05)
            exchange.send(bytes([byte]))
        while then:
            exchange.pause(0.05)
            exchange.send(then)
        exchange.hang()

    return behave


def send_in_time(sender: Sender, body: bytes = BODY) -> Outcome:
    """Send with a short deadline, and see that it is kept."""
    started = time.monotonic()
    outcome = sender.send(body, DEADLINE)
    assert time.monotonic() - started < DEADLINE + GRACE
    return outcome


def assert_timed_out(outcome: Outcome) -> None:
    assert outcome.verdict is Verdict.WAIT
    assert outcome.is_timeout
    assert outcome.reason.startswith("no complete answer within 0.5 s")


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as bound:  # bound and not listening: nobody else gets it
        bound.bind((HOST, 0))
        yield bound.getsockname()[1]


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Connections are taken by the kernel, and by nobody else."""
    with socket.create_server((HOST, 0)) as listener:
        yield listener.getsockname()[1]


# Deadlines

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "behaviour",
    [
        standin.mute(),
        standin.delay(30),
        standin.slow_headers(0.1),
        standin.slow_body(0.1),
        raw(ANSWER),
        raw(ANSWER + b"Content-Length: 10\r\n\r\n{"),
        raw(ANSWER + b"\r\n"),
        raw(ANSWER + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"),
        raw(ANSWER + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nTrailer: x\r\n"),
        raw(b"HTTP/1.1 100 Continue\r\n\r\n", again=True),
        slowly(ANSWER + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 1000),
        slowly(b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
        slowly(b"", then=b"HTTP/1.1 200 OK\r\nX: y\r\n"),
    ],
    ids=[
        "mute", "late", "slow headers", "slow body", "half of the headers", "half of the body",
        "a body without end", "half of the chunks", "half of the trailers", "100 for ever",
        "slow chunks", "slow 100", "slow headers without end",
    ],
)  # fmt: skip
def test_a_request_ends_at_its_deadline(
    langfuse: StandIn, sender: Sender, behaviour: Behaviour
) -> None:
    langfuse.behave(behaviour)
    assert_timed_out(send_in_time(sender))
    langfuse.behave(None)
    assert sender.send(BODY, 10).verdict is Verdict.DELIVERED


def test_a_request_that_nobody_reads_ends_at_its_deadline(
    langfuse: StandIn, sender: Sender
) -> None:
    for behaviour in (standin.deaf(), slow_reader()):
        langfuse.behave(behaviour)
        assert_timed_out(send_in_time(sender, os.urandom(32 << 20)))


def test_of_a_request_that_was_given_up_nothing_more_is_sent() -> None:
    with socket.create_server((HOST, 0)) as listener:
        sender = sender_to(f"http://{HOST}:{listener.getsockname()[1]}")
        assert sender.send(bytes(32 << 20), 0.2).is_timeout
        accepted, _ = listener.accept()
        with accepted, pytest.raises(ConnectionResetError):
            read_to_its_end(accepted)


def read_to_its_end(sock: socket.socket) -> None:
    while sock.recv(1 << 20):
        pass


def test_a_request_without_time_is_not_sent(langfuse: StandIn, sender: Sender) -> None:
    assert sender.send(BODY, 0).is_timeout
    assert not langfuse.requests


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_takes_connections_and_no_more_is_left_at_the_deadline(
    silent_port: int, scheme: str
) -> None:
    with contextlib.closing(sender_to(f"{scheme}://{HOST}:{silent_port}")) as sender:
        assert_timed_out(send_in_time(sender))


# What servers and networks do


@pytest.mark.parametrize(
    "behaviour",
    [
        standin.garbage(),
        standin.half_answer(),
        standin.reset_mid_body(),
        standin.reset_after_accept(),
        lambda exchange: exchange.close(),
        raw(b"HTTP/1.1 abc\r\n\r\n"),
        raw(b"HTTP/9.9 200 OK\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\n" + b"x" * 100_000),
        raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000),
        raw(ANSWER + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n"),
        closing(ANSWER + b"Content-Length: 10\r\n\r\n{}"),
        closing(ANSWER + b"Content-Length: 10\r\n\r\n"),
        closing(ANSWER + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"),
    ],
    ids=[
        "garbage", "half an answer", "reset in the body", "reset after it", "closed", "bad status",
        "bad version", "endless line", "many headers", "bad chunk", "half a body that looks whole",
        "no body", "half of the chunks",
    ],
)  # fmt: skip
def test_what_is_no_answer_is_waited_out_and_then_all_is_well(
    langfuse: StandIn, sender: Sender, behaviour: Behaviour
) -> None:
    langfuse.behave(behaviour)
    outcome = sender.send(BODY, 10)
    assert outcome.verdict is Verdict.WAIT
    assert not outcome.is_timeout
    assert outcome.reason
    langfuse.behave(None)
    assert sender.send(BODY, 10).verdict is Verdict.DELIVERED


def test_a_refused_connection_is_waited_out(closed_port: int) -> None:
    outcome = sender_to(f"http://{HOST}:{closed_port}").send(BODY, 10)
    assert outcome.verdict is Verdict.WAIT
    assert "refused" in outcome.reason
    assert not outcome.is_timeout


# Kept connections


def test_one_connection_carries_many_requests(langfuse: StandIn, sender: Sender) -> None:
    for _ in range(10):
        assert sender.send(BODY, 10).verdict is Verdict.DELIVERED
    assert (langfuse.connections, langfuse.accepted) == (1, 10)


def test_a_connection_is_kept_after_an_error_answer_too(langfuse: StandIn, sender: Sender) -> None:
    langfuse.behave(standin.sequence([standin.unavailable(), None]))
    assert sender.send(BODY, 10).verdict is Verdict.WAIT
    assert sender.send(BODY, 10).verdict is Verdict.DELIVERED
    assert langfuse.connections == 1


def test_a_kept_connection_that_went_stale_costs_no_attempt(
    langfuse: StandIn, sender: Sender
) -> None:
    assert sender.send(BODY, 10).verdict is Verdict.DELIVERED
    langfuse.stop()
    langfuse.start()
    assert sender.send(BODY, 10).verdict is Verdict.DELIVERED
    assert langfuse.connections == 2


def test_a_connection_that_the_server_closes_is_not_used_again(
    langfuse: StandIn, sender: Sender
) -> None:
    langfuse.behave(standin.sequence([standin.busy(), None]))
    assert sender.send(BODY, 10).verdict is Verdict.WAIT
    assert sender.send(BODY, 10).verdict is Verdict.DELIVERED
    assert langfuse.connections == 2


def test_a_connection_that_was_idle_for_long_is_not_used_again(
    langfuse: StandIn, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_LONGEST_IDLE", -1.0)
    for _ in range(2):
        assert sender.send(BODY, 10).verdict is Verdict.DELIVERED
    assert langfuse.connections == 2


def test_a_closed_sender_opens_a_connection_again(langfuse: StandIn, sender: Sender) -> None:
    for _ in range(2):
        assert sender.send(BODY, 10).verdict is Verdict.DELIVERED
        sender.close()
    assert langfuse.connections == 2


def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next_ones(
    langfuse: StandIn, sender: Sender
) -> None:
    refused = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
    smuggled = ANSWER + b"Content-Length: 2\r\n\r\n{}"
    langfuse.behave(standin.sequence([raw(refused + smuggled), standin.mute()]))
    assert sender.send(BODY, 10).verdict is Verdict.WAIT
    assert_timed_out(send_in_time(sender))
    langfuse.behave(None)
    assert sender.send(BODY, 10).verdict is Verdict.DELIVERED


@pytest.mark.parametrize("interim", ["100 Continue", "102 Processing", "103 Early Hints"])
def test_what_a_server_says_before_its_answer_is_passed_over(
    langfuse: StandIn, sender: Sender, interim: str
) -> None:
    def behave(exchange: standin.Exchange) -> None:
        reply = exchange.judge()
        exchange.send(f"HTTP/1.1 {interim}\r\nLink: </a>\r\n\r\n".encode() * 2)
        exchange.answer(reply)

    langfuse.behave(behave)
    for _ in range(2):
        assert sender.send(BODY, 10).verdict is Verdict.DELIVERED
    assert langfuse.connections == 1


@pytest.mark.parametrize("size", [(1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_a_large_answer_does_not_break_the_next_request(
    langfuse: StandIn, sender: Sender, size: int
) -> None:
    langfuse.behave(standin.sequence([standin.status(503, body="x" * size), None]))
    assert sender.send(BODY, 10).verdict is Verdict.WAIT
    assert sender.send(BODY, 10).verdict is Verdict.DELIVERED
    assert langfuse.accepted == 1
    assert langfuse.connections == 1 + (size > 1 << 20)


def test_an_answer_without_end_is_not_read_to_its_end(langfuse: StandIn, sender: Sender) -> None:
    endless = raw(b"x" * 10_000, again=True)

    def behave(exchange: standin.Exchange) -> None:
        exchange.read()
        exchange.send(b"HTTP/1.1 503 Busy\r\n\r\n")
        endless(exchange)

    langfuse.behave(standin.sequence([behave, None]))
    assert not sender.send(BODY, 10).is_timeout
    assert sender.send(BODY, 10).verdict is Verdict.DELIVERED


# Names


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[], Addresses]]:
    """Answer for these names; no other name leaves the machine."""
    answers: dict[str, Callable[[], Addresses]] = {}
    resolve = socket.getaddrinfo

    def fake(host: str, *arguments: Any, **named: Any) -> Any:
        return answers[host]() if host in answers else resolve(HOST, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", fake)
    return answers


def address(port: int) -> tuple[Any, ...]:
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (HOST, port))


def test_an_unknown_name_is_waited_out(names: dict[str, Callable[[], Addresses]]) -> None:
    def fail() -> Addresses:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    names["langfuse.invalid"] = fail
    outcome = sender_to("http://langfuse.invalid").send(BODY, 10)
    assert outcome.verdict is Verdict.WAIT
    assert "cannot resolve langfuse.invalid" in outcome.reason
    assert "Name or service not known" in outcome.reason


def test_a_name_that_no_resolver_takes_is_waited_out() -> None:
    outcome = sender_to(f"http://{'x' * 70}.invalid").send(BODY, 10)
    assert outcome.verdict is Verdict.WAIT
    assert "cannot resolve" in outcome.reason


def test_a_resolver_that_hangs_is_left_at_the_deadline(
    names: dict[str, Callable[[], Addresses]],
) -> None:
    done = threading.Event()

    def hang() -> Addresses:
        done.wait(60)
        return []

    names["langfuse.invalid"] = hang
    try:
        assert_timed_out(send_in_time(sender_to("http://langfuse.invalid")))
    finally:
        done.set()


def test_a_name_without_addresses_is_waited_out(
    names: dict[str, Callable[[], Addresses]],
) -> None:
    names["langfuse.invalid"] = list
    outcome = sender_to("http://langfuse.invalid").send(BODY, 10)
    assert (outcome.verdict, outcome.is_timeout) == (Verdict.WAIT, False)


def test_a_refusing_address_does_not_hide_a_good_one(
    langfuse: StandIn, closed_port: int, names: dict[str, Callable[[], Addresses]]
) -> None:
    names["langfuse.invalid"] = lambda: [address(closed_port), address(langfuse.port)]
    with contextlib.closing(sender_to("http://langfuse.invalid")) as sender:
        assert sender.send(BODY, 10).verdict is Verdict.DELIVERED
    assert langfuse.requests[0].headers["host"] == "langfuse.invalid"


def test_a_mute_address_does_not_hide_a_good_one(
    langfuse: StandIn,
    names: dict[str, Callable[[], Addresses]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connect = socket.socket.connect
    waited: list[float | None] = []

    class Socket(socket.socket):
        def connect(self, address: Any) -> None:
            if address[1] == 1:
                waited.append(self.gettimeout())
                raise TimeoutError("timed out")
            connect(self, address)

    monkeypatch.setattr(socket, "socket", Socket)
    names["langfuse.invalid"] = lambda: [address(1), address(langfuse.port)]
    with contextlib.closing(sender_to("http://langfuse.invalid")) as sender:
        assert sender.send(BODY, 20).verdict is Verdict.DELIVERED
    (timeout,) = waited
    assert timeout is not None
    assert timeout <= 10


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def bundle(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


def tls_of(authority: trustme.CA, name: str = HOST) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


@pytest.fixture
def secure(authority: trustme.CA) -> Iterator[StandIn]:
    with StandIn(tls=tls_of(authority)) as server:
        yield server


def test_a_certificate_that_the_configured_bundle_vouches_for_is_trusted(
    secure: StandIn, bundle: Path
) -> None:
    with contextlib.closing(sender_to(secure.url, certificate=bundle)) as sender:
        for _ in range(3):
            assert sender.send(BODY, 10).verdict is Verdict.DELIVERED
    assert (secure.connections, secure.accepted) == (1, 3)


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_certificate_that_the_bundle_of_requests_vouches_for_is_trusted(
    secure: StandIn, bundle: Path, variable: str
) -> None:
    environ = {"SPOOL_PATH": "/nowhere/spool.db", variable: str(bundle)}
    target = Target.langfuse("pk-lf-test", "sk-lf-test", secure.url)
    settings = Settings.from_env(target=target, environ=environ)
    with contextlib.closing(Sender(target, settings)) as sender:
        assert sender.send(BODY, 10).verdict is Verdict.DELIVERED


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to hash a directory")
def test_a_bundle_may_be_a_directory_as_for_requests(secure: StandIn, bundle: Path) -> None:
    said = subprocess.run(
        ["openssl", "x509", "-hash", "-noout", "-in", bundle], capture_output=True, check=True
    )
    directory = bundle.with_name("bundle")
    directory.mkdir()
    (directory / f"{said.stdout.decode().strip()}.0").write_bytes(bundle.read_bytes())
    with contextlib.closing(sender_to(secure.url, certificate=directory)) as sender:
        assert sender.send(BODY, 10).verdict is Verdict.DELIVERED


def test_a_bundle_that_is_not_there_is_waited_out_and_named(
    secure: StandIn, tmp_path: Path
) -> None:
    outcome = sender_to(secure.url, certificate=tmp_path / "missing.pem").send(BODY, 10)
    assert outcome.verdict is Verdict.WAIT
    assert f"{tmp_path}/missing.pem: there is no CA bundle" in outcome.reason


def test_an_unknown_certificate_is_waited_out_and_nothing_is_sent(secure: StandIn) -> None:
    outcome = sender_to(secure.url).send(BODY, 10)
    assert outcome.verdict is Verdict.WAIT
    assert "certificate verify failed" in outcome.reason
    assert not secure.requests


def test_a_certificate_of_another_host_is_waited_out_and_nothing_is_sent(
    authority: trustme.CA, bundle: Path
) -> None:
    with StandIn(tls=tls_of(authority, "other.example")) as server:
        outcome = sender_to(server.url, certificate=bundle).send(BODY, 10)
        assert outcome.verdict is Verdict.WAIT
        assert "certificate" in outcome.reason
        assert not server.requests


def test_a_certificate_is_checked_for_the_name_in_the_endpoint(
    authority: trustme.CA, bundle: Path, names: dict[str, Callable[[], Addresses]]
) -> None:
    with StandIn(tls=tls_of(authority, "langfuse.invalid")) as server:
        for name in ("langfuse.invalid", "other.invalid"):
            names[name] = lambda: [address(server.port)]
            with contextlib.closing(sender_to(f"https://{name}", certificate=bundle)) as sender:
                verdict = sender.send(BODY, 10).verdict
            assert (verdict is Verdict.DELIVERED) == (name == "langfuse.invalid")
        assert server.accepted == 1


def test_a_bundle_that_is_none_is_waited_out_with_the_reason(
    secure: StandIn, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_text("this is no certificate")
    outcome = sender_to(secure.url, certificate=tmp_path / "ca.pem").send(BODY, 10)
    assert outcome.verdict is Verdict.WAIT
    assert outcome.reason


def test_plain_http_where_tls_is_expected_is_waited_out(langfuse: StandIn) -> None:
    outcome = sender_to(f"https://{HOST}:{langfuse.port}").send(BODY, 5)
    assert outcome.verdict is Verdict.WAIT
    assert not langfuse.accepted


def test_a_client_certificate_is_shown_where_one_is_wanted(
    authority: trustme.CA, bundle: Path, tmp_path: Path
) -> None:
    context = tls_of(authority)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    client = authority.issue_cert("client@example.org")
    certificate, key, both = (tmp_path / name for name in ("client.pem", "client.key", "both.pem"))
    client.cert_chain_pems[0].write_to_path(str(certificate))
    client.private_key_pem.write_to_path(str(key))
    client.private_key_and_cert_chain_pem.write_to_path(str(both))
    with StandIn(tls=context) as server:
        without = sender_to(server.url, certificate=bundle)
        assert without.send(BODY, 10).verdict is Verdict.WAIT
        apart = {"client_certificate": certificate, "client_key": key}
        for files in (apart, {"client_certificate": both}):
            with contextlib.closing(sender_to(server.url, certificate=bundle, **files)) as sender:
                assert sender.send(BODY, 10).verdict is Verdict.DELIVERED
        assert server.accepted == 2


# Proxies


class Proxy:
    """Forwards whole URLs and tunnels CONNECT; remembers the heads of the requests.

    With an `answer` it says only that, and with an empty one nothing at all.
    """

    def __init__(self, answer: bytes | None = None) -> None:
        self.heads: list[str] = []
        self._answer = answer
        self._open: list[socket.socket] = []
        self._listener = socket.create_server((HOST, 0))
        self._listener.settimeout(0.1)
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._listener.getsockname()[1]}"

    @property
    def lines(self) -> list[str]:
        return [head.partition("\r\n")[0] for head in self.heads]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._threads[0].join()
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for sock in (*self._open, self._listener):
            sock.close()

    def _accept(self) -> None:
        while not self._done.is_set():
            with contextlib.suppress(TimeoutError):
                client, _ = self._listener.accept()
                client.setblocking(True)
                self._open.append(client)
                self._spawn(self._serve, client)

    def _spawn(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _serve(self, client: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            part = client.recv(65536)
            if not part:
                return
            data += part
        head, _, rest = data.partition(b"\r\n\r\n")
        self.heads.append(head.decode("latin-1"))
        if self._answer is not None:
            client.sendall(self._answer)
            self._done.wait(60)
            return
        method, url, _ = self.heads[-1].split(" ", 2)
        host = url if method == "CONNECT" else url.split("/")[2]
        server = socket.create_connection((HOST, int(host.rpartition(":")[2])))
        self._open.append(server)
        if method == "CONNECT":
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            path = "/" + url.split("/", 3)[3]
            server.sendall(head.replace(url.encode(), path.encode(), 1) + b"\r\n\r\n" + rest)
        self._spawn(self._pump, server, client)
        self._pump(client, server)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("scheme", ["http", "all"])
def test_a_proxy_gets_the_whole_url_of_a_plain_endpoint(langfuse: StandIn, scheme: str) -> None:
    with Proxy() as proxy:
        sender = sender_to(langfuse.url, proxies={scheme: proxy.url})
        with contextlib.closing(sender):
            assert sender.send(BODY, 10).verdict is Verdict.DELIVERED
        assert proxy.lines == [f"POST {langfuse.endpoint} HTTP/1.1"]
    assert langfuse.accepted == 1
    assert langfuse.requests[0].path == PATH
    assert langfuse.requests[0].headers["host"] == f"{HOST}:{langfuse.port}"


def test_a_proxy_gets_the_name_and_the_password_of_its_url(langfuse: StandIn) -> None:
    with Proxy() as proxy:
        url = proxy.url.replace("http://", "http://user:p%40ss@")
        with contextlib.closing(sender_to(langfuse.url, proxies={"http": url})) as sender:
            assert sender.send(BODY, 10).verdict is Verdict.DELIVERED
        expected = "Proxy-Authorization: Basic " + b64encode(b"user:p@ss").decode()
        assert expected in proxy.heads[0].splitlines()


def test_a_tunnel_through_a_proxy_shows_it_nothing_but_the_host(
    secure: StandIn, bundle: Path
) -> None:
    with Proxy() as proxy:
        url = proxy.url.replace("http://", "user:pw@")  # no scheme, as curl allows
        sender = sender_to(secure.url, certificate=bundle, proxies={"https": url})
        with contextlib.closing(sender):
            for _ in range(3):
                assert sender.send(BODY, 10).verdict is Verdict.DELIVERED
        (head,) = proxy.heads
    assert proxy.lines == [f"CONNECT {HOST}:{secure.port} HTTP/1.{head[head.find('/1.') + 3]}"]
    names = {line.partition(":")[0].lower() for line in head.splitlines()[1:]}
    assert "proxy-authorization" in names
    assert names <= {"proxy-authorization", "host"}
    assert secure.accepted == 3
    assert "proxy-authorization" not in secure.requests[0].headers


def test_a_certificate_behind_a_tunnel_is_checked_too(secure: StandIn) -> None:
    with Proxy() as proxy:
        outcome = sender_to(secure.url, proxies={"https": proxy.url}).send(BODY, 10)
    assert outcome.verdict is Verdict.WAIT
    assert "certificate verify failed" in outcome.reason
    assert not secure.requests


@pytest.mark.parametrize("no", [HOST, "*", f"localhost, {HOST}", "127.0.0.0/8"])
def test_a_host_that_no_proxy_names_is_reached_without_one(langfuse: StandIn, no: str) -> None:
    with Proxy() as proxy:
        proxies = {"http": proxy.url, "all": proxy.url, "no": no}
        with contextlib.closing(sender_to(langfuse.url, proxies=proxies)) as sender:
            assert sender.send(BODY, 10).verdict is Verdict.DELIVERED
        assert not proxy.heads


def test_a_proxy_for_another_scheme_is_not_used(langfuse: StandIn) -> None:
    with Proxy() as proxy:
        sender = sender_to(langfuse.url, proxies={"https": proxy.url})
        with contextlib.closing(sender):
            assert sender.send(BODY, 10).verdict is Verdict.DELIVERED
        assert not proxy.heads


def test_a_proxy_that_refuses_to_tunnel_is_waited_out(secure: StandIn) -> None:
    with Proxy(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n") as proxy:
        outcome = sender_to(secure.url, proxies={"https": proxy.url}).send(BODY, 10)
    assert outcome.verdict is Verdict.WAIT
    assert "407" in outcome.reason
    assert not secure.connections


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200 Connection", b"HTTP/1.1 200 OK\r\nX: y\r\n", b"HTTP/1.1 200 OK\r\n\r\n"],
)
def test_a_proxy_that_hangs_is_left_at_the_deadline(secure: StandIn, answer: bytes) -> None:
    with Proxy(answer) as proxy:
        assert_timed_out(send_in_time(sender_to(secure.url, proxies={"https": proxy.url})))


def test_a_proxy_that_is_not_there_is_waited_out(langfuse: StandIn, closed_port: int) -> None:
    proxies = {"http": f"http://{HOST}:{closed_port}"}
    outcome = sender_to(langfuse.url, proxies=proxies).send(BODY, 10)
    assert outcome.verdict is Verdict.WAIT
    assert "refused" in outcome.reason
    assert not langfuse.connections


def test_a_proxy_that_says_our_password_is_not_quoted(langfuse: StandIn) -> None:
    answer = b"HTTP/1.1 502 no p@ss/w0rd for user, nor dXNlcjpwQHNzL3cwcmQ=\r\n\r\n"
    with Proxy(answer) as proxy:
        url = proxy.url.replace("http://", "http://user:p%40ss%2Fw0rd@")
        outcome = sender_to("https://host.example", proxies={"https": url}).send(BODY, 10)
    assert "502" in outcome.reason
    assert "w0rd" not in outcome.reason
    assert "dXNlcjpw" not in outcome.reason


@pytest.mark.parametrize("proxy", ["http://user:Pa55/w0rd@proxy:3128", "http://user:p?w0rd@proxy"])
def test_nothing_of_a_proxys_password_is_in_the_reason_though_it_is_not_encoded(
    langfuse: StandIn, proxy: str
) -> None:
    outcome = sender_to(langfuse.url, proxies={"http": proxy}).send(BODY, 10)
    assert outcome.verdict is Verdict.WAIT
    assert "HTTP_PROXY must be a URL" in outcome.reason
    assert "w0rd" not in outcome.reason
    assert "Pa55" not in outcome.reason


@pytest.mark.parametrize("proxy", ["http://proxy:port", "http://[::1", "http://proxy:99999"])
def test_a_proxy_that_is_no_url_is_waited_out_with_the_reason(
    langfuse: StandIn, proxy: str
) -> None:
    outcome = sender_to(langfuse.url, proxies={"http": proxy}).send(BODY, 10)
    assert outcome.verdict is Verdict.WAIT
    assert outcome.reason
    assert not langfuse.connections
