from __future__ import annotations

import contextlib
import errno
import http.client
import logging
import os
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ports
from spool.commands.listen import server
from spool.commands.listen.server import Answer, HealthServer
from spool.errors import SettingsError
from waits import wait_until

pytestmark = pytest.mark.once

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def answer(path: str, accept: str) -> Answer:
    return Answer(200, f"{path} {accept}", more=(("X-More", "1"),))


def port_of(served: HealthServer) -> int:
    return int(served.url.rpartition(":")[2].rstrip("/"))


@contextlib.contextmanager
def serving(
    answer: Callable[[str, str], Answer] = answer, listen: str = "127.0.0.1:0"
) -> Iterator[int]:
    served = HealthServer(listen, answer)
    served.start()
    try:
        yield port_of(served)
    finally:
        served.stop(60)


def ask(
    port: int, path: str = "/", method: str = "GET", host: str = ports.HOST, **headers: str
) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection(host, port, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read().decode(), dict(response.getheaders())


def connected(port: int) -> socket.socket:
    return socket.create_connection((ports.HOST, port), timeout=60)


def said_to(port: int, request: bytes) -> bytes:
    found = b""
    with connected(port) as client, contextlib.suppress(ConnectionError):
        client.sendall(request)
        while more := client.recv(65536):
            found += more
    return found


def descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Serve all that leave the server as it is."""
    with serving() as port:
        yield port


# What is answered


def test_who_asks_is_answered_by_path_and_what_it_accepts(port: int) -> None:
    status, said, _ = ask(port, "/healthz?x=1", Accept="application/json")
    assert (status, said) == (200, "/healthz application/json")


def test_every_answer_tells_the_browser_to_be_careful(port: int) -> None:
    for method, expected in [("GET", 200), ("PUT", 405)]:
        status, _, headers = ask(port, method=method)
        assert status == expected
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Server"] == "langfuse-spool"
    assert ask(port)[2]["X-More"] == "1"


def test_head_says_the_same_without_the_body(port: int) -> None:
    status, body, headers = ask(port, "/abc", "HEAD")
    assert (status, body, headers["Content-Length"]) == (200, "", "5")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_only_what_reads_is_allowed(port: int, method: str) -> None:
    status, said, headers = ask(port, method=method)
    assert (status, said, headers["Allow"]) == (405, "only GET and HEAD\n", "GET, HEAD")


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /\xff<script> HTTP/9.9\r\n\r\n",
        b"<script> x y\r\n\r\n",
        b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n",
    ],
    ids=["version", "garbage", "long", "headers"],
)
def test_what_is_no_request_is_refused_and_not_repeated(port: int, request_: bytes) -> None:
    said = said_to(port, request_)
    assert b"<script>" not in said
    assert b" 200 " not in said
    assert ask(port)[0] == 200


def test_nothing_is_logged_of_requests(
    port: int, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    ask(port)
    ask(port, method="POST")
    with connected(port) as client:
        client.sendall(b"GET")
    assert (caplog.text, *capfd.readouterr()) == ("", "", "")


# To whom


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:80", "169.254.169.254"])
def test_a_name_that_was_made_to_point_here_is_not_answered(port: int, host: str) -> None:
    status, said, _ = ask(port, Host=host)
    assert status == 421
    assert "localhost" in said


def test_at_an_address_of_others_everybody_is_answered() -> None:
    with serving(listen="0.0.0.0:0") as port:
        assert ask(port, Host="prometheus.example")[0] == 200


def test_it_listens_at_the_sixth_version_too() -> None:
    try:
        with serving(listen="[::1]:0") as port:
            assert ask(port, host="::1")[0] == 200
    except SettingsError as error:
        pytest.skip(f"no IPv6 on this machine: {error}")


def test_a_port_that_is_taken_is_an_error_that_names_it() -> None:
    with serving() as port, pytest.raises(SettingsError) as error:
        HealthServer(f":{port}", answer)
    assert str(error.value) == (
        f"--listen :{port}: Address already in use; name an address of this machine and a free port"
    )


def test_an_address_that_is_not_of_this_machine_is_an_error() -> None:
    with pytest.raises(SettingsError, match="name an address of this machine"):
        HealthServer("192.0.2.1:9464", answer)


# Hostile clients


def allow(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a connection last so long, though nothing of it may last long."""
    monkeypatch.setattr(server, "_SECONDS", seconds)
    monkeypatch.setattr(server._Handler, "timeout", 600.0)


def test_clients_that_say_nothing_keep_nobody_from_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    allow(600.0, monkeypatch)  # none of them is late
    theirs = 2 * server._CONNECTIONS
    with serving() as port, contextlib.ExitStack() as stack:
        before = descriptors()
        for _ in range(theirs):
            stack.enter_context(connected(port))
        assert ask(port)[0] == 200
        wait_until(lambda: descriptors() - before - theirs <= server._CONNECTIONS)


def test_who_drips_is_cut_off_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    allow(0.5, monkeypatch)

    def drip(client: socket.socket) -> None:
        for _ in range(6000):
            client.sendall(b"x")
            time.sleep(0.01)

    with serving() as port, connected(port) as client:
        with pytest.raises(OSError, match=r"reset|pipe"):
            drip(client)
        assert ask(port)[0] == 200


def test_who_does_not_read_is_cut_off_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    allow(0.5, monkeypatch)
    served = HealthServer("127.0.0.1:0", lambda *_: Answer(200, "x" * (64 << 20)))
    served.start()
    try:
        with connected(port_of(served)) as client:
            client.sendall(GET)
            assert client.recv(12) in {b"HTTP/1.0 200", b""}  # nothing, where the machine is slow
            wait_until(lambda: not served._server._since)
    finally:
        served.stop(60)


def test_where_no_descriptor_is_left_it_waits_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[float] = []
    accept = socketserver.TCPServer.get_request

    def refuse_twice(self: socketserver.TCPServer) -> tuple[socket.socket, object]:
        tries.append(time.monotonic())
        if len(tries) < 3:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return accept(self)

    monkeypatch.setattr(socketserver.TCPServer, "get_request", refuse_twice)
    with serving() as port:
        assert ask(port)[0] == 200
    assert tries[2] - tries[0] >= server._MOMENT, "it did not spin"


# The end


def test_the_end_waits_for_nobody_who_only_holds_a_connection() -> None:
    served = HealthServer("127.0.0.1:0", answer)
    served.start()
    with connected(port_of(served)) as client:
        wait_until(lambda: bool(served._server._since))
        served.stop(60)
        assert not served._server._since
        assert client.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        connected(port_of(served))


def test_the_end_does_not_wait_for_ever_for_an_answer_that_does_not_come() -> None:
    asked, go = threading.Event(), threading.Event()

    def hang(*_: str) -> Answer:
        asked.set()
        go.wait(60)
        return Answer(200, "")

    served = HealthServer("127.0.0.1:0", hang)
    served.start()
    with connected(port_of(served)) as client:
        client.sendall(GET)
        assert asked.wait(60)
        served.stop(0.1)
        assert not go.is_set()
        go.set()


def test_what_is_not_started_can_be_stopped() -> None:
    HealthServer("127.0.0.1:0", answer).stop(60)
