"""Settings: what a spool is configured to do, checked once.

Every field of `Settings` is the environment variable `SPOOL_<FIELD>`, and an error names it so.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from spool.errors import SettingsError
from spool.settings import environment, spool_path
from spool.settings.durability import Durability
from spool.settings.endpoints import LANGFUSE_PATH, is_same_host, langfuse_endpoint
from spool.settings.environment import MISSING_KEYS
from spool.settings.given import checked
from spool.settings.target import Named, Target
from spool.settings.values import SPOOL_RULES, refuse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spool.settings.given import Headers


# For who has the keys in code, as the Langfuse SDK's constructor takes them.
_GIVEN_KEYS: Final = (
    "Where they are not in the environment: SpoolSpanExporter("
    f'endpoint="https://PUBLIC_KEY:SECRET_KEY@HOST{LANGFUSE_PATH}")'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a spool is configured to do. Times are seconds, sizes bytes. Raises SettingsError.

    path: the spool file, perhaps as text. target: where this process's spans go; None only for the
    commands.
    sync_seconds: the power-cut window; 0 = each commit is fsynced before `export` returns.
    max_bytes: of live data in the file; when_full: what is then dropped, and counted.
    max_age_seconds: how long spans are kept at most, by the time that a process watched them; None
    for as long as it takes. drain: whether this process sends, or only writes. max_request_bytes:
    the largest request before compression. backoff_seconds: the first and the largest.
    timeout_seconds: the hard total deadline of one request. shutdown_seconds: the longest that exit
    waits for a healthy endpoint. credentials_file: the secrets of further routes, see
    `credentials`; host: the Langfuse host that the environment names, for those. extra_headers:
    what the environment adds to requests to the Langfuse host that it names, or else to the
    target's. compression: of the requests, `gzip` or `none`. certificate: the CA bundle, a file or
    a directory; client_certificate and client_key: for mutual TLS. proxies: by scheme, and `no` for
    the hosts to reach without.
    """

    path: Path
    target: Target | None = None
    sync_seconds: float = 1.0
    max_bytes: int = 1 << 30
    when_full: Literal["drop-oldest", "drop-newest"] = "drop-oldest"
    max_age_seconds: float | None = None
    drain: bool = True
    max_request_bytes: int = 4 << 20
    backoff_seconds: tuple[float, float] = (1.0, 60.0)
    timeout_seconds: float = 10.0
    shutdown_seconds: float = 2.0
    credentials_file: Path | None = None
    host: str | None = field(default=None, repr=False)  # it may hold a password
    extra_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    compression: Literal["gzip", "none"] = "gzip"
    certificate: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None
    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name in ("path", "credentials_file"):
            if isinstance(text := getattr(self, name), str):
                object.__setattr__(self, name, Path(text))
        for name, rule in SPOOL_RULES.items():
            rule.check(f"SPOOL_{name.upper()}", getattr(self, name))

    @property
    def durability(self) -> Durability:
        """What a span survives once `export` has returned."""
        return Durability.PROCESS_DEATH if self.sync_seconds else Durability.POWER_CUT

    @property
    def is_gzip(self) -> bool:
        """Whether requests, and the rows that they are made of, are compressed."""
        return self.compression == "gzip"

    @property
    def named_endpoint(self) -> str | None:
        """The Langfuse endpoint that these settings name; None where they name none.

        Raises SettingsError.
        """
        target = self.target
        if target is not None and target.public_key and target.named is Named.BY_OWNER:
            return target.endpoint
        return langfuse_endpoint(self.host) if self.host else None

    def with_extra_headers(self, target: Target) -> Target:
        """Add the `extra_headers` to a target, if it is a Langfuse project on their host.

        Its route stays the same whatever they are: else a change of them would strand spans.
        """
        theirs = self._langfuse_endpoint
        if not target.public_key or not theirs or not is_same_host(target.endpoint, theirs):
            return target
        return target.with_extra(self.extra_headers)

    @property
    def _langfuse_endpoint(self) -> str | None:
        """The endpoint that `extra_headers` are for; None where there is none."""
        if self.host:
            return langfuse_endpoint(self.host)
        return self.target.endpoint if self.target and self.target.public_key else None

    @classmethod
    def from_env(
        cls,
        *,
        target: Target | None = None,
        endpoint: str | None = None,
        headers: Headers | None = None,
        environ: Mapping[str, str] | None = None,
        **given: Any,
    ) -> Settings:
        """Read the environment; what is given goes before it.

        `endpoint` and `headers` replace just those of the target that the environment names; but
        beside Langfuse keys, headers come to theirs, and so do the environment's OTLP headers, also
        to those of a given `target`. Raises SettingsError, which names the variable, its value and
        what is allowed.
        """
        env = environment.variables(os.environ if environ is None else environ)
        values = environment.fields(env)
        values.update(checked({**given, "endpoint": endpoint, "headers": headers}))
        named = values.pop("endpoint", None), values.pop("headers", None)
        values["path"] = _path(values.get("path"))
        values["target"] = target or environment.target(env, *named)
        values.setdefault("host", environment.host(env))
        found = cls(**values)
        if (langfuse := found._langfuse_endpoint) is not None:
            found = replace(found, extra_headers=environment.extra_headers(env, langfuse))
        return replace(found, target=found.target and found.with_extra_headers(found.target))

    def require_target(self) -> Target:
        """Give the target; raise SettingsError, in the words LiteLLM's users know, without one."""
        if self.target is None:
            raise SettingsError(f"{MISSING_KEYS} {_GIVEN_KEYS}")
        return self.target


def _path(given: Path | str | None) -> Path:
    if given is None:
        return spool_path.default_spool_file()
    try:
        return spool_path.spool_file(given)
    except (RuntimeError, OSError):
        refuse("SPOOL_PATH", given, spool_path.ALLOWED)
