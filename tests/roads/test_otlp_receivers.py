"""Any OTLP/HTTP receiver, by OpenTelemetry's own variables alone: programs, as users run them."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from certificates import tls_of
from forwarding import Proxy
from manners import OTLP_OK, receiver
from programs import SIMPLE, run
from standin import StandIn, partial_success
from users import spool, status

pytestmark = pytest.mark.once

RECEIVER = receiver("any", OTLP_OK)
TWO_SPANS = SIMPLE + 'for name in "ab":\n    tracer.start_span(name).end()\nprovider.shutdown()\n'


@pytest.fixture(autouse=True)
def _spool_path(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPOOL_PATH", str(path))


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def bundle(authority: trustme.CA, tmp_path: Path) -> str:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return str(tmp_path / "ca.pem")


@pytest.fixture
def secure(authority: trustme.CA) -> Iterator[StandIn]:
    with StandIn(manner=RECEIVER, tls=tls_of(authority)) as server:
        yield server


@pytest.fixture
def plain() -> Iterator[StandIn]:
    with StandIn(manner=RECEIVER) as server:
        yield server


def waits_because() -> str:
    (route,) = status()["routes"]
    assert route["state"] == "waiting"
    return str(route["last_error"])


def test_a_receiver_that_asks_for_a_client_certificate_of_a_private_authority(
    authority: trustme.CA, bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = tls_of(authority)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    client = authority.issue_cert("client@example.org")
    client.cert_chain_pems[0].write_to_path(str(tmp_path / "client.pem"))
    client.private_key_pem.write_to_path(str(tmp_path / "client.key"))
    with StandIn(manner=RECEIVER, tls=context) as server:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.url)
        run(TWO_SPANS)
        assert "is not trusted" in waits_because()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", bundle)
        run(TWO_SPANS)
        spool("drain", code=1)  # the program may have ended before its next try
        # With TLS 1.3 its alert may come after our request, and behind it the connection's end.
        assert re.search("wants a client certificate|ends the connection", waits_because())
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", str(tmp_path / "client.pem"))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_KEY", str(tmp_path / "client.key"))
        run(TWO_SPANS)
        spool("drain")
        assert server.names() == {"a": 3, "b": 3}


def test_a_proxy_with_a_password_in_front_of_https(secure: StandIn, bundle: str) -> None:
    with Proxy() as proxy:
        run(
            TWO_SPANS,
            OTEL_EXPORTER_OTLP_ENDPOINT=secure.url,
            OTEL_EXPORTER_OTLP_CERTIFICATE=bundle,
            HTTPS_PROXY=proxy.url.replace("//", "//user:pass@"),
        )
        assert secure.names() == {"a": 1, "b": 1}
        assert {line.partition(" ")[0] for line in proxy.lines} == {"CONNECT"}
        assert all("Proxy-Authorization: Basic dXNlcjpwYXNz" in head for head in proxy.heads)


def test_a_proxy_in_front_of_http(plain: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    with Proxy() as proxy:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", plain.url)
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        run(TWO_SPANS, SPOOL_DRAIN="off")
        spool("drain")
        assert plain.names() == {"a": 1, "b": 1}
        assert proxy.lines == [f"POST {plain.url}/v1/traces HTTP/1.1"]


def test_a_host_that_is_to_be_reached_without_the_proxy(plain: StandIn) -> None:
    with Proxy() as proxy:
        variables = {"HTTP_PROXY": proxy.url, "NO_PROXY": "127.0.0.1"}
        run(TWO_SPANS, OTEL_EXPORTER_OTLP_ENDPOINT=plain.url, **variables)
        assert plain.names() == {"a": 1, "b": 1}
        assert not proxy.lines


def test_what_a_proxy_refuses_waits_until_it_lets_it_through(
    plain: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    with Proxy(refusal) as proxy:
        run(TWO_SPANS, OTEL_EXPORTER_OTLP_ENDPOINT=plain.url, HTTP_PROXY=proxy.url)
    (route,) = status()["routes"]
    assert (route["state"], route["pending_spans"]) == ("held", 2)
    assert "407" in route["last_error"]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", plain.url)
    spool("drain")
    assert plain.names() == {"a": 1, "b": 1}


def test_what_a_receiver_rejects_by_partial_success_is_a_dead_letter(
    plain: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain.behave(partial_success(1, "b is too long"))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", plain.url)
    run(TWO_SPANS, SPOOL_DRAIN="off")
    done = spool("drain", "--json", code=1)
    assert plain.names() == {"a": 1}
    assert [json.loads(done.stdout)[count] for count in ("delivered", "dead", "pending")] == [
        1,
        1,
        0,
    ]
    assert "b is too long" in spool("dead", "list").stdout
