"""A complete HTTP response, and what can be read of it: words, rejected spans, when to try again.

Nothing that a server says raises, except where `partial_success` says so.
"""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import json
import re
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Final

from spool.system.importing import importing

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST_RETRY_AFTER: Final = 3600.0
_LONGEST_BLANK: Final = 1024  # in front of a page
_PAGES: Final = frozenset({"text/html", "application/xhtml+xml"})
# Where a JSON response has its words: Langfuse, gRPC's status, FastAPI.
_TELLING: Final = ("message", "error", "detail", "errors", "msg")
# What reading raises of what a server may say: json.loads, int, and what is no object.
UNREADABLE: Final = (ValueError, OverflowError, RecursionError, TypeError, AttributeError)


@dataclass(frozen=True, slots=True)
class Response:
    """A complete HTTP response. Header names are lower-case."""

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

    def words(self) -> str:
        """Give the server's words: what its JSON says, or the text without its tags."""
        status = str(self.status)
        usual = http.client.responses.get(self.status, "")
        text = self.body.decode(errors="replace")
        with contextlib.suppress(*UNREADABLE):
            is_protobuf = self.content_type.endswith("protobuf")
            text = _status_message(self.body) if is_protobuf else _text_of(json.loads(text), usual)
        if self.is_page:
            # Each alternative takes what it has looked at: linear, whatever the server says.
            text = re.sub(r"(?s)<(style|script).*?(?:</\1>|\Z)|<[^>]*>?", " ", text)
        words = text.split()
        return " ".join(words[words[:1] == [status] :]) or usual

    def partial_success(self) -> tuple[int, str]:
        """Count the spans that a success has rejected, and give the receiver's words for it.

        Raises one of UNREADABLE.
        """
        if self.content_type == "application/json":
            return _partial_success(json.loads(self.body))
        if self.content_type.endswith("protobuf"):
            return _partial_success_of_protobuf(self.body)
        return 0, ""

    def retry_after(self) -> float | None:
        """Read Retry-After, whole seconds or a date (RFC 9110, section 10.2.3), up to an hour.

        A date is measured from the server's own, since an edge device's clock may say 1970.
        """
        value = self.headers.get("retry-after", "").strip()
        if value.isdecimal():
            return min(float(value), _LONGEST_RETRY_AFTER)
        until = read_date(value)
        if until is None:
            return None
        now = read_date(self.headers.get("date", "")) or datetime.now(timezone.utc)
        return min(max(0.0, (until - now).total_seconds()), _LONGEST_RETRY_AFTER)


def read_date(text: str) -> datetime | None:
    """Read a date as HTTP has it; None for what is none."""
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        date = email.utils.parsedate_to_datetime(text)
        return date if date.tzinfo else date.replace(tzinfo=timezone.utc)
    return None


def _partial_success(answer: Any) -> tuple[int, str]:
    """Read OTLP/JSON's partial success (64-bit numbers may be strings there)."""
    partial = answer.get("partialSuccess") or {}
    return int(partial.get("rejectedSpans") or 0), str(partial.get("errorMessage") or "")


def _partial_success_of_protobuf(answer: bytes) -> tuple[int, str]:
    """Read OTLP's own partial success. Raises ValueError."""
    # Langfuse answers JSON: only other receivers need protobuf.
    with importing():
        from google.protobuf.message import DecodeError  # noqa: PLC0415 - as above
        from opentelemetry.proto.collector.trace.v1 import (  # noqa: PLC0415 - as above
            trace_service_pb2,
        )

    try:
        response = trace_service_pb2.ExportTraceServiceResponse.FromString(answer)
    except DecodeError as error:
        raise ValueError(str(error)) from error
    return response.partial_success.rejected_spans, response.partial_success.error_message


def _status_message(body: bytes) -> str:
    """Give the words of a google.rpc.Status, which OTLP's failures are. Raises ValueError."""
    # As rarely needed as a partial success.
    with importing():
        from google.protobuf.message import DecodeError  # noqa: PLC0415 - as above
        from google.rpc.status_pb2 import Status  # noqa: PLC0415 - as above

    try:
        return str(Status.FromString(body).message)
    except DecodeError as error:
        raise ValueError(str(error)) from error


def _text_of(value: Any, usual: str) -> str:
    """Give what a JSON value tells a person, the words first.

    Servers have them in different places, beside the name of a class, or what the status means
    anyway (`usual`).
    """
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list):
        return "; ".join(filter(None, (_text_of(one, usual) for one in value)))
    if not isinstance(value, dict):
        return json.dumps(value)
    told = [_text_of(value[key], usual) for key in _TELLING if value.get(key)]
    told.sort(key=lambda text: text == usual or " " not in text)
    if not told:
        return json.dumps(value, ensure_ascii=False) if value else ""
    words, *more = dict.fromkeys(told)
    return f"{words} ({'; '.join(more)})" if more else words
