"""HTTP headers: how they are read, what may stand in them, and Basic authorization."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Final

from spool.errors import SettingsError
from spool.system.redaction import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

# What every request says for itself. (A content type that is given is not heeded.)
_OF_THE_BODY: Final = ("content-encoding", "content-length", "transfer-encoding")
_NAME: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# As opentelemetry.util.re reads it; a blank may stand as it is.
_ENCODED: Final = r"[\x20\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*"


def basic_auth(user: str, password: str) -> str:
    """Make the value of a Basic authorization header (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def read_headers(variable: str, text: str) -> dict[str, str]:
    """Read `name=value,name=value`, percent-encoded, as OpenTelemetry's exporter does.

    That one passes over what it cannot read, and logs it, secrets and all. Raises SettingsError,
    which shows no value.
    """
    from opentelemetry.util.re import parse_env_headers  # noqa: PLC0415 - rarely needed

    for number, pair in enumerate(filter(None, re.split(r"[ \t]*,[ \t]*", text)), 1):
        if not re.fullmatch(rf"{_NAME}[ \t]*=[ \t]*{_ENCODED}", pair.strip()):
            raise SettingsError(
                f"{variable}: header {number} must be name=value, with all but letters, digits and "
                "common signs percent-encoded, and a comma between two headers"
            )
    return clean_headers(variable, parse_env_headers(text, liberal=True))


def clean_headers(variable: str, headers: Mapping[str, str]) -> dict[str, str]:
    """Give headers with lower-case names; `variable` named them.

    Raises SettingsError, which shows no value.
    """
    headers = {name.strip().lower(): value.strip() for name, value in headers.items()}
    for name, value in headers.items():
        if not re.fullmatch(_NAME, name) or not _is_header_value(value):
            raise SettingsError(
                f"{variable}: the name or the value of header '{printable(name)}' has a character "
                "that HTTP forbids"
            )
        if name in _OF_THE_BODY:
            raise SettingsError(
                f"{variable}: header '{name}' must be left out: each request has its own"
            )
    return headers


def _is_header_value(value: str) -> bool:
    return re.fullmatch(r"[\t\x20-\x7e\x80-\xff]*", value) is not None


def basic_user(headers: Mapping[str, str]) -> str | None:
    """Give the user of a Basic authorization; None where there is none to be read."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(token.strip(), validate=True).decode().partition(":")[0]
    except ValueError:  # no Base64, or not of text
        return None
