from __future__ import annotations

import socket

import pytest

from spool.commands.listen import address
from spool.errors import SettingsError

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("listen", "bound"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        (":9464", ("127.0.0.1", 9464)),
        ("9464", ("127.0.0.1", 9464)),
        (" localhost:0 ", ("127.0.0.1", 0)),
        ("[127.0.0.1]:80", ("127.0.0.1", 80)),
        ("0.0.0.0:9464", ("0.0.0.0", 9464)),
    ],
)
def test_an_address_is_read_as_people_write_it(listen: str, bound: tuple[str, int]) -> None:
    assert address.resolve(listen) == (socket.AF_INET, bound)


def test_an_address_may_be_of_the_sixth_version() -> None:
    family, bound = address.resolve("[::1]:9464")
    assert (family, bound[:2]) == (socket.AF_INET6, ("::1", 9464))
    assert address.url_of(bound) == "http://[::1]:9464/"


@pytest.mark.parametrize(
    "listen",
    [
        "",
        "localhost",
        "localhost:",
        "::1:9464",
        ":65536",
        ":-1",
        ":http",
        ":\u0663",
        "a:1:2",
    ],
)
def test_what_is_no_address_is_refused_with_what_one_is(listen: str) -> None:
    with pytest.raises(SettingsError, match=r"must be HOST:PORT, as 127\.0\.0\.1:9464 or") as error:
        address.resolve(listen)
    assert str(error.value).startswith(f"--listen {listen}: ")


@pytest.mark.parametrize("name", ["no-such-host.invalid", "a" * 64 + ".example", "a..b"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="the name cannot be resolved"):
        address.resolve(f"{name}:9464")


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:9464", "spool.localhost", "127.0.0.1", "127.8.8.8:1", "[::1]:9464"],
)
def test_who_asks_for_this_machine_is_known(host: str) -> None:
    assert address.is_this_machine(host)


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "["],
)
def test_who_asks_for_another_is_not(host: str) -> None:
    assert not address.is_this_machine(host)
