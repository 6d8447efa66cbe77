"""Whether a receiver reads gzip: a doubt that lasts until it has accepted a body so encoded.

It comes again when that takes nothing any more. It is forgotten with the process, and settled again
with one more request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from spool.delivery.http.classification import Outcome

_BAD_REQUEST: Final = 400
_UNSUPPORTED: Final = 415  # RFC 9110, section 15.5.16: also where the encoding is not known
_MOST_VAIN_TRIES: Final = 5
# As often as a held route is probed.
_REST_SECONDS: Final = 300.0


class ContentEncoding:
    """How a receiver's bodies are encoded: gzip if `is_gzip`, else not at all."""

    def __init__(self, *, is_gzip: bool) -> None:
        self.is_gzip = is_gzip
        self._is_doubted = is_gzip
        self._vain_tries = 0
        self._tried_at = 0.0

    def accept(self) -> None:
        """Note that the receiver accepted what was encoded so."""
        self._is_doubted = False

    def doubt(self) -> None:
        """Note that the receiver takes nothing: it may be another one by now."""
        self._is_doubted = self.is_gzip

    def is_doubtful(self, refused: Outcome, spans: int, now: float) -> bool:
        """Say whether a request of so many spans should be sent once more, without gzip.

        `now` is seconds since 1970. Bad spans are refused without it as well: after a try in vain
        only a span alone is worth one, and after several of them one now and then.
        """
        if not self._is_doubted or refused.status not in {_BAD_REQUEST, _UNSUPPORTED}:
            return False
        is_rested = abs(now - self._tried_at) >= _REST_SECONDS
        is_few = self._vain_tries < _MOST_VAIN_TRIES
        return not self._vain_tries or (spans == 1 and (is_few or is_rested))

    def learn(self, refused: Outcome, plain: Outcome, now: float) -> None:
        """Compare what the receiver said to gzip, and then to the same spans without it."""
        is_told = refused.status == _UNSUPPORTED and plain.status not in {0, _UNSUPPORTED}
        if is_told or plain.is_delivered:
            self.is_gzip = self._is_doubted = False
        elif plain.status in {_BAD_REQUEST, _UNSUPPORTED}:
            self._vain_tries += 1
            self._tried_at = now
