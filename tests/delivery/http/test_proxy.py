from __future__ import annotations

import urllib.parse

import pytest
import requests.utils

from spool.delivery.http.proxy import authorization, proxy_for, secrets

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
