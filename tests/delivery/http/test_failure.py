"""What is said of a request without an answer, and of an answer that is none: real sockets."""

from __future__ import annotations

import contextlib
import datetime as dt
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

import standin
from certificates import tls_of
from ports import HOST, free_port
from resolver import Addresses
from senders import BODY, MakeSender, send_in_time
from spool.delivery.causes import Cause
from spool.delivery.http.classification import Outcome
from spool.delivery.http.sender import Sender
from spool.settings.settings import Settings
from spool.settings.target import Target
from standin import StandIn

pytestmark = pytest.mark.once


def said(outcome: Outcome) -> tuple[Cause, str]:
    """Give the cause, and the words without what differs."""
    assert not re.search(r"Error|Errno|0x|b'|\(_ssl|'", outcome.reason), outcome.reason
    return outcome.cause, re.sub(r"127\.0\.0\.1:\d+", "HOST", outcome.reason)


def test_nobody_listens(sender_to: MakeSender) -> None:
    outcome = sender_to(f"http://{HOST}:{free_port()}").send(BODY, 10)
    assert said(outcome) == (Cause.NOBODY_LISTENS, "nobody listens at HOST")


def test_a_name_that_is_none(
    names: dict[str, Callable[[], Addresses]], sender_to: MakeSender
) -> None:
    def fail() -> Addresses:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    names["langfuse.invalid"] = fail
    cause, words = said(sender_to("http://langfuse.invalid").send(BODY, 10))
    assert cause is Cause.UNRESOLVED
    assert words == "the name of langfuse.invalid cannot be resolved: Name or service not known"


def test_there_is_no_way(sender_to: MakeSender) -> None:
    # A broadcast address takes no connection: the kernel says so at once.
    cause, words = said(sender_to("http://255.255.255.255:3000").send(BODY, 10))
    assert cause is Cause.UNREACHABLE
    assert words.startswith("there is no way to 255.255.255.255:3000: ")


def test_nobody_answers(silent_port: int, sender_to: MakeSender) -> None:
    outcome = send_in_time(sender_to(f"http://{HOST}:{silent_port}"))
    words = "no complete answer within 0.5 s: HOST does not answer"
    assert said(outcome) == (Cause.NO_ANSWER, words)


def test_nobody_reads(silent_port: int, sender_to: MakeSender) -> None:
    outcome = send_in_time(sender_to(f"http://{HOST}:{silent_port}"), bytes(64 << 20))
    words = "no complete answer within 0.5 s: the line to HOST is too slow for the request"
    assert said(outcome) == (Cause.SLOW_LINE, words)


def test_the_connection_is_cut_off(langfuse: StandIn, sender_to: MakeSender) -> None:
    langfuse.behave(standin.reset_mid_body())
    words = "HOST ends the connection without an answer"
    assert said(sender_to(langfuse.url).send(bytes(1 << 20), 10)) == (Cause.CUT_OFF, words)
    langfuse.behave(standin.half_answer())
    words = "HOST ends the connection within its answer"
    assert said(sender_to(langfuse.url).send(BODY, 10)) == (Cause.CUT_OFF, words)


def test_what_is_no_http(langfuse: StandIn, sender_to: MakeSender) -> None:
    langfuse.behave(standin.garbage())
    words = "what HOST answers is no HTTP"
    assert said(sender_to(langfuse.url).send(BODY, 10)) == (Cause.NOT_UNDERSTOOD, words)


# TLS


def test_a_certificate_of_nobody_we_know(secure: StandIn, sender_to: MakeSender) -> None:
    cause, words = said(sender_to(secure.url).send(BODY, 10))
    assert cause is Cause.UNTRUSTED
    assert words.startswith("the certificate of HOST is not trusted: ")


def test_a_certificate_for_another_name(
    authority: trustme.CA, bundle: Path, sender_to: MakeSender
) -> None:
    with StandIn(tls=tls_of(authority, "other.example")) as server:
        outcome = sender_to(server.url, certificate=bundle).send(BODY, 10)
    assert said(outcome) == (Cause.OTHER_NAME, "the certificate of HOST is for another name")


def test_a_certificate_that_has_expired(
    authority: trustme.CA, bundle: Path, sender_to: MakeSender
) -> None:
    past = dt.datetime(2020, 1, 1, tzinfo=dt.timezone.utc)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST, not_after=past).configure_cert(context)
    with StandIn(tls=context) as server:
        outcome = sender_to(server.url, certificate=bundle).send(BODY, 10)
    assert said(outcome) == (Cause.EXPIRED, "the certificate of HOST has expired")


