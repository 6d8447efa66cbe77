"""A target: where spans go, and with which secret; what its route is called."""

from __future__ import annotations

import hashlib
import urllib.parse
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from spool.errors import SettingsError
from spool.settings.endpoints import check_url, is_same_host, langfuse_endpoint
from spool.settings.headers import basic_auth, basic_credentials, clean_headers
from spool.system.redaction import is_secret_key, without_secrets

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

EU_HOST: Final = "https://cloud.langfuse.com"


class Named(IntEnum):
    """Who named an endpoint: what a spool remembers gives way to the same or a higher only."""

    BY_NOBODY = 0  # Langfuse's own default: what the spool remembers goes before it
    BY_LITELLM = 1  # its default, to which its own callback would have sent the spans
    BY_OWNER = 2


@dataclass(frozen=True, slots=True)
class Target:
    """Where spans go, and with which secret.

    `route` is the identity that rows of the spool carry: the Langfuse public key, or for a plain
    OTLP receiver its endpoint, with a mark of its headers and query where there are any. `endpoint`
    is the full URL of the traces signal, `named` says by whom.
    """

    route: str
    endpoint: str = field(repr=False)  # its query may hold a secret
    headers: Mapping[str, str] = field(repr=False)
    public_key: str | None = None
    named: Named = Named.BY_OWNER
    extra: Collection[str] = field(default=(), repr=False, compare=False)  # see `with_extra`

    @classmethod
    def langfuse(cls, public_key: str, secret_key: str, host: str | None = None) -> Target:
        """Name a Langfuse project; without a `host` the EU cloud is the default.

        A host may lack its scheme: https is meant, as in LiteLLM. Raises SettingsError.
        """
        check_keys("public_key", public_key, secret_key)
        headers = {"authorization": basic_auth(public_key, secret_key)}
        endpoint, headers = _checked(langfuse_endpoint(host or EU_HOST), headers)
        named = Named.BY_OWNER if host else Named.BY_NOBODY
        return cls(public_key, endpoint, _for_langfuse(headers), public_key, named)

    @classmethod
    def otlp(
        cls, endpoint: str, headers: Mapping[str, str], variable: str = "endpoint or headers"
    ) -> Target:
        """Name any OTLP/HTTP receiver by the full URL of its traces signal.

        Headers that hold a Langfuse project's Basic auth make it that project's target. Raises
        SettingsError, which says that a `variable` has that auth.
        """
        endpoint, headers = _checked(endpoint, headers)
        public_key = _public_key(variable, endpoint, headers)
        if public_key is not None:
            return cls(public_key, endpoint, _for_langfuse(headers), public_key)
        plain = cls(without_secrets(endpoint), endpoint, headers)
        return plain.marked() if headers or urllib.parse.urlsplit(endpoint).query else plain

    def redirected(self, endpoint: str | None, headers: Mapping[str, str]) -> Target:
        """Give a Langfuse project's target with another endpoint, and further headers.

        It stays that project's, unless there is another Authorization among them, or a user in the
        endpoint. Raises SettingsError.
        """
        named = Named.BY_OWNER if endpoint else self.named
        endpoint, more = _checked(endpoint or self.endpoint, headers)
        if "authorization" in more:
            return replace(Target.otlp(endpoint, more), named=named)
        return replace(self, endpoint=endpoint, headers={**self.headers, **more}, named=named)

    def with_extra(self, headers: Mapping[str, str]) -> Target:
        """Add headers, for this host; those that it has already stay, and so does its route."""
        extra = headers.keys() - self.headers.keys()
        return replace(self, headers={**headers, **self.headers}, extra=extra) if extra else self

    def at(self, endpoint: str) -> Target:
        """Give it with another endpoint; on another host without the extra headers."""
        headers = self.headers if is_same_host(endpoint, self.endpoint) else self.own_headers
        return replace(self, endpoint=endpoint, headers=headers)

    @property
    def own_headers(self) -> dict[str, str]:
        """Its headers without the extra ones."""
        return {name: value for name, value in self.headers.items() if name not in self.extra}

    def marked(self) -> Target:
        """Give it a route that no target with another secret or endpoint can have."""
        own = replace(self, headers=self.own_headers)
        return replace(self, route=f"{self.route}#{own.fingerprint(self.route.encode())}")

    def fingerprint(self, salt: bytes) -> str:
        """Tell whether secret or endpoint changed, without giving either away.

        Eight hexadecimal digits of a salted SHA-256: enough to notice a change, too few to find
        the secret by trying.
        """
        said = [self.endpoint, *(f"{k}:{v}" for k, v in self.headers.items())]
        return hashlib.sha256(salt + "\n".join(sorted(said)).encode()).hexdigest()[:8]


def _for_langfuse(headers: Mapping[str, str]) -> dict[str, str]:
    """Select direct writes: without it, late spans can lose their trace's name, user and tags."""
    return {"x-langfuse-ingestion-version": "4", **headers}


def _checked(endpoint: str, headers: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    headers = clean_headers("headers", headers)
    parts = check_url("endpoint", endpoint, endpoint)
    if parts.username is not None:
        user, password = (urllib.parse.unquote(x or "") for x in (parts.username, parts.password))
        headers.setdefault("authorization", basic_auth(user, password))
        endpoint = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return endpoint, headers


def _public_key(variable: str, endpoint: str, headers: Mapping[str, str]) -> str | None:
    user, password = basic_credentials(headers) or ("", "")
    is_langfuse = user.startswith(("pk-lf-", "sk-lf-")) or "/api/public/otel" in endpoint
    if not user or not is_langfuse:
        return None
    check_keys(variable, user, password)
    return user


def check_keys(variable: str, public_key: str, secret_key: str) -> None:
    """Raise SettingsError, which shows neither key, where one looks like the other.

    The public key names the route: files, logs and pages show it.
    """
    if is_secret_key(public_key):
        which = "the public key begins with sk-, as secret keys do"
    elif secret_key.lower().startswith("pk-lf-"):
        which = "the secret key begins with pk-lf-, as public keys do"
    else:
        return
    raise SettingsError(
        f"{variable}: {which}: are the two swapped? Neither is used, stored or shown. "
        "LANGFUSE_PUBLIC_KEY is the one with pk-lf-, LANGFUSE_SECRET_KEY the one with sk-lf-"
    )
