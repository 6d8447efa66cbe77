"""The transcripts of tests/README.md: each is compared with what a run prints, or written anew."""

from __future__ import annotations

import re
from typing import Final

from pages import TESTS

# What another run may print otherwise, without saying anything else.
_VARIES: Final = [
    (r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?)?(?:Z|[+-]\d\d:\d\d)?", "DATE"),
    (r"\b\d\d:\d\d(?::\d\d)?\b", "TIME"),
    (r"\b[\d.,]+ (?:bytes?|[KMGT]iB)", "SIZE"),
    # What has only begun is said without how long it lasts.
    (r"(?: for)? [\d.,]+ (?:ms|s|min|h|d)\b(?: \d+ (?:s|min|h)\b)?", ""),
    (r"\b[\d.,]+ ?%", "SHARE"),
]


class Transcript:
    """What a command has printed in one incident, under the incident's title."""

    def __init__(self, title: str) -> None:
        self._block = re.compile(
            rf"^\*\*{re.escape(title)}\*\*\n\n```\n(.*?)^```$", re.MULTILINE | re.DOTALL
        )

    def kept(self) -> str:
        """Give what the page has."""
        return self._found()[1]

    def write(self, text: str) -> None:
        """Put it in the place of what the page has."""
        found = self._found()
        TESTS.write_text(found.string[: found.start(1)] + text + found.string[found.end(1) :])

    def _found(self) -> re.Match[str]:
        found = self._block.search(TESTS.read_text())
        assert found is not None, f"{TESTS} has no such title with a block: {self._block.pattern}"
        return found


def blurred(text: str, *varies: str) -> str:
    """Give a text without what varies: times, sizes, shares, and what else matches."""
    for pattern, word in [*_VARIES, *((one, "N") for one in varies)]:
        text = re.sub(pattern, word, text)
    return text
