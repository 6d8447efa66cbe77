"""Endpoints: the URLs that spans are sent to, checked; an error shows no secret of them."""

from __future__ import annotations

import re
import urllib.parse
from typing import Final

from spool.settings.values import refuse
from spool.system.redaction import without_secrets

LANGFUSE_PATH: Final = "/api/public/otel/v1/traces"


def langfuse_endpoint(host: str, variable: str = "host") -> str:
    """Give the traces endpoint of a Langfuse host. Raises SettingsError, which names `variable`."""
    if re.match(r"https?(:/|//)(?!/)", host, re.IGNORECASE):  # else `http` were the host
        refuse(variable, without_secrets(host), "a URL such as https://host")
    url = (host if "://" in host else f"https://{host}").rstrip("/") + LANGFUSE_PATH
    check_url(variable, url, host)
    return url


def check_url(variable: str, url: str, said: str) -> urllib.parse.SplitResult:
    """Take an HTTP URL apart that a variable `said`, in full or in part.

    An `@` belongs behind user and password only: else part of a password with a `/` or `?` would
    pass for host and path. Raises SettingsError, which shows nothing that may be secret.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        url.encode("ascii")
    except ValueError:
        usable = None
    if has_stray_at(url):
        allowed = "a URL with %40, %2F and %3F for the @, / and ? of user and password"
        refuse(variable, without_secrets(said), allowed)
    if not usable or re.search(r"[\x00-\x20\x7f]", url):
        such_as = f"https://host{LANGFUSE_PATH if said == url else ''}"
        refuse(variable, without_secrets(said), f"a URL such as {such_as}")
    return parts


def is_same_host(one: str, other: str) -> bool:
    """Say whether two URLs name the same host, port and scheme; no other text is a host."""
    try:
        first, second = urllib.parse.urlsplit(one), urllib.parse.urlsplit(other)
        return _origin(first) == _origin(second)
    except ValueError:
        return False


def _origin(url: urllib.parse.SplitResult) -> tuple[str, str | None, int | None]:
    return url.scheme, url.hostname, url.port or {"http": 80, "https": 443}.get(url.scheme)


def has_stray_at(url: str) -> bool:
    """Say whether an `@` stands behind what would be the host."""
    _, *behind = re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)
    return any("@" in rest for rest in behind)
