"""By which proxy a host is reached, and how."""

from __future__ import annotations

import contextlib
import urllib.parse
from base64 import b64encode
from pathlib import Path

import pytest
import requests.utils

from forwarding import Proxy
from ports import HOST
from senders import BODY, MakeSender, assert_timed_out, send_in_time
from spool.delivery.http.classification import Verdict
from spool.delivery.http.proxy import authorization, proxy_for, secrets
from standin import PATH, StandIn

PROXIES = {"http": "http://plain:1", "https": "http://secure:2", "all": "http://all:3"}


def chosen(url: str, proxies: dict[str, str]) -> str | None:
    proxy = proxy_for(urllib.parse.urlsplit(url), proxies)
    return None if proxy is None else proxy.geturl()


def test_the_proxy_of_the_scheme_goes_before_the_one_for_all() -> None:
    assert chosen("https://host/", PROXIES) == "http://secure:2"
    assert chosen("http://host/", {"all": "all:3", "https": "http://secure:2"}) == "http://all:3"
    assert chosen("http://host/", {"https": "http://secure:2"}) is None
    assert chosen("http://host/", {}) is None


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:3000/x", "https://10.1.2.3/x", "https://langfuse.example/x",
        "https://langfuse.example:8443/x", "https://sub.langfuse.example/x", "http://localhost/",
        "http://LANGFUSE.example/x", "http://notlangfuse.example/",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "no",
    [
        "", "*", "127.0.0.0/8", "10.0.0.0/8,127.0.0.1", "10.1.2.0/24", "10.1.3.0/24", "10.1.2.3/31",
        "127.0.0.1", "langfuse.example", ".langfuse.example", "langfuse.example:8443",
        " localhost ", "Langfuse.Example", "example", "ample", "a, b ,,c",
        "300.0.0.0/8", "10.1.2.3/99",
    ],
)  # fmt: skip
def test_hosts_are_reached_without_a_proxy_as_requests_does(url: str, no: str) -> None:
    expected = requests.utils.should_bypass_proxies(url, no_proxy=no)
    assert (chosen(url, {**PROXIES, "no": no}) is None) == expected


@pytest.mark.parametrize("no", ["::1", "[::1]", "::/64"])
def test_addresses_of_ipv6_can_be_named_too(no: str) -> None:
    assert chosen("http://[::1]:3000/", {**PROXIES, "no": no}) is None
    assert chosen("http://[fe80::1]/", {**PROXIES, "no": no}) == "http://plain:1"


@pytest.mark.parametrize(
    "proxy",
    [
        "http://user:Pa55/w0rd@proxy:3128", "http://user:123/Pa55w0rd@proxy:3128",
        "http://user:123?Pa55w0rd@proxy:3128", "user:1#Pa55w0rd@proxy:3128",
        "http://user:Pa55?w0rd@proxy:3128", "http://user:Pa55w0rd@[::1", "http://proxy:Pa55w0rd",
        "Pa55w0rd://proxy", "http://user:Pa55w0rd@", "http://user:Pa55w0rd@proxy:0",
    ],
)  # fmt: skip
def test_a_proxy_that_is_no_url_is_named_by_its_variable_only(proxy: str) -> None:
    with pytest.raises(OSError, match=r"^HTTP_PROXY must be a URL such as http://") as caught:
        chosen("http://host/", {"http": proxy})
    assert "Pa55" not in str(caught.value)
    assert "w0rd" not in str(caught.value)
    secrets({"http": proxy})


def test_the_password_of_a_proxy_is_a_secret_in_every_form_it_takes() -> None:
    proxy = urllib.parse.urlsplit("http://user:p%40ss%2Fw0rd@proxy:3128")
    header = authorization(proxy)["Proxy-Authorization"]
    found = secrets({"http": proxy.geturl(), "no": "localhost"})
    assert {"p@ss/w0rd", "p%40ss%2Fw0rd", header.removeprefix("Basic ")} <= found


# Requests through one


@pytest.mark.parametrize("scheme", ["http", "all"])
def test_a_proxy_gets_the_whole_url_of_a_plain_endpoint(
    langfuse: StandIn, scheme: str, sender_to: MakeSender
) -> None:
    with Proxy() as proxy:
        sender = sender_to(langfuse.url, proxies={scheme: proxy.url})
        with contextlib.closing(sender):
            assert sender.send(BODY, 10).verdict is Verdict.DELIVERED
        assert proxy.lines == [f"POST {langfuse.endpoint} HTTP/1.1"]
    assert langfuse.accepted == 1
    assert langfuse.requests[0].path == PATH
    assert langfuse.requests[0].headers["host"] == f"{HOST}:{langfuse.port}"


