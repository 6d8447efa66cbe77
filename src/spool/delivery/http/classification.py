"""What a response means for the spans of its request: the table of status codes.

| response | verdict |
|---|---|
| 2xx, as a receiver answers | delivered |
| 2xx that is no OTLP response, 1xx, 3xx, 408, 425, 429, 5xx | wait: try again after a backoff |
| 400, 413, 422 | split: some span of the request may be to blame |
| 401, 403, 404, and every other 4xx | hold: the configuration is to blame |

Invariant: an HTML page delivers nothing, since a captive portal also says 200. Langfuse always
answers JSON, and OTLP its own type: there nothing else counts as delivered. Of any other receiver
every 2xx does, whatever it says with it: they differ.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final

from spool.delivery.causes import Cause
from spool.delivery.http.response import UNREADABLE
from spool.system.redaction import without_secrets

if TYPE_CHECKING:
    from spool.delivery.http.response import Response

_OTLP_KINDS: Final = frozenset({"application/json", "application/x-protobuf"})
_CAUSES: Final = {
    400: Cause.SPANS,
    401: Cause.KEYS,
    403: Cause.FORBIDDEN,
    404: Cause.WRONG_ADDRESS,
    405: Cause.WRONG_ADDRESS,
    407: Cause.PROXY,
    408: Cause.NO_ANSWER,
    413: Cause.TOO_LARGE,
    422: Cause.SPANS,
    425: Cause.ASKED_TO_WAIT,
    429: Cause.ASKED_TO_WAIT,
}
# What servers of https say to http, such as nginx and Go's.
_HTTP_TO_HTTPS: Final = re.compile(r"(?i)plain HTTP request|HTTP request to an HTTPS server")


class Verdict(Enum):
    """What an answer means for the spans of its request."""

    DELIVERED = "delivered"
    WAIT = "wait"  # keep them, and try again after a backoff
    HOLD = "hold"  # keep them: the configuration is wrong, probe slowly
    SPLIT = "split"  # some span of it may be bad: search for it


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one request.

    `reason` says why it was not delivered, or why the receiver rejected some of its spans, and
    `cause` what kind of trouble that is.
    `retry_after` is what the server asked for, in seconds. `is_timeout`: the deadline ended it.
    `is_unanswered`: it or the network did, and nothing was heard of the receiver. `is_too_large`:
    the server says so. `is_damage`: it was not sent, its spans cannot be read. `status` is that of
    the answer, 0 where there was none, then `exception` is what was raised, by its class; `date` is
    the server's, as it says it.
    """

    verdict: Verdict
    reason: str = ""
    cause: Cause = field(default=Cause.UNKNOWN, compare=False)
    retry_after: float | None = None
    rejected: int = 0
    is_timeout: bool = False
    is_unanswered: bool = False
    is_too_large: bool = False
    is_damage: bool = False
    status: int = field(default=0, compare=False)
    date: str = field(default="", compare=False)
    exception: str = field(default="", compare=False)

    @property
    def is_delivered(self) -> bool:
        """Whether the receiver has accepted the request."""
        return self.verdict is Verdict.DELIVERED

    @property
    def error_type(self) -> str:
        """What was wrong, in few words that recur (`error.type`); nothing where all was taken."""
        if self.is_delivered:
            return "rejected" if self.rejected else ""
        if self.is_timeout:
            return "timeout"
        if 200 <= self.status < 300:  # noqa: PLR2004 - as `classify`
            return "no_otlp_answer"
        return str(self.status or self.exception or "damaged")

    @property
    def blames_no_span(self) -> bool:
        """Whether the receiver asked for time, or somebody else answered in its place."""
        is_told = 200 <= self.status < 500 and self.status != 408  # noqa: PLR2004 - as `classify`
        return self.retry_after is not None or is_told


def classify(response: Response, *, is_strict: bool = True) -> Outcome:
    """Say what a response means, by the OTLP specification and what Langfuse 4.16 really answers.

    `is_strict`: the receiver is Langfuse, which always answers JSON. The reason is still as long as
    the server wanted it, and may hold our secrets.
    """
    status = response.status
    reason = f"{status} {response.words()}".strip()
    if 200 <= status < 300:  # noqa: PLR2004 - success, RFC 9110, section 15.3
        return _read_success(response, is_strict=is_strict)
    cause = _cause_of(response)
    if status in (400, 413, 422):
        return Outcome(Verdict.SPLIT, reason, cause, is_too_large=status == 413)  # noqa: PLR2004
    if 300 <= status < 400:  # noqa: PLR2004 - redirection, RFC 9110, section 15.4
        location = without_secrets(response.headers.get("location", "").partition("?")[0])
        said = f"{status}, a redirect to {location or 'nowhere'}, which is not followed"
        return Outcome(Verdict.WAIT, said, cause)
    if status in (408, 425, 429) or not 200 <= status < 500:  # noqa: PLR2004 - 1xx, server errors
        return Outcome(Verdict.WAIT, reason, cause, response.retry_after())
    # 401, 403, 404, 405, and what else a client is to blame for.
    return Outcome(Verdict.HOLD, reason, cause)


def _cause_of(response: Response) -> Cause:
    """Say what kind of trouble a status is that is no success."""
    status = response.status
    if status in _CAUSES:
        is_of_http = status == 400 and _HTTP_TO_HTTPS.search(response.words())  # noqa: PLR2004
        return Cause.SPEAKS_HTTPS if is_of_http else _CAUSES[status]
    if status < 400:  # noqa: PLR2004 - interim, or a redirection
        return Cause.PORTAL if status >= 300 else Cause.NOT_UNDERSTOOD  # noqa: PLR2004
    if status < 500:  # noqa: PLR2004 - RFC 9110, section 15.5
        return Cause.REQUEST
    return Cause.SERVER if response.retry_after() is None else Cause.ASKED_TO_WAIT


def _read_success(response: Response, *, is_strict: bool) -> Outcome:
    """Read a 2xx: Langfuse answers JSON to protobuf too, others as OTLP says, or as they like."""
    kind = response.content_type
    if response.is_page or (is_strict and kind not in _OTLP_KINDS):
        found = "a web page" if response.is_page else kind or "no content type"
        reason = f"{response.status} with {found}, not as a receiver answers: a captive portal?"
        return Outcome(Verdict.WAIT, reason, Cause.PORTAL)
    try:
        rejected, words = response.partial_success()
    except UNREADABLE:
        if is_strict:
            reason = f"{response.status} with an answer that cannot be read"
            return Outcome(Verdict.WAIT, reason, Cause.NOT_UNDERSTOOD)
        rejected, words = 0, ""
    return Outcome(Verdict.DELIVERED, words.strip(), rejected=max(0, rejected))
