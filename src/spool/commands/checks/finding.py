"""A finding: what `check` says to one question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from typing_extensions import Self

    from spool.errors import SpoolError

_MARKS: Final = {True: "ok", False: "!", None: "–"}  # noqa: RUF001 - a dash


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what it is about, what is, and where that is wrong what to do.

    `is_well` is None where there is nothing to judge, or it cannot be told from here.
    """

    name: str
    words: str
    is_well: bool | None = True
    remedy: str = ""

    @classmethod
    def wrong(cls, name: str, words: str, remedy: str) -> Self:
        """Give one that is wrong."""
        return cls(name, words, is_well=False, remedy=remedy)

    @classmethod
    def of_error(cls, name: str, error: SpoolError, otherwise: str = "see to the disk") -> Self:
        """Give what an error says, behind its semicolon what to do; else `otherwise` says that."""
        words, _, remedy = str(error).partition("; ")
        return cls.wrong(name, words, remedy or otherwise)

    def __str__(self) -> str:
        """Give the line."""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{_MARKS[self.is_well]:<3} {self.name:<14} {self.words}{remedy}"

    def as_json(self) -> dict[str, Any]:
        """Give the public shape."""
        return {
            "name": self.name,
            "ok": self.is_well,
            "words": self.words,
            "remedy": self.remedy or None,
        }
