"""TLS: whom a connection trusts, and by what it shows who we are."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import certifi

if TYPE_CHECKING:
    from spool.settings.settings import Settings


def context(settings: Settings) -> ssl.SSLContext:
    """Trust the configured bundle, or else the system's roots and certifi's. Raises OSError."""
    bundle = settings.certificate
    if bundle is None:
        found = ssl.create_default_context()
        found.load_verify_locations(certifi.where())
    elif bundle.is_dir():
        found = ssl.create_default_context(capath=bundle)
    elif bundle.is_file():
        found = ssl.create_default_context(cafile=bundle)
    else:
        raise OSError(f"{bundle}: there is no CA bundle")
    if settings.client_certificate is not None:
        found.load_cert_chain(settings.client_certificate, settings.client_key)
    return found
