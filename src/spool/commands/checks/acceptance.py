"""The acceptance: whether a receiver takes spans with these keys, told by a request without any.

Langfuse answers 200 `{}` to one, and stores nothing (its 4.16, observed); a receiver of OTLP an
empty success. MLflow (its server/otel_api.py, 3.x) refuses it with 400, as there are no spans, but
after it has looked at all else.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from spool.commands.checks.finding import Finding
from spool.delivery.causes import Cause
from spool.delivery.http.response import read_date
from spool.system.redaction import without_secrets
from spool.system.words import duration_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spool.delivery.client import Client
    from spool.delivery.http.classification import Outcome
    from spool.settings.target import Target

# From so many seconds on a clock is wrong enough to mind: spans lie far from where people look.
_WRONG_CLOCK: Final = 300.0


def ask(target: Target, client: Client) -> tuple[list[Finding], bool]:
    """Ask for nothing; give what was answered, and whether anything was."""
    outcome = client.post(target, [], client.timeout)
    return [_export(target, outcome), *_clock(target, outcome)], not outcome.is_unanswered


def _export(target: Target, outcome: Outcome) -> Finding:
    where = without_secrets(target.endpoint)
    whose = target.route if target.public_key else "its headers"
    if outcome.is_delivered:
        return Finding("export", f"{where} takes spans of {whose} ({outcome.status})")
    if target.public_key is None and outcome.status == 400 and outcome.cause is Cause.SPANS:  # noqa: PLR2004 - a bad request
        said = f"{where} answers, and refuses only that no span came ({outcome.reason})"
        return Finding("export", said)
    words = f"{where}, {whose}: {outcome.cause.explain(outcome.reason)}"
    return Finding.wrong("export", words, outcome.cause.remedy)


def _clock(target: Target, outcome: Outcome) -> Iterator[Finding]:
    theirs = read_date(outcome.date)
    if theirs is None:
        return
    ahead = time.time() - theirs.timestamp()
    side = "ahead of" if ahead > 0 else "behind"
    whose = f"that of {without_secrets(target.endpoint).partition('://')[2].partition('/')[0]}"
    if abs(ahead) < _WRONG_CLOCK:
        yield Finding("clock", f"it agrees with {whose}")
        return
    words = f"it is {duration_of(abs(ahead))} {side} {whose}"
    yield Finding.wrong("clock", words, "set it, and keep it set (NTP): spans carry its time")
