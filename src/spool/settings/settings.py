"""Settings: what is configured, checked once. `from_env` alone reads the environment.

Every field of `Settings` is the environment variable `SPOOL_<FIELD>`, and an error names it so.
The `OTEL_EXPORTER_OTLP_*` variables mean what the OpenTelemetry specification ("OpenTelemetry
Protocol Exporter") and its Python exporter say.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import math
import os
import re
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

from spool.errors import SettingsError
from spool.settings.durability import Durability
from spool.system.redaction import printable, without_secrets

EU_HOST: Final = "https://cloud.langfuse.com"
LANGFUSE_PATH: Final = "/api/public/otel/v1/traces"

# The words that LiteLLM's users know (litellm/integrations/langfuse/langfuse_otel.py).
MISSING_KEYS: Final = (
    "LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY must be set "
    "for Langfuse OpenTelemetry integration."
)

Environment = Mapping[str, str]


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

    @classmethod
    def langfuse(cls, public_key: str, secret_key: str, host: str | None = None) -> Target:
        """Name a Langfuse project; without a `host` the EU cloud is the default.

        A host may lack its scheme: https is meant, as in LiteLLM. Raises SettingsError.
        """
        headers = {"authorization": basic(public_key, secret_key)}
        endpoint, headers = _checked(langfuse_endpoint(host or EU_HOST), headers)
        named = Named.BY_OWNER if host else Named.BY_NOBODY
        return cls(public_key, endpoint, _for_langfuse(headers), public_key, named)

    @classmethod
    def otlp(cls, endpoint: str, headers: Mapping[str, str]) -> Target:
        """Name any OTLP/HTTP receiver by the full URL of its traces signal.

        Headers that hold a Langfuse project's Basic auth make it that project's target. Raises
        SettingsError.
        """
        endpoint, headers = _checked(endpoint, headers)
        public_key = _public_key(endpoint, headers)
        if public_key is not None:
            return cls(public_key, endpoint, _for_langfuse(headers), public_key)
        plain = cls(without_secrets(endpoint), endpoint, headers)
        return plain.marked() if headers or urllib.parse.urlsplit(endpoint).query else plain

    def marked(self) -> Target:
        """Give it a route that no target with another secret or endpoint can have."""
        return replace(self, route=f"{self.route}#{self.fingerprint(self.route.encode())}")

    def fingerprint(self, salt: bytes) -> str:
        """Tell whether secret or endpoint changed, without giving either away.

        Eight hexadecimal digits of a salted SHA-256: enough to notice a change, too few to find
        the secret by trying.
        """
        said = [self.endpoint, *(f"{k}:{v}" for k, v in self.headers.items())]
        return hashlib.sha256(salt + "\n".join(sorted(said)).encode()).hexdigest()[:8]


def basic(user: str, password: str) -> str:
    """Make the value of a Basic authorization header (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def langfuse_endpoint(host: str, variable: str = "host") -> str:
    """Give the traces endpoint of a Langfuse host. Raises SettingsError, which names `variable`."""
    url = (host if "://" in host else f"https://{host}").rstrip("/") + LANGFUSE_PATH
    check_url(variable, url, host)
    return url


def _for_langfuse(headers: Mapping[str, str]) -> dict[str, str]:
    """Select direct writes: without it, late spans can lose their trace's name, user and tags."""
    return {"x-langfuse-ingestion-version": "4", **headers}


def _checked(endpoint: str, headers: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    headers = _clean("headers", headers)
    parts = check_url("endpoint", endpoint, endpoint)
    if parts.username is not None:
        user, password = (urllib.parse.unquote(x or "") for x in (parts.username, parts.password))
        headers.setdefault("authorization", basic(user, password))
        endpoint = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return endpoint, headers


def _clean(variable: str, headers: Mapping[str, str]) -> dict[str, str]:
    headers = {name.strip().lower(): value.strip() for name, value in headers.items()}
    for name, value in headers.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9a-z-]+", name) or not _is_header_value(value):
            raise SettingsError(
                f"{variable}: the name or the value of header '{printable(name)}' has a character "
                "that HTTP forbids"
            )
    return headers


def check_url(variable: str, url: str, said: str) -> urllib.parse.SplitResult:
    """Take an HTTP URL apart that a variable `said`, in full or in part.

    Raises SettingsError, which shows nothing that may be secret.

    An `@` belongs behind user and password only: else part of a password with a `/` or `?` would
    pass for host and path.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        url.encode("ascii")
    except ValueError:
        usable = None
    if has_stray_at(url):
        allowed = "a URL with %40, %2F and %3F for the @, / and ? of user and password"
        _refuse(variable, without_secrets(said), allowed)
    if not usable or re.search(r"[\x00-\x20\x7f]", url):
        _refuse(variable, without_secrets(said), f"a URL such as https://host{LANGFUSE_PATH}")
    return parts


def has_stray_at(url: str) -> bool:
    """Say whether an `@` stands behind what would be the host."""
    _, *behind = re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)
    return any("@" in rest for rest in behind)


def _is_header_value(value: str) -> bool:
    return re.fullmatch(r"[\t\x20-\x7e\x80-\xff]*", value) is not None


def _public_key(endpoint: str, headers: Mapping[str, str]) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user = base64.b64decode(token.strip(), validate=True).decode().partition(":")[0]
    except (binascii.Error, UnicodeDecodeError):
        return None
    is_langfuse = user.startswith("pk-lf-") or "/api/public/otel" in endpoint
    return user if user and is_langfuse else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a spool is configured to do. Times are seconds, sizes bytes. Raises SettingsError.

    path: the spool file. target: where this process's spans go; None only for the commands.
    sync_seconds: the power-cut window; 0 = each commit is fsynced before `export` returns.
    max_bytes: of live data in the file; when_full: what is then dropped, and counted.
    max_age_seconds: how long spans are kept at most, by the time that a process watched them; None
    for as long as it takes. drain: whether this process sends, or only writes. max_request_bytes:
    the largest request before compression. backoff_seconds: the first and the largest.
    timeout_seconds: the hard total deadline of one request. shutdown_seconds: the longest that exit
    waits for a healthy endpoint. credentials_file: the secrets of further routes, see
    `credentials`; host: the Langfuse host that the environment names, for those. compression: of
    the requests, `gzip` or `none`. certificate: the CA bundle, a file or a directory;
    client_certificate and client_key: for mutual TLS. proxies: by scheme, and `no` for the hosts to
    reach without.
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
    compression: Literal["gzip", "none"] = "gzip"
    certificate: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None
    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        first, largest = self.backoff_seconds
        checks = {
            "path": _is_path(self.path),
            "sync_seconds": 0 <= self.sync_seconds <= _LONGEST_SECONDS,
            "max_bytes": self.max_bytes >= _SMALLEST_SPOOL,
            "max_age_seconds": self.max_age_seconds is None
            or 0 < self.max_age_seconds <= _LONGEST_AGE,
            "max_request_bytes": self.max_request_bytes >= _SMALLEST_REQUEST,
            "backoff_seconds": 0 < first <= largest < math.inf,
            "timeout_seconds": 0 < self.timeout_seconds <= _LONGEST_SECONDS,
            "shutdown_seconds": 0 <= self.shutdown_seconds <= _LONGEST_SECONDS,
        }
        for name, is_allowed in checks.items():
            if not is_allowed:
                value = getattr(self, name)
                _refuse(f"SPOOL_{name.upper()}", shown(value), _ALLOWED[name])

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

    @classmethod
    def from_env(
        cls,
        *,
        target: Target | None = None,
        endpoint: str | None = None,
        headers: Mapping[str, str] | None = None,
        environ: Environment | None = None,
        **given: Any,
    ) -> Settings:
        """Read the environment; what is given goes before it.

        A `target` is taken as it is. `endpoint` and `headers` replace just those of the target that
        the environment names; but beside Langfuse keys, headers come to theirs. Raises
        SettingsError, which names the variable, its value and what is allowed.
        """
        env = {k: v.strip() for k, v in (os.environ if environ is None else environ).items()}
        env = {name: value for name, value in env.items() if value}
        values = {**_otlp_settings(env), **_spool_settings(env), "proxies": _proxies(env)}
        values.update({name: value for name, value in given.items() if value is not None})
        values["path"] = _spool_file(values.get("path"))
        values["target"] = target or _target(env, endpoint, headers)
        values.setdefault("host", next(iter(_hosts(env).values()), None))
        return cls(**values)

    def require_target(self) -> Target:
        """Give the target; raise SettingsError, in the words LiteLLM's users know, without one."""
        if self.target is None:
            raise SettingsError(MISSING_KEYS)
        return self.target


def shown(value: object) -> str:
    """Give a setting's value as a person would write it."""
    if isinstance(value, tuple):
        return "..".join(f"{number:g}" for number in value)
    if isinstance(value, Mapping):
        return "others"  # proxies: they may hold passwords
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


_LONGEST_SECONDS: Final = 86400.0  # what threads can wait for has a limit, too
_LONGEST_AGE: Final = 10 * 366 * 86400.0
# Room for what the other files are called, and for what SQLite takes (its own limit is 512).
_LONGEST_NAME: Final = 200
_LONGEST_PATH: Final = 470
_SMALLEST_REQUEST: Final = 1 << 10
_SMALLEST_SPOOL: Final = 1 << 20

_ALLOWED: Final = {
    "path": "a file, or a directory to hold spool.db; in UTF-8 without control characters, "
    f"{_LONGEST_NAME} bytes for its name and {_LONGEST_PATH} in all at most",
    "sync_seconds": "seconds, 0 or more, 86400 at most",
    "max_bytes": "a size of 1MiB or more, such as 500MB or 2GiB",
    "when_full": "drop-oldest or drop-newest",
    "max_age_seconds": "seconds, more than 0, ten years at most",
    "drain": "on or off",
    "max_request_bytes": "a size of 1KiB or more, such as 4MiB",
    "backoff_seconds": "the first and the largest in seconds, such as 1..60",
    "timeout_seconds": "seconds, more than 0, 86400 at most",
    "shutdown_seconds": "seconds, 0 or more, 86400 at most",
    "credentials_file": "a file",
    "compression": "gzip or none (Langfuse cannot read deflate)",
    "certificate": "a file",
}


def _refuse(variable: str, value: object, allowed: str) -> NoReturn:
    shown = f"{value:g}" if isinstance(value, float) else printable(str(value))
    raise SettingsError(f"{variable}={shown}: must be {allowed}")


def _switch(text: str) -> bool:
    return {"on": True, "off": False}[text.lower()]


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+)\s*(?:([kmgt]?)(i?)b)?", text.lower())
    if match is None:
        raise ValueError(text)
    number, prefix, binary = match.groups()
    unit = 1024 if binary else 1000
    return int(int(number) * unit ** ("kmgt".find(prefix) + 1 if prefix else 0))


