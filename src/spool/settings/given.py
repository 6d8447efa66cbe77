"""What is given to the exporter, in code or by OpenTelemetry's configuration file: its types.

That file is YAML: `off` is false there, `007` a number, `${UNSET}` nothing. An error names the key,
and shows no value: it may hold a secret. Text that is empty counts as not given, as a variable's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote

from spool.errors import SettingsError
from spool.settings.headers import clean_headers, shown_header

# A mapping, OpenTelemetry's pairs of `name` and `value`, or the text of its variable.
Headers = Mapping[str, str] | Sequence[Mapping[str, str]] | str

_TYPES: Final[Mapping[str, tuple[tuple[type, ...], str]]] = {
    "path": ((str,), "text, the path of a file"),
    "endpoint": ((str,), "text, a URL"),
    "drain": ((bool,), "true or false, without quotes"),
}
_SHAPES: Final = (
    "a mapping of names to values, a list of mappings with `name` and `value`, or text as in "
    "OTEL_EXPORTER_OTLP_HEADERS"
)


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Give what is given at all, each of its type. Raises SettingsError, which names the key."""
    found = {key: value for key, value in given.items() if value is not None and value != ""}
    if isinstance(found.get("path"), os.PathLike):
        found["path"] = os.fspath(found["path"])
    for key, (types, allowed) in _TYPES.items():
        if key in found and not isinstance(found[key], types):
            raise SettingsError(f"{key}: must be {allowed}, not {type(found[key]).__name__}")
    if "headers" in found:
        found["headers"] = clean_headers("headers", _mapping(found["headers"]))
    return found


def _mapping(headers: object) -> dict[str, str]:
    """Give headers, whichever way they are said. Raises SettingsError."""
    pairs = list(_pairs(headers))
    for number, (name, value) in enumerate(pairs, 1):
        if not isinstance(name, str):
            raise SettingsError("headers: a name must be text; put it in quotes")
        if not isinstance(value, str):
            trouble = "has no value" if value is None else "must be text; put it in quotes"
            raise SettingsError(f"headers: the value of {shown_header(name, number)} {trouble}")
    return dict(pairs)


def _pairs(headers: object) -> Iterable[tuple[Any, Any]]:
    if isinstance(headers, Mapping):
        return headers.items()
    if isinstance(headers, str):
        parts = [one.partition("=") for one in headers.split(",") if one.strip()]
        if all(equals for _, equals, _ in parts):
            return [(unquote(name), unquote(value)) for name, _, value in parts]
    elif isinstance(headers, Sequence) and all(_is_pair(one) for one in headers):
        return [(one["name"], one["value"]) for one in headers]
    raise SettingsError(f"headers: must be {_SHAPES}")


def _is_pair(one: object) -> bool:
    return isinstance(one, Mapping) and one.keys() == {"name", "value"}
