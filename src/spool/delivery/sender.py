"""The sender: one POST of ready bytes with a hard total deadline, and what its answer means.

Invariants:

- A request never outlives its deadline, and nothing that network or server do raises.
- No redirect is followed. An HTML page delivers nothing: a captive portal also says 200. Langfuse
  always answers JSON, and OTLP its own type: there nothing else counts as delivered. Of any other
  receiver every 2xx does, whatever it says with it: they differ.
- Nothing secret stands in a reason: the server's words are cut, and our own headers' values are
  taken out of them.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import email.utils
import html
import http.client
import json
import re
import urllib.parse
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from spool.__about__ import __version__
from spool.delivery.connection import Deadline
from spool.delivery.connection_pool import ConnectionPool
from spool.delivery.content_encoding import ContentEncoding
from spool.delivery.proxy import secrets
from spool.system.redaction import without_secrets

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spool.delivery.connection import Connection
    from spool.settings.settings import Settings, Target

_USER_AGENT: Final = f"langfuse-spool/{__version__}"
_LONGEST_ANSWER: Final = 1 << 20
_LONGEST_REASON: Final = 300
_LONGEST_RETRY_AFTER: Final = 3600.0
_SHORTEST_SECRET: Final = 4
_SCHEMES: Final = frozenset({"Basic", "Bearer"})
_LONGEST_BLANK: Final = 1024  # in front of a page
_PAGES: Final = frozenset({"text/html", "application/xhtml+xml"})
_OTLP_KINDS: Final = frozenset({"application/json", "application/x-protobuf"})
# Where a JSON answer has its words: Langfuse, gRPC's status, FastAPI.
_TELLING: Final = ("message", "error", "detail", "errors", "msg")
# What json.loads and int raise for what a server may say.
_UNREADABLE: Final = (ValueError, OverflowError, RecursionError)


class Verdict(Enum):
    """What an answer means for the spans of its request."""

    DELIVERED = "delivered"
    WAIT = "wait"  # keep them, and try again after a backoff
    HOLD = "hold"  # keep them: the configuration is wrong, probe slowly
    SPLIT = "split"  # some span of it may be bad: search for it


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one request.

    `reason` says why it was not delivered, or why the receiver rejected some of its spans.
    `retry_after` is what the server asked for, in seconds. `is_timeout`: the deadline ended it.
    `is_unanswered`: it or the network did, and nothing was heard of the receiver. `is_too_large`:
    the server says so. `is_damage`: it was not sent, its spans cannot be read. `status` is that of
    the answer, 0 where there was none.
    """

    verdict: Verdict
    reason: str = ""
    retry_after: float | None = None
    rejected: int = 0
    is_timeout: bool = False
    is_unanswered: bool = False
    is_too_large: bool = False
    is_damage: bool = False
    status: int = field(default=0, compare=False)

    @property
    def is_delivered(self) -> bool:
        """Whether the receiver has accepted the request."""
        return self.verdict is Verdict.DELIVERED

    @property
    def blames_no_span(self) -> bool:
        """Whether the receiver asked for time, or somebody else answered in its place."""
        is_told = 200 <= self.status < 500 and self.status != 408  # noqa: PLR2004 - as `classify`
        return self.retry_after is not None or is_told


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete HTTP answer. Header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def content_type(self) -> str:
        """The media type without its parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def is_page(self) -> bool:
        """Whether it is HTML, whatever it says of itself."""
        begins = self.body[:_LONGEST_BLANK].lstrip().lower()
        return self.content_type in _PAGES or begins.startswith((b"<!doctype", b"<html"))


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
            answer = self._post(body, Deadline(timeout))
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
            outcome = classify(answer, is_strict=self.target.public_key is not None)
            outcome = replace(outcome, status=answer.status)
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

    def _post(self, body: bytes, deadline: Deadline) -> Answer:
        connection = self._connection = self._connections.take(self.target.endpoint)
        connection.deadline = deadline
        connection.request("POST", connection.target, body, self._headers(connection))
        with connection.getresponse() as response:
            length = response.getheader("content-length", "0")
            if not length.strip().isdecimal():  # RFC 9112, section 6.3: discard the answer
                raise http.client.HTTPException(f"Content-Length: {length}")
            words = response.read(_LONGEST_ANSWER)
            if response.length and len(words) < _LONGEST_ANSWER:
                raise http.client.IncompleteRead(words, response.length)
            is_whole = response.isclosed()
            headers = {name.lower(): value for name, value in response.getheaders()}
        self._connection = None
        if is_whole:
            self._connections.keep(self.target.endpoint, connection)
        else:
            connection.close()
        return Answer(response.status, headers, words)

    def _headers(self, connection: Connection) -> dict[str, str]:
        headers = {"content-type": "application/x-protobuf", "user-agent": _USER_AGENT}
        if self.encoding.is_gzip:
            headers["content-encoding"] = "gzip"
        if self.target.public_key is not None:
            headers["x-langfuse-sdk-name"] = "langfuse-spool"
            headers["x-langfuse-sdk-version"] = __version__
        return {**headers, **self.target.headers, **connection.proxy_headers}


def classify(answer: Answer, *, is_strict: bool = True) -> Outcome:
    """Say what an answer means, by the OTLP specification and what Langfuse 4.16 really answers.

    `is_strict`: the receiver is Langfuse, which always answers JSON. The reason is still as long as
    the server wanted it, and may hold our secrets.
    """
    status = answer.status
    reason = f"{status} {_words(answer)}".strip()
    if 200 <= status < 300:  # noqa: PLR2004 - success, RFC 9110, section 15.3
        return _read_success(answer, is_strict=is_strict)
    if status in (400, 413, 422):
        return Outcome(Verdict.SPLIT, reason, is_too_large=status == 413)  # noqa: PLR2004
    if 300 <= status < 400:  # noqa: PLR2004 - redirection, RFC 9110, section 15.4
        location = without_secrets(answer.headers.get("location", "").partition("?")[0])
        return Outcome(Verdict.WAIT, f"{status} redirect to {location!r}, which is not followed")
    if status in (408, 425, 429) or not 200 <= status < 500:  # noqa: PLR2004 - 1xx, server errors
        return Outcome(Verdict.WAIT, reason, _retry_after(answer.headers))
    # 401, 403, 404, 405, and what else a client is to blame for.
    return Outcome(Verdict.HOLD, reason)


def _read_success(answer: Answer, *, is_strict: bool) -> Outcome:
    """Read a 2xx: Langfuse answers JSON to protobuf too, others as OTLP says, or as they like."""
    kind = answer.content_type
    if answer.is_page or (is_strict and kind not in _OTLP_KINDS):
        found = "an HTML page" if answer.is_page else kind or "no content type"
        reason = f"{answer.status} with {found}, which is no OTLP answer: a captive portal?"
        return Outcome(Verdict.WAIT, reason)
    rejected, words = 0, ""
    try:
        if kind == "application/json":
            rejected, words = _partial_success(json.loads(answer.body))
        elif kind.endswith("protobuf"):
            rejected, words = _partial_success_of_protobuf(answer.body)
    except (*_UNREADABLE, TypeError, AttributeError) as error:
        if is_strict:
            reason = f"{answer.status} with an answer that cannot be read: {error}"
            return Outcome(Verdict.WAIT, reason)
    return Outcome(Verdict.DELIVERED, words.strip(), rejected=max(0, rejected))


def _partial_success(answer: Any) -> tuple[int, str]:
    """Read OTLP/JSON's partial success (64-bit numbers may be strings there)."""
    partial = answer.get("partialSuccess") or {}
    return int(partial.get("rejectedSpans") or 0), str(partial.get("errorMessage") or "")


