"""Redaction: people are shown no secret of a URL, and nothing that a terminal would obey."""

from __future__ import annotations

import re


def without_secrets(url: str) -> str:
    """Cut user information, query and fragment off a URL: they may hold secrets.

    Also off what only looks like one: a password may have a `/` or `?` that should have been
    encoded, so all up to the last `@` goes.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    rest = re.split(r"[?#]", rest.rpartition("@")[2])[0]
    return scheme.lower() + separator + rest


def is_secret_key(text: str) -> bool:
    """Say whether what stands for a public key is a secret one: no public key begins so."""
    return text.strip().lower().startswith("sk-")


def printable(text: str) -> str:
    """Replace what is not printable, such as terminal escapes and newlines, by what Python writes.

    Also what a file's name or a damaged text may hold that is no Unicode.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
