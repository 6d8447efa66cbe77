"""Numbers as people read them: counts with the right plural, sizes, durations, users."""

from __future__ import annotations

import pwd
from datetime import datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_KIB: Final = 1024
# So many names are said.
_FEW: Final = 3
_SIZES: Final = ("KiB", "MiB", "GiB", "TiB")
# Each with its seconds; a duration is said in the two largest that it has.
_UNITS: Final = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def count_of(number: int, thing: str) -> str:
    """Give "1 span", "12,000 spans"; of a word of many, its last one takes the s."""
    if number == 1:
        return f"1 {thing}"
    plural = (
        f"{thing[:-1]}ie" if thing.endswith("y") else f"{thing}e" if thing[-1] in "hx" else thing
    )
    return f"{number:,} {plural}s"


def few_of(names: Sequence[str]) -> str:
    """Give "a, b, c"; of more names the first of them: "a, b, c, …"."""
    return ", ".join([*names[:_FEW], *["…"] * (len(names) > _FEW)])


def size_of(size: float) -> str:
    """Give a size in bytes as "512 bytes", "3.2 MiB"."""
    if size < _KIB:
        return count_of(round(size), "byte")
    size, unit = size / _KIB, 0
    while round(size, 1) >= _KIB and unit < len(_SIZES) - 1:
        size, unit = size / _KIB, unit + 1
    return f"{size:.1f} {_SIZES[unit]}"


def duration_of(seconds: float) -> str:
    """Give a duration as "0.4 s", "5 s", "2 min", "3 h 20 min", "12 d 4 h"."""
    if seconds < 1:
        return f"{max(0.0, seconds):.1f} s"
    left = round(seconds)
    parts: list[str] = []
    for unit, length in _UNITS:
        count, left = divmod(left, length)
        if count or parts:
            parts.append(f"{count} {unit}" if count else "")
        if len(parts) == 2:  # noqa: PLR2004 - the two largest
            break
    return " ".join(filter(None, parts))


def share_of(part: float, whole: float) -> str:
    """Give a share as "0.3 %", "12 %", "under 0.1 %"; nothing of nothing."""
    if not whole:
        return "0 %"
    percent = 100 * part / whole
    if 0 < percent < 0.1:  # noqa: PLR2004 - what one digit says
        return "under 0.1 %"
    return f"{percent:.0f} %" if percent >= 10 or not percent else f"{percent:.1f} %"  # noqa: PLR2004 - two digits suffice


def clock_of(seconds: float, now: float | None = None) -> str:
    """Give a time in seconds since 1970 as clocks show it here: "2026-01-31 14:20".

    Of the day that it is `now`: "14:20:05".
    """
    try:
        at = datetime.fromtimestamp(seconds).astimezone()
        today = None if now is None else datetime.fromtimestamp(now).astimezone().date()
    except (ValueError, OverflowError, OSError):
        return "a time that is in no calendar"
    return f"{at:%H:%M:%S}" if at.date() == today else f"{at:%Y-%m-%d %H:%M}"


def user_of(uid: int) -> str:
    """Give a user as "user app (1000)", or "user 1000" where nobody is called so."""
    try:
        return f"user {pwd.getpwuid(uid).pw_name} ({uid})"
    except KeyError:
        return f"user {uid}"