def _partial_success_of_protobuf(answer: bytes) -> tuple[int, str]:
    """Read OTLP's own partial success. Raises ValueError."""
    # Langfuse answers JSON: only other receivers need protobuf.
    from google.protobuf.message import DecodeError  # noqa: PLC0415 - as above
    from opentelemetry.proto.collector.trace.v1 import (  # noqa: PLC0415 - as above
        trace_service_pb2,
    )

    try:
        response = trace_service_pb2.ExportTraceServiceResponse.FromString(answer)
    except DecodeError as error:
        raise ValueError(str(error)) from error
    return response.partial_success.rejected_spans, response.partial_success.error_message


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Read Retry-After, whole seconds or a date (RFC 9110, section 10.2.3), up to an hour.

    A date is measured from the server's own, since an edge device's clock may say 1970.
    """
    value = headers.get("retry-after", "").strip()
    if value.isdecimal():
        return min(float(value), _LONGEST_RETRY_AFTER)
    until = _date(value)
    if until is None:
        return None
    now = _date(headers.get("date", "")) or datetime.now(timezone.utc)
    return min(max(0.0, (until - now).total_seconds()), _LONGEST_RETRY_AFTER)


def _date(text: str) -> datetime | None:
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        date = email.utils.parsedate_to_datetime(text)
        return date if date.tzinfo else date.replace(tzinfo=timezone.utc)
    return None


def _words(answer: Answer) -> str:
    """Give the server's words: what its JSON says, or the text without its tags."""
    status = str(answer.status)
    usual = http.client.responses.get(answer.status, "")
    text = answer.body.decode(errors="replace")
    with contextlib.suppress(*_UNREADABLE):
        is_protobuf = answer.content_type.endswith("protobuf")
        text = _message(answer.body) if is_protobuf else _said(json.loads(text), usual)
    if answer.is_page:
        # Each alternative takes what it has looked at: linear, whatever the server says.
        text = re.sub(r"(?s)<(style|script).*?(?:</\1>|\Z)|<[^>]*>?", " ", text)
    words = text.split()
    return " ".join(words[words[:1] == [status] :]) or usual


def _message(body: bytes) -> str:
    """Give the words of a google.rpc.Status, which OTLP's failures are. Raises ValueError."""
    # As rarely needed as a partial success.
    from google.protobuf.message import DecodeError  # noqa: PLC0415 - as above
    from google.rpc.status_pb2 import Status  # noqa: PLC0415 - as above

    try:
        return str(Status.FromString(body).message)
    except DecodeError as error:
        raise ValueError(str(error)) from error


def _said(value: Any, usual: str) -> str:
    """Give what a JSON value tells a person, the words first.

    Servers have them in different places, beside the name of a class, or what the status means
    anyway (`usual`).
    """
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list):
        return "; ".join(filter(None, (_said(one, usual) for one in value)))
    if not isinstance(value, dict):
        return json.dumps(value)
    told = [_said(value[key], usual) for key in _TELLING if value.get(key)]
    told.sort(key=lambda text: text == usual or " " not in text)
    if not told:
        return json.dumps(value, ensure_ascii=False) if value else ""
    words, *more = dict.fromkeys(told)
    return f"{words} ({'; '.join(more)})" if more else words


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
