"""The sender: one POST of ready bytes with a hard total deadline.

Invariants:

- A request never outlives its deadline, and nothing that network or server do raises.
- No redirect is followed.
- Nothing secret stands in a reason: the server's words are cut, and our own headers' values are
  taken out of them.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import html
import http.client
import json
import urllib.parse
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from spool.__about__ import __version__
from spool.delivery.http.classification import Outcome, Verdict, classify
from spool.delivery.http.connection_pool import ConnectionPool
from spool.delivery.http.content_encoding import ContentEncoding
from spool.delivery.http.deadline import Deadline
from spool.delivery.http.proxy import secrets
from spool.delivery.http.response import Response

if TYPE_CHECKING:
    from spool.delivery.http.connection import Connection
    from spool.settings.settings import Settings
    from spool.settings.target import Target

_USER_AGENT: Final = f"langfuse-spool/{__version__}"
_LONGEST_BODY: Final = 1 << 20
_LONGEST_REASON: Final = 300
_SHORTEST_SECRET: Final = 4
_SCHEMES: Final = frozenset({"Basic", "Bearer"})


class Sender:
    """Sends one target's requests, one at a time, over `connections` that are kept open.

    `encoding` says how bodies must be encoded.
    """

    def __init__(
        self, target: Target, settings: Settings, connections: ConnectionPool | None = None
    ) -> None:
        self.target = target
        self.encoding = ContentEncoding(is_gzip=settings.is_gzip)
        self._settings = settings
        self._connections = connections or ConnectionPool(settings)
        self._connection: Connection | None = None  # the one that is in use

    def send(self, body: bytes, timeout: float) -> Outcome:
        """POST a body that is encoded as `encoding` says; `timeout` is the total, in seconds."""
        try:
            response = self._post(body, Deadline(timeout))
        except TimeoutError as error:
            self._abort()
            reason = f"no complete answer within {timeout:g} s"
            reason = f"{reason} ({error})"
            return Outcome(Verdict.WAIT, reason, is_timeout=True, is_unanswered=True)
        except (OSError, http.client.HTTPException, ValueError) as error:
            # ValueError: a proxy or a host whose name or port is none.
            self._abort()
            is_unanswered = isinstance(error, OSError)
            reason = f"{type(error).__name__}: {error}"
            outcome = Outcome(Verdict.WAIT, reason, is_unanswered=is_unanswered)
        else:
            outcome = classify(response, is_strict=self.target.public_key is not None)
            outcome = replace(outcome, status=response.status)
            if outcome.is_delivered:
                self.encoding.accept()
        # Cut last: half a secret would not be found.
        return replace(outcome, reason=_shortened(self._without_secrets(outcome.reason)))

    def close(self) -> None:
        """Close what is kept open; the next request opens a connection."""
        self._connections.close()

    def _without_secrets(self, text: str) -> str:
        """Take our own secrets out of the server's words."""
        found = _as_said(_secrets(self.target) | secrets(self._settings.proxies))
        known = {said for said in found if len(said) >= _SHORTEST_SECRET and said not in _SCHEMES}
        for secret in sorted(known, key=len, reverse=True):
            text = text.replace(secret, "***")
        return text

    def _abort(self) -> None:
        if self._connection is not None:
            self._connection.abort()
            self._connection = None

    def _post(self, body: bytes, deadline: Deadline) -> Response:
        connection = self._connection = self._connections.take(self.target.endpoint)
        connection.deadline = deadline
        connection.request("POST", connection.target, body, self._headers(connection))
        with connection.getresponse() as response:
            length = response.getheader("content-length", "0")
            if not length.strip().isdecimal():  # RFC 9112, section 6.3: discard the answer
                raise http.client.HTTPException(f"Content-Length: {length}")
            words = response.read(_LONGEST_BODY)
            if response.length and len(words) < _LONGEST_BODY:
                raise http.client.IncompleteRead(words, response.length)
            is_whole = response.isclosed()
            headers = {name.lower(): value for name, value in response.getheaders()}
        self._connection = None
        if is_whole:
            self._connections.keep(self.target.endpoint, connection)
        else:
            connection.close()
        return Response(response.status, headers, words)

    def _headers(self, connection: Connection) -> dict[str, str]:
        headers = {"content-type": "application/x-protobuf", "user-agent": _USER_AGENT}
        if self.encoding.is_gzip:
            headers["content-encoding"] = "gzip"
        if self.target.public_key is not None:
            headers["x-langfuse-sdk-name"] = "langfuse-spool"
            headers["x-langfuse-sdk-version"] = __version__
        return {**headers, **self.target.headers, **connection.proxy_headers}


def _shortened(text: str) -> str:
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 1] + "…"


def _as_said(secrets: set[str]) -> set[str]:
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
        with contextlib.suppress(binascii.Error, UnicodeDecodeError):
            user, _, password = base64.b64decode(token, validate=True).decode().partition(":")
            found.update((password, f"{user}:{password}"))
    return found
