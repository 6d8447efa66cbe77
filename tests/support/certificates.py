"""Certificates of an authority that nobody else knows."""

from __future__ import annotations

import ssl

import trustme

from ports import HOST


def tls_of(authority: trustme.CA, name: str = HOST) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context
