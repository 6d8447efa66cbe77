from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import trustme

import resolver
from certificates import tls_of
from forwarding import Proxy
from ports import HOST, free_port
from spool.commands.checks.finding import Finding
from spool.commands.checks.reach import reach
from spool.settings.settings import Settings
from standin import Exchange, StandIn

pytestmark = pytest.mark.once


def way(endpoint: str, settings: Settings) -> dict[str, Finding]:
    return {finding.name: finding for finding in reach(endpoint, settings)}


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure(authority: trustme.CA) -> Iterator[StandIn]:
    with StandIn(tls=tls_of(authority)) as server:
        yield server


@pytest.fixture
def trusting(authority: trustme.CA, settings: Settings, tmp_path: Path) -> Settings:
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    return replace(settings, certificate=bundle)


def test_a_plain_way_is_one_line(langfuse: StandIn, settings: Settings) -> None:
    found = way(langfuse.endpoint, settings)
    assert list(found) == ["connection"]
    where = f"{HOST}:{langfuse.port}"
    assert found["connection"].words == f"{where} takes one, directly ({where})"
    assert not langfuse.requests


def test_a_certificate_is_told_with_its_end(secure: StandIn, trusting: Settings) -> None:
    found = way(secure.endpoint, trusting)["tls"]
    assert found.is_well
    assert "is trusted (TLSv1.3), its certificate until " in found.words


def test_a_certificate_that_nobody_knows_is_said_with_what_to_set(
    secure: StandIn, settings: Settings
) -> None:
    found = way(secure.endpoint, settings)
    assert found["connection"].is_well
    assert found["tls"].is_well is False
    assert "is not trusted" in found["tls"].words
    assert "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE" in found["tls"].remedy


def test_a_certificate_that_ends_soon_is_minded(authority: trustme.CA, trusting: Settings) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    soon = datetime.now(timezone.utc) + timedelta(days=1)
    authority.issue_cert(HOST, not_after=soon).configure_cert(context)
    with StandIn(tls=context) as server:
        found = way(server.endpoint, trusting)["tls"]
    assert found.is_well is False
    assert found.remedy == "renew it"


def test_http_spoken_at_an_https_host_is_said(langfuse: StandIn, settings: Settings) -> None:
    def refuse(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        exchange.hang()

    langfuse.behave(refuse)
    found = way(langfuse.endpoint.replace("http:", "https:"), settings)["tls"]
    assert "speaks http, not https" in found.words
    assert found.remedy == "begin the host with http://"


def test_nobody_listening_is_said(settings: Settings) -> None:
    found = way(f"http://{HOST}:{free_port()}/v1/traces", settings)["connection"]
    assert "nobody listens at" in found.words


def test_a_name_that_is_none_is_said(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    found = way("https://langfuse.example/v1/traces", settings)
    assert list(found) == ["name"]
    assert "cannot be resolved" in found["name"].words
    assert "DNS" in found["name"].remedy


def test_a_name_is_told_with_its_address(
    langfuse: StandIn, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = [resolver.address(langfuse.port)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
    found = way(f"http://langfuse.example:{langfuse.port}/v1/traces", settings)["connection"]
    assert f"langfuse.example:{langfuse.port} takes one" in found.words
    assert f"({HOST}:{langfuse.port})" in found.words


def test_a_proxy_on_the_way_is_named(langfuse: StandIn, settings: Settings) -> None:
    with Proxy() as proxy:
        proxied = replace(settings, proxies={"http": proxy.url.replace("//", "//user:hidden@")})
        found = way(langfuse.endpoint, proxied)["connection"]
        assert f"by way of the proxy {proxy.url.partition('//')[2]}" in found.words
    assert "hidden" not in found.words


def test_a_proxy_that_is_not_there_is_to_blame(langfuse: StandIn, settings: Settings) -> None:
    proxied = replace(settings, proxies={"http": f"http://{HOST}:{free_port()}"})
    found = way(langfuse.endpoint, proxied)["connection"]
    assert "proxy" in found.words
    assert "HTTP_PROXY" in found.remedy
