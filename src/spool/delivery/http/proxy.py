"""Proxies: by which one a receiver is reached, as requests chooses (requests.utils)."""

from __future__ import annotations

import contextlib
import ipaddress
import urllib.parse
from typing import TYPE_CHECKING

from spool.settings.endpoints import has_stray_at
from spool.settings.headers import basic_auth

if TYPE_CHECKING:
    from collections.abc import Mapping


def proxy_for(
    url: urllib.parse.SplitResult, proxies: Mapping[str, str]
) -> urllib.parse.SplitResult | None:
    """Choose the proxy for a URL; None where it is reached without one.

    `proxies` are by scheme, `all`, and under `no` the hosts to reach without. Raises OSError, which
    shows nothing of a proxy's URL.
    """
    scheme = url.scheme if proxies.get(url.scheme) else "all"
    if not proxies.get(scheme) or _is_direct(url, proxies.get("no", "")):
        return None
    proxy = _taken_apart(proxies[scheme])
    if proxy is None:
        raise OSError(
            f"{scheme.upper()}_PROXY must be a URL such as http://user:password@host:3128, with "
            "%40, %2F and %3F for the @, / and ? of user and password"
        )
    return proxy


def authorization(proxy: urllib.parse.SplitResult) -> dict[str, str]:
    """Give the header that a proxy's URL asks for."""
    if proxy.username is None:
        return {}
    user, password = (urllib.parse.unquote(part or "") for part in (proxy.username, proxy.password))
    return {"Proxy-Authorization": basic_auth(user, password)}


def secrets(proxies: Mapping[str, str]) -> set[str]:
    """Give what of the proxies' URLs must not be shown."""
    found: set[str] = set()
    for url in proxies.values():
        proxy = _taken_apart(url)
        if proxy is not None and proxy.password:
            found.update((proxy.password, urllib.parse.unquote(proxy.password)))
            found.update(authorization(proxy)["Proxy-Authorization"].split())
    return found


def _taken_apart(text: str) -> urllib.parse.SplitResult | None:
    """Take a proxy's URL apart; None where it is none. It may lack its scheme."""
    url = text if "://" in text else f"http://{text}"
    with contextlib.suppress(ValueError):
        proxy = urllib.parse.urlsplit(url)
        is_usable = proxy.scheme == "http" and proxy.hostname and proxy.port != 0
        if is_usable and not has_stray_at(url):
            return proxy
    return None


def _is_direct(url: urllib.parse.SplitResult, no_proxy: str) -> bool:
    host = url.hostname or ""
    entries = [entry.lstrip(".") for entry in no_proxy.lower().replace(" ", "").split(",")]
    if entries == ["*"]:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        names = (host, f"{host}:{url.port}") if url.port else (host,)
        return any(f".{name}".endswith(f".{entry}") for entry in entries if entry for name in names)
    return any(address in network for entry in entries for network in _networks(entry))


def _networks(entry: str) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """Read an address, or addresses in CIDR's notation; nothing where it is none."""
    with contextlib.suppress(ValueError):
        return [ipaddress.ip_network(entry.strip("[]"), strict=False)]
    return []