def _timeout(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= _LONGEST_SECONDS:
        raise ValueError(text)
    return seconds


def _range(text: str) -> tuple[float, float]:
    first, _, largest = text.partition("..")
    return float(first), float(largest)


def _choice(*allowed: str) -> Callable[[str], str]:
    return lambda text: {word: word for word in allowed}[text.lower()]


def _existing_file(text: str) -> Path:
    path = Path(text).expanduser().absolute()
    if not path.is_file():
        raise ValueError(text)
    return path


_PARSERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "path": Path,
    "sync_seconds": float,
    "max_bytes": _size,
    "when_full": _choice("drop-oldest", "drop-newest"),
    "max_age_seconds": float,
    "drain": _switch,
    "max_request_bytes": _size,
    "backoff_seconds": _range,
    "timeout_seconds": float,
    "shutdown_seconds": float,
    "credentials_file": lambda text: Path(text).expanduser().absolute(),
}


def _parse(variable: str, text: str, parser: Callable[[str], Any], allowed: str) -> Any:
    try:
        return parser(text)
    except (ValueError, KeyError, OSError, RuntimeError):  # the last two: of files and homes
        _refuse(variable, text, allowed)


def _spool_settings(env: Environment) -> dict[str, Any]:
    values = {}
    for name, parser in _PARSERS.items():
        variable = f"SPOOL_{name.upper()}"
        if variable in env:
            values[name] = _parse(variable, env[variable], parser, _ALLOWED[name])
    return values


