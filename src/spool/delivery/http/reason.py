"""The reason of an outcome: a server's words as one short line, and nothing secret in it.

Our own secrets are taken out of it, however a server may write them: an error page or a proxy may
quote the request.
"""

from __future__ import annotations

import base64
import contextlib
import html
import json
import re
import urllib.parse
from typing import TYPE_CHECKING, Final

from spool.delivery.http import proxy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spool.settings.target import Target

_LONGEST: Final = 300
_SHORTEST_SECRET: Final = 4
_SCHEMES: Final = frozenset({"Basic", "Bearer"})


def presentable(text: str, target: Target, proxies: Mapping[str, str]) -> str:
    """Give a text that may be logged, stored and shown; the secrets are a target's and proxies'."""
    found = _as_written(_secrets(target) | proxy.secrets(proxies))
    known = {said for said in found if len(said) >= _SHORTEST_SECRET and said not in _SCHEMES}
    if known:  # %2f is %2F, and a server may write all in small letters
        ways = map(re.escape, sorted(known, key=len, reverse=True))
        text = re.sub("|".join(ways), "***", text, flags=re.IGNORECASE)
    return _shortened(text)  # last: half a secret would not be found


def _shortened(text: str) -> str:
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _as_written(secrets: set[str]) -> set[str]:
    """Add how a server may write them: quoted for a URL, for JSON or a page; Base64 unpadded."""
    ways = (
        urllib.parse.quote,
        urllib.parse.quote_plus,
        html.escape,
        lambda said: json.dumps(said)[1:-1],
        lambda said: said.rstrip("="),
    )
    return secrets | {way(said) for said in secrets for way in ways}


def _secrets(target: Target) -> set[str]:
    found: set[str] = set()
    for value in target.headers.values():
        found.update((value, *value.split()))
    query = urllib.parse.urlsplit(target.endpoint).query
    for name, value in urllib.parse.parse_qsl(query):
        found.update((value, urllib.parse.quote(value), urllib.parse.urlencode({name: value})))
    for token in list(found):
        with contextlib.suppress(ValueError):  # no Base64, or not of text
            user, _, password = base64.b64decode(token, validate=True).decode().partition(":")
            found.update((password, f"{user}:{password}"))
    return found