def test_a_proxy_gets_the_name_and_the_password_of_its_url(
    langfuse: StandIn, sender_to: MakeSender
) -> None:
    with Proxy() as proxy:
        url = proxy.url.replace("http://", "http://user:p%40ss@")
        with contextlib.closing(sender_to(langfuse.url, proxies={"http": url})) as sender:
            assert sender.send(BODY, 10).verdict is Verdict.DELIVERED
        expected = "Proxy-Authorization: Basic " + b64encode(b"user:p@ss").decode()
        assert expected in proxy.heads[0].splitlines()


def test_a_tunnel_through_a_proxy_shows_it_nothing_but_the_host(
    secure: StandIn, bundle: Path, sender_to: MakeSender
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


def test_a_certificate_behind_a_tunnel_is_checked_too(
    secure: StandIn, sender_to: MakeSender
) -> None:
    with Proxy() as proxy:
        outcome = sender_to(secure.url, proxies={"https": proxy.url}).send(BODY, 10)
    assert outcome.verdict is Verdict.WAIT
    assert "is not trusted" in outcome.reason
    assert not secure.requests


@pytest.mark.parametrize("no", [HOST, "*", f"localhost, {HOST}", "127.0.0.0/8"])
def test_a_host_that_no_proxy_names_is_reached_without_one(
    langfuse: StandIn, no: str, sender_to: MakeSender
) -> None:
    with Proxy() as proxy:
        proxies = {"http": proxy.url, "all": proxy.url, "no": no}
        with contextlib.closing(sender_to(langfuse.url, proxies=proxies)) as sender:
            assert sender.send(BODY, 10).verdict is Verdict.DELIVERED
        assert not proxy.heads


def test_a_proxy_for_another_scheme_is_not_used(langfuse: StandIn, sender_to: MakeSender) -> None:
    with Proxy() as proxy:
        sender = sender_to(langfuse.url, proxies={"https": proxy.url})
        with contextlib.closing(sender):
            assert sender.send(BODY, 10).verdict is Verdict.DELIVERED
        assert not proxy.heads


def test_a_proxy_that_refuses_to_tunnel_is_waited_out(
    secure: StandIn, sender_to: MakeSender
) -> None:
    with Proxy(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n") as proxy:
        outcome = sender_to(secure.url, proxies={"https": proxy.url}).send(BODY, 10)
    assert outcome.verdict is Verdict.WAIT
    assert "407" in outcome.reason
    assert not secure.connections


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200 Connection", b"HTTP/1.1 200 OK\r\nX: y\r\n", b"HTTP/1.1 200 OK\r\n\r\n"],
)
def test_a_proxy_that_hangs_is_left_at_the_deadline(
    secure: StandIn, answer: bytes, sender_to: MakeSender
) -> None:
    with Proxy(answer) as proxy:
        assert_timed_out(send_in_time(sender_to(secure.url, proxies={"https": proxy.url})))


def test_a_proxy_that_is_not_there_is_waited_out(
    langfuse: StandIn, closed_port: int, sender_to: MakeSender
) -> None:
    proxies = {"http": f"http://{HOST}:{closed_port}"}
    outcome = sender_to(langfuse.url, proxies=proxies).send(BODY, 10)
    assert outcome.verdict is Verdict.WAIT
    assert "nobody listens at the proxy" in outcome.reason
    assert not langfuse.connections


def test_a_proxy_that_says_our_password_is_not_quoted(
    langfuse: StandIn, sender_to: MakeSender
) -> None:
    answer = b"HTTP/1.1 502 no p@ss/w0rd for user, nor dXNlcjpwQHNzL3cwcmQ=\r\n\r\n"
    with Proxy(answer) as proxy:
        url = proxy.url.replace("http://", "http://user:p%40ss%2Fw0rd@")
        outcome = sender_to("https://host.example", proxies={"https": url}).send(BODY, 10)
    assert "502" in outcome.reason
    assert "w0rd" not in outcome.reason
    assert "dXNlcjpw" not in outcome.reason


@pytest.mark.parametrize("proxy", ["http://user:Pa55/w0rd@proxy:3128", "http://user:p?w0rd@proxy"])
def test_nothing_of_a_proxys_password_is_in_the_reason_though_it_is_not_encoded(
    langfuse: StandIn, proxy: str, sender_to: MakeSender
) -> None:
    outcome = sender_to(langfuse.url, proxies={"http": proxy}).send(BODY, 10)
    assert outcome.verdict is Verdict.WAIT
    assert "HTTP_PROXY must be a URL" in outcome.reason
    assert "w0rd" not in outcome.reason
    assert "Pa55" not in outcome.reason


@pytest.mark.parametrize("proxy", ["http://proxy:port", "http://[::1", "http://proxy:99999"])
def test_a_proxy_that_is_no_url_is_waited_out_with_the_reason(
    langfuse: StandIn, proxy: str, sender_to: MakeSender
) -> None:
    outcome = sender_to(langfuse.url, proxies={"http": proxy}).send(BODY, 10)
    assert outcome.verdict is Verdict.WAIT
    assert outcome.reason
    assert not langfuse.connections