def _otlp_settings(env: Environment) -> dict[str, Any]:
    parsers: dict[str, tuple[str, Callable[[str], Any], str]] = {
        "TIMEOUT": ("timeout_seconds", _timeout, "timeout_seconds"),
        "COMPRESSION": ("compression", _choice("gzip", "none"), "compression"),
        "CERTIFICATE": ("certificate", _existing_file, "certificate"),
        "CLIENT_CERTIFICATE": ("client_certificate", _existing_file, "certificate"),
        "CLIENT_KEY": ("client_key", _existing_file, "certificate"),
    }
    values = {}
    for suffix, (name, parser, allowed) in parsers.items():
        variable = _otlp_variable(env, suffix)
        if variable is not None and f"SPOOL_{name.upper()}" not in env:
            values[name] = _parse(variable, env[variable], parser, _ALLOWED[allowed])
    bundle = env.get("REQUESTS_CA_BUNDLE") or env.get("CURL_CA_BUNDLE")  # as requests does
    if bundle is not None:
        values.setdefault("certificate", Path(bundle))
    return values


def _otlp_variable(env: Environment, suffix: str) -> str | None:
    """Find the variable that counts: the one for traces goes before the general one."""
    for variable in (f"OTEL_EXPORTER_OTLP_TRACES_{suffix}", f"OTEL_EXPORTER_OTLP_{suffix}"):
        if variable in env:
            return variable
    return None


