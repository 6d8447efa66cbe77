"""The values of settings: how each is read, what it may be, and how people are told so.

A new setting is a field of `Settings` and a row of one of the two tables here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from spool.errors import SettingsError
from spool.settings import spool_path
from spool.system.redaction import printable

_LONGEST_SECONDS: Final = 86400.0  # what threads can wait for has a limit, too
_LONGEST_AGE: Final = 10 * 366 * 86400.0
_SMALLEST_REQUEST: Final = 1 << 10
_SMALLEST_SPOOL: Final = 1 << 20


def refuse(variable: str, value: object, allowed: str) -> NoReturn:
    """Raise the SettingsError that names a variable, its value and what is allowed."""
    raise SettingsError(f"{variable}={printable(shown(value))}: must be {allowed}")


def shown(value: object) -> str:
    """Give a setting's value as a person would write it."""
    if isinstance(value, tuple):
        return "..".join(shown(number) for number in value)
    if isinstance(value, Mapping):
        return "others"  # proxies: they may hold passwords
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, slots=True)
class Rule:
    """How one setting is read from text, what is allowed, which values and which types are."""

    parse: Callable[[str], Any]
    allowed: str
    allows: Callable[[Any], bool] = lambda _: True
    types: tuple[type, ...] = (object,)

    def read(self, variable: str, text: str) -> Any:
        """Give the value that a variable's text stands for. Raises SettingsError."""
        try:
            return self.parse(text)
        except (ValueError, KeyError, OSError, RuntimeError):  # the last two: of files and homes
            refuse(variable, text, self.allowed)

    def check(self, variable: str, value: Any) -> None:
        """Raise SettingsError unless a value, perhaps one given in code, is allowed."""
        if not isinstance(value, self.types):
            types = " or ".join(one.__name__ for one in self.types)
            raise SettingsError(
                f"{variable}: must be {self.allowed}; in code {types}, not {type(value).__name__}"
            )
        if not self.allows(value):
            refuse(variable, value, self.allowed)


def _switch(text: str) -> bool:
    return {"on": True, "off": False}[text.lower()]


def size(text: str) -> int:
    """Read a size in bytes: K, M, G and T count by 1024, as KiB does; KB by 1000.

    That is what dd says, too. Raises ValueError.
    """
    match = re.fullmatch(r"(\d+)\s*(?:([kmgt]?)(i?b)?)", text.lower())
    if match is None:
        raise ValueError(text)
    number, prefix, unit = match.groups()
    base = 1000 if unit == "b" else 1024
    return int(int(number) * base ** ("kmgt".find(prefix) + 1 if prefix else 0))


def _size_rule(smallest: int, allowed: str) -> Rule:
    """Give the rule of a size; one that is too small is named as it was written."""

    def parse(text: str) -> int:
        found = size(text)
        if found < smallest:
            raise ValueError(text)
        return found

    counts = "1G is 1GiB, and 1GB is 1000 million"
    return Rule(parse, f"{allowed} ({counts})", lambda value: value >= smallest, _NUMBER)


def _first_and_largest(text: str) -> tuple[float, float]:
    first, _, largest = text.partition("..")
    return float(first), float(largest)


def _choice(*allowed: str) -> Callable[[str], str]:
    return lambda text: {word: word for word in allowed}[text.lower()]


def _file(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _existing_file(text: str) -> Path:
    path = _file(text)
    if not path.is_file():
        raise ValueError(text)
    return path


def _is_backoff(value: Any) -> bool:
    try:
        first, largest = value
        return bool(0 < first <= largest < math.inf)
    except (TypeError, ValueError):  # given in code
        return False


_NUMBER: Final = (int, float)
_NOTHING: Final = type(None)
_WHEN_FULL: Final = ("drop-oldest", "drop-newest")
_SECONDS: Final = Rule(
    float,
    "seconds, 0 or more, 86400 at most",
    lambda value: 0 <= value <= _LONGEST_SECONDS,
    _NUMBER,
)
_TIMEOUT: Final = Rule(
    float,
    "seconds, more than 0, 86400 at most",
    lambda value: 0 < value <= _LONGEST_SECONDS,
    _NUMBER,
)

# By the name of the field: the variable is SPOOL_<NAME>.
SPOOL_RULES: Final[Mapping[str, Rule]] = {
    "path": Rule(Path, spool_path.ALLOWED, spool_path.is_nameable, (Path,)),
    "sync_seconds": _SECONDS,
    "max_bytes": _size_rule(_SMALLEST_SPOOL, "a size of 1MiB or more, such as 500MB or 2GiB"),
    "when_full": Rule(
        _choice(*_WHEN_FULL), " or ".join(_WHEN_FULL), lambda value: value in _WHEN_FULL, (str,)
    ),
    "max_age_seconds": Rule(
        float,
        "seconds, more than 0, ten years at most",
        lambda value: value is None or 0 < value <= _LONGEST_AGE,
        (*_NUMBER, _NOTHING),
    ),
    "drain": Rule(_switch, "on or off", types=(bool,)),
    "max_request_bytes": _size_rule(_SMALLEST_REQUEST, "a size of 1KiB or more, such as 4MiB"),
    "backoff_seconds": Rule(
        _first_and_largest, "the first and the largest in seconds, such as 1..60", _is_backoff
    ),
    "timeout_seconds": _TIMEOUT,
    "shutdown_seconds": _SECONDS,
    "credentials_file": Rule(_file, "a file", types=(Path, _NOTHING)),
}

# By the end of OpenTelemetry's variable: the field, and its rule.
OTLP_RULES: Final[Mapping[str, tuple[str, Rule]]] = {
    "TIMEOUT": ("timeout_seconds", _TIMEOUT),
    "COMPRESSION": (
        "compression",
        Rule(_choice("gzip", "none"), "gzip or none (Langfuse cannot read deflate)"),
    ),
    "CERTIFICATE": ("certificate", Rule(_existing_file, "a file")),
    "CLIENT_CERTIFICATE": ("client_certificate", Rule(_existing_file, "a file")),
    "CLIENT_KEY": ("client_key", Rule(_existing_file, "a file")),
}