def test_a_receiver_that_wants_a_certificate_of_ours(
    authority: trustme.CA, bundle: Path, sender_to: MakeSender
) -> None:
    context = tls_of(authority)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(str(bundle))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with StandIn(tls=context) as server:
        cause, words = said(sender_to(server.url, certificate=bundle).send(BODY, 10))
    assert cause in (Cause.CLIENT_CERTIFICATE, Cause.TLS)
    assert "HOST" in words


@contextlib.contextmanager
def saying(answer: bytes) -> Iterator[str]:
    """Answer one connection so, and close it; give the host and port."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(ConnectionResetError):
            connection.recv(1 << 16)
            connection.sendall(answer)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):  # or what was not read resets it, the answer included
                pass

    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"{HOST}:{listener.getsockname()[1]}"
        thread.join()


def test_https_to_who_speaks_http(langfuse: StandIn, sender_to: MakeSender) -> None:
    with saying(b"HTTP/1.1 400 Bad Request\r\n\r\n") as host:
        outcome = sender_to(f"https://{host}").send(BODY, 10)
    assert said(outcome) == (Cause.SPEAKS_HTTP, "HOST speaks http, not https")
    outcome = sender_to(langfuse.url.replace("http:", "https:")).send(BODY, 10)
    assert said(outcome) == (
        Cause.TLS,
        "HOST ends the connection as TLS begins: perhaps it speaks http",
    )


def test_http_to_who_speaks_https(langfuse: StandIn, sender_to: MakeSender) -> None:
    answer = "The plain HTTP request was sent to HTTPS port"
    langfuse.behave(standin.status(400, body=f"<html><title>{answer}</title></html>"))
    outcome = sender_to(langfuse.url).send(BODY, 10)
    assert outcome.cause is Cause.SPEAKS_HTTPS


def test_http_to_who_only_says_an_alert(sender_to: MakeSender) -> None:
    with saying(b"\x15\x03\x01\0\2\2\x46") as host:
        outcome = sender_to(f"http://{host}").send(BODY, 10)
    assert said(outcome) == (Cause.SPEAKS_HTTPS, "HOST speaks https, not http")


# Here, and on the way


def test_a_certificate_file_that_is_none(secure: StandIn, tmp_path: Path, bundle: Path) -> None:

    empty = tmp_path / "empty.pem"
    empty.touch()
    target = Target.langfuse("pk-lf-test", "sk-lf-test", secure.url)
    settings = Settings(
        path=tmp_path / "spool.db", target=target, certificate=bundle, client_certificate=empty
    )
    cause, words = said(Sender(target, settings).send(BODY, 10))
    assert cause is Cause.HERE
    assert words


def test_a_proxy_that_is_not_there(langfuse: StandIn, sender_to: MakeSender) -> None:
    proxies = {"http": f"http://{HOST}:{free_port()}"}
    outcome = sender_to(langfuse.url, proxies=proxies).send(BODY, 10)
    assert said(outcome) == (Cause.PROXY, "nobody listens at the proxy HOST")


@pytest.mark.parametrize(
    ("behaviour", "cause"),
    [
        (standin.status(401), Cause.KEYS),
        (standin.suspended(), Cause.FORBIDDEN),
        (standin.status(404), Cause.WRONG_ADDRESS),
        (standin.status(405), Cause.WRONG_ADDRESS),
        (standin.status(407), Cause.PROXY),
        (standin.status(410), Cause.REQUEST),
        (standin.status(400), Cause.SPANS),
        (standin.status(413), Cause.TOO_LARGE),
        (standin.too_many(600), Cause.ASKED_TO_WAIT),
        (standin.status(503, {"Retry-After": "600"}), Cause.ASKED_TO_WAIT),
        (standin.status(503), Cause.SERVER),
        (standin.status(500), Cause.SERVER),
        (standin.redirect_302(), Cause.PORTAL),
        (standin.html_200(), Cause.PORTAL),
        (standin.status(200, {"Content-Type": "application/json"}, "{"), Cause.NOT_UNDERSTOOD),
    ],
)
def test_every_answer_that_takes_nothing_has_its_cause(
    langfuse: StandIn, sender_to: MakeSender, behaviour: standin.Behaviour, cause: Cause
) -> None:
    langfuse.behave(behaviour)
    assert sender_to(langfuse.url).send(BODY, 10).cause is cause
