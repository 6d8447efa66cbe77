"""HTTP headers: what may stand in them, and Basic authorization."""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING

from spool.errors import SettingsError
from spool.system.redaction import printable

if TYPE_CHECKING:
    from collections.abc import Mapping


def basic_auth(user: str, password: str) -> str:
    """Make the value of a Basic authorization header (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def clean_headers(variable: str, headers: Mapping[str, str]) -> dict[str, str]:
    """Give headers with lower-case names; `variable` named them.

    Raises SettingsError, which shows no value.
    """
    headers = {name.strip().lower(): value.strip() for name, value in headers.items()}
    for name, value in headers.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9a-z-]+", name) or not _is_header_value(value):
            raise SettingsError(
                f"{variable}: the name or the value of header '{printable(name)}' has a character "
                "that HTTP forbids"
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
    except (binascii.Error, UnicodeDecodeError):
        return None
