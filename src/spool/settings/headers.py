"""HTTP headers: how they are read, what may stand in them, and Basic authorization."""

from __future__ import annotations

import base64
import functools
import re
from typing import TYPE_CHECKING, Final

from spool.errors import SettingsError
from spool.system.log import logger

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# What each request says for itself: of its body, and which answers can be read here. (A content
# type that is given is not heeded.)
_OF_EACH_REQUEST: Final = (
    "accept-encoding",
    "content-encoding",
    "content-length",
    "transfer-encoding",
)
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
    found = {}
    for number, said in _numbered(text):
        found.update(_read(variable, number, said))
    return found


def read_usable_headers(variable: str, text: str) -> dict[str, str]:
    """Read headers as `read_headers` does; what is none is passed over; that is said once."""
    found = {}
    for number, said in _numbered(text):
        try:
            found.update(_read(variable, number, said))
        except SettingsError as error:  # noqa: PERF203 - a handful
            _warn_once(f"{error}; it is passed over")
    return found


def _numbered(text: str) -> Iterable[tuple[int, str]]:
    return enumerate(filter(None, re.split(r"[ \t]*,[ \t]*", text)), 1)


def _read(variable: str, number: int, said: str) -> dict[str, str]:
    from opentelemetry.util.re import parse_env_headers  # noqa: PLC0415 - rarely needed

    if not re.fullmatch(rf"{_NAME}[ \t]*=[ \t]*{_ENCODED}", said.strip()):
        raise SettingsError(
            f"{variable}: header {number} must be name=value, with all but letters, digits and "
            "common signs percent-encoded, and a comma between two headers"
        )
    return clean_headers(variable, parse_env_headers(said, liberal=True), number)


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning("langfuse-spool: %s", message)


def clean_headers(variable: str, headers: Mapping[str, str], first: int = 1) -> dict[str, str]:
    """Give headers with lower-case names; `variable` named them, the first one as number `first`.

    Raises SettingsError, which shows no value.
    """
    headers = {name.strip().lower(): value.strip() for name, value in headers.items()}
    for number, (name, value) in enumerate(headers.items(), first):
        header = shown_header(name, number)
        if not _is_header_name(name) or not _is_header_value(value):
            raise SettingsError(
                f"{variable}: the name or the value of {header} has a character that HTTP forbids"
            )
        if name in _OF_EACH_REQUEST:
            raise SettingsError(f"{variable}: {header} must be left out: each request has its own")
    return headers


def shown_header(name: str, number: int) -> str:
    """Name a header in an error; by its number where its name is none, and may be a secret."""
    return f"header '{name}'" if _is_header_name(name) else f"header {number}"


def _is_header_name(text: str) -> bool:
    """Say whether it is a token (RFC 9110)."""
    return re.fullmatch(_NAME, text) is not None


def _is_header_value(value: str) -> bool:
    return re.fullmatch(r"[\t\x20-\x7e\x80-\xff]*", value) is not None


def basic_credentials(headers: Mapping[str, str]) -> tuple[str, str] | None:
    """Give user and password of a Basic authorization; None where there is none to be read."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, _, password = base64.b64decode(token.strip(), validate=True).decode().partition(":")
    except ValueError:  # no Base64, or not of text
        return None
    return user, password