def _proxies(env: Environment) -> dict[str, str]:
    """Read `https_proxy` and its kin, as curl and requests do: lower case goes first."""
    names = [f"{scheme}_proxy" for scheme in ("http", "https", "all", "no")]
    found = {name: env.get(name) or env.get(name.upper()) for name in names}
    return {name.removesuffix("_proxy"): value for name, value in found.items() if value}


def _state_directory() -> Path:
    import platformdirs  # noqa: PLC0415 - only where SPOOL_PATH is not set

    with contextlib.suppress(RuntimeError, KeyError):  # nobody knows this user
        directory = platformdirs.user_state_path("langfuse-spool")
        if directory.is_absolute():
            return directory
    raise SettingsError(
        f"SPOOL_PATH must be set: the home directory of user {os.getuid()} is not known"
    )


def _is_path(path: Path) -> bool:
    """Say whether a spool may be called so: SQLite and people must be able to name its files."""
    try:
        name, whole = path.name.encode(), str(path).encode()
    except UnicodeEncodeError:
        return False
    is_short = 0 < len(name) <= _LONGEST_NAME and len(whole) <= _LONGEST_PATH
    return is_short and not re.search(r"[\x00-\x1f\x7f-\x9f]", str(path))


def _spool_file(given: Path | str | None) -> Path:
    if given is None:
        return _state_directory() / "spool.db"
    try:
        path = Path(given).expanduser().absolute()
    except (RuntimeError, OSError):  # ~ of a user who is none; a working directory that is gone
        _refuse("SPOOL_PATH", given, _ALLOWED["path"])
    # os.path: Path.is_dir raises where a directory above may not be searched.
    return path / "spool.db" if os.path.isdir(path) else path  # noqa: PTH112 - as above


def _target(
    env: Environment, endpoint: str | None, headers: Mapping[str, str] | None
) -> Target | None:
    keys = _langfuse_target(env)
    if endpoint is None and headers is None:
        return keys or _otlp_target(env)
    if keys is not None:
        merged = {**keys.headers, **_clean("headers", headers or {})}
        target = Target.otlp(endpoint or keys.endpoint, merged)
        return target if endpoint else replace(target, named=keys.named)
    endpoint = endpoint or _otlp_endpoint(env)
    if endpoint is None:
        raise SettingsError(f"headers were given, but no endpoint. {MISSING_KEYS}")
    return Target.otlp(endpoint, _otlp_headers(env) if headers is None else headers)


def _langfuse_target(env: Environment) -> Target | None:
    public_key, secret_key = env.get("LANGFUSE_PUBLIC_KEY"), env.get("LANGFUSE_SECRET_KEY")
    if public_key and secret_key:
        for variable, host in _hosts(env).items():
            langfuse_endpoint(host, variable)
            return Target.langfuse(public_key, secret_key, host)
        return Target.langfuse(public_key, secret_key)
    if public_key or secret_key:
        raise SettingsError(f"{MISSING_KEYS} Only one of them is.")
    return None


def _hosts(env: Environment) -> dict[str, str]:
    """Give the variables that name a Langfuse host; the first one counts."""
    hosts = ("LANGFUSE_OTEL_HOST", "LANGFUSE_BASE_URL", "LANGFUSE_HOST")
    return {name: env[name] for name in hosts if name in env}


def _otlp_target(env: Environment) -> Target | None:
    endpoint = _otlp_endpoint(env)
    return Target.otlp(endpoint, _otlp_headers(env)) if endpoint else None


def _otlp_endpoint(env: Environment) -> str | None:
    variable = _otlp_variable(env, "ENDPOINT")
    if variable is None:
        return None
    protocol = _otlp_variable(env, "PROTOCOL")
    if protocol is not None and env[protocol] != "http/protobuf":
        _refuse(protocol, env[protocol], "http/protobuf")
    said = env[variable]
    url = said if variable.endswith("_TRACES_ENDPOINT") else said.rstrip("/") + "/v1/traces"
    check_url(variable, url, said)
    return url


def _otlp_headers(env: Environment) -> dict[str, str]:
    from opentelemetry.util.re import parse_env_headers  # noqa: PLC0415 - rarely needed

    variable = _otlp_variable(env, "HEADERS")
    if variable is None:
        return {}
    return _clean(variable, parse_env_headers(env[variable], liberal=True))
