"""The address: where a server listens, and who is answered there.

At a loopback address that is who asks for this machine: a page of a web site whose name was made to
point here (DNS rebinding) is not. Who names another address has others in mind, under names that
are not known here: there everybody is answered.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import urllib.parse
from typing import Any, Final

from spool.errors import SettingsError

_LOOPBACK: Final = "127.0.0.1"
_LARGEST_PORT: Final = 65535


def resolve(listen: str) -> tuple[socket.AddressFamily, Any]:
    """Give what `HOST:PORT`, `:PORT` (of loopback) or `[HOST]:PORT` stands for, to be bound.

    Raises SettingsError.
    """
    host, port = _host_and_port(listen)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise _error(
            listen, "the name cannot be resolved; name an address of this machine"
        ) from error
    # `localhost` is often both: there people and scrapers try 127.0.0.1.
    family, _, _, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    return family, address


def refusal(listen: str, error: OSError) -> SettingsError:
    """Give what it means that an address cannot be bound, and what to do."""
    return _error(listen, f"{error.strerror}; name an address of this machine and a free port")


def url_of(bound: Any) -> str:
    """Give where people look, of a bound socket's name."""
    host, port = bound[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def is_this_machine(host: str) -> bool:
    """Say whether a host, perhaps with a port, is this machine as seen from itself."""
    with contextlib.suppress(ValueError):
        name = urllib.parse.urlsplit(f"//{host}").hostname or ""
        if name == "localhost" or name.endswith(".localhost"):
            return True
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback
    return False


def _host_and_port(listen: str) -> tuple[str, int]:
    host, _, port = listen.strip().rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    is_port = port.isascii() and port.isdigit() and int(port) <= _LARGEST_PORT
    if not is_port or (":" in host and not is_bracketed):
        raise _error(listen, "must be HOST:PORT, as 127.0.0.1:9464 or [::1]:9464")
    return (host[1:-1] if is_bracketed else host) or _LOOPBACK, int(port)


def _error(listen: str, words: str) -> SettingsError:
    return SettingsError(f"--listen {listen}: {words}")
