"""The sender: one POST of ready bytes with a hard total deadline.

Invariants:

- A request never outlives its deadline, and nothing that network or server do raises.
- No redirect is followed.
- Nothing secret stands in a reason.
"""

from __future__ import annotations

import http.client
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from spool.__about__ import __version__
from spool.delivery.http.classification import Outcome, Verdict, classify
from spool.delivery.http.connection_pool import ConnectionPool
from spool.delivery.http.content_encoding import ContentEncoding
from spool.delivery.http.deadline import Deadline, Step
from spool.delivery.http.failure import explain
from spool.delivery.http.reason import presentable
from spool.delivery.http.response import Response

if TYPE_CHECKING:
    from spool.delivery.http.connection import Connection
    from spool.settings.settings import Settings
    from spool.settings.target import Target

_USER_AGENT: Final = f"langfuse-spool/{__version__}"
_LONGEST_BODY: Final = 1 << 20
# Who says so may not have read the body, and ends the connection behind it, announced or not: what
# was asked there next would have no answer.
_UNREAD: Final = frozenset({400, 413, 415})
# What a gzip member begins with (RFC 1952, section 2.3.1), and no protobuf message does.
_GZIP: Final = b"\x1f\x8b"


class Sender:
    """Sends one target's requests over `connections` that are kept open.

    `encoding` says how bodies are to be encoded. Several threads may send at once, each over its
    own connection: what memory holds goes out while a probe of the same route is under way.
    """

    def __init__(
        self, target: Target, settings: Settings, connections: ConnectionPool | None = None
    ) -> None:
        self.target = target
        self.encoding = ContentEncoding(is_gzip=settings.is_gzip)
        self._settings = settings
        self._connections = connections or ConnectionPool(settings)

    def send(self, body: bytes, timeout: float) -> Outcome:
        """POST a body, gzip or as it is; `timeout` is the total, in seconds."""
        deadline = Deadline(timeout)
        try:
            response = self._post(body, deadline)
        except (OSError, http.client.HTTPException, ValueError) as error:
            # ValueError: a proxy or a host whose name or port is none.
            endpoint, proxies = self.target.endpoint, self._settings.proxies
            failure = explain(error, deadline.step, endpoint, proxies, timeout)
            outcome = Outcome(
                Verdict.WAIT,
                failure.words,
                failure.cause,
                is_timeout=isinstance(error, TimeoutError),
                is_unanswered=isinstance(error, OSError),
                exception=type(error).__qualname__,
            )
        else:
            outcome = classify(response, is_strict=self.target.public_key is not None)
            date = response.headers.get("date", "")
            outcome = replace(outcome, status=response.status, date=date)
            if outcome.is_delivered:
                self.encoding.accept()
        reason = presentable(outcome.reason, self.target, self._settings.proxies)
        return replace(outcome, reason=reason)

    def close(self) -> None:
        """Close what is kept open; the next request opens a connection."""
        self._connections.close()

    def _post(self, body: bytes, deadline: Deadline) -> Response:
        connection = self._connections.take(self.target.endpoint)
        connection.deadline = deadline
        try:
            response, is_whole = self._exchange(connection, body)
        except BaseException:
            connection.abort()
            raise
        if is_whole and response.status not in _UNREAD:
            self._connections.keep(self.target.endpoint, connection)
        else:
            connection.close()
        return response

    def _exchange(self, connection: Connection, body: bytes) -> tuple[Response, bool]:
        """Ask, and give the response, and whether all of it was read."""
        connection.deadline.step = Step.SEND
        connection.request("POST", connection.target, body, self._headers(connection, body))
        connection.deadline.step = Step.ANSWER
        with connection.getresponse() as response:
            length = response.getheader("content-length", "0")
            if not length.strip().isdecimal():  # RFC 9112, section 6.3: discard the answer
                raise http.client.HTTPException(f"Content-Length: {length}")
            words = response.read(_LONGEST_BODY)
            if response.length and len(words) < _LONGEST_BODY:
                raise http.client.IncompleteRead(words, response.length)
            is_whole = response.isclosed()
            headers = {name.lower(): value for name, value in response.getheaders()}
        return Response(response.status, headers, words), is_whole

    def _headers(self, connection: Connection, body: bytes) -> dict[str, str]:
        headers = {"user-agent": _USER_AGENT}
        if self.target.public_key is not None:
            headers["x-langfuse-sdk-name"] = "langfuse-spool"
            headers["x-langfuse-sdk-version"] = __version__
        headers.update(self.target.headers)
        headers["content-type"] = "application/x-protobuf"
        if body.startswith(_GZIP):  # another thread may have learned what is next
            headers["content-encoding"] = "gzip"
        return {**headers, **connection.proxy_headers}
