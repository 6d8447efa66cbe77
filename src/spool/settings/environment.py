"""The environment: the variables that are read, and what they mean together.

- `SPOOL_*` are our own. `LANGFUSE_*` mean what Langfuse's SDK says.
- `OTEL_EXPORTER_OTLP_*` mean what the OpenTelemetry specification ("OpenTelemetry Protocol
  Exporter") and its Python exporter say: the one for traces goes before the general one.
- Proxies and bundles of certificates are those of curl and requests.

A variable that is empty counts as unset. One that is nearly one of these
is warned of, once.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from spool.errors import SettingsError
from spool.settings.endpoints import check_url, is_same_host, langfuse_endpoint
from spool.settings.headers import read_headers, read_usable_headers
from spool.settings.target import Target, check_keys
from spool.settings.values import OTLP_RULES, SPOOL_RULES, refuse
from spool.system.log import logger

Variables = Mapping[str, str]

# The words that LiteLLM's users know (litellm/integrations/langfuse/langfuse_otel.py).
MISSING_KEYS: Final = (
    "LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY must be set "
    "for Langfuse OpenTelemetry integration."
)
# Where LiteLLM's callback `otel` sends OpenTelemetry's headers, and the keys that its callbacks for
# Arize and Phoenix write into that variable (litellm_core_utils/litellm_logging.py, 1.108).
_LITELLM_ENDPOINTS: Final = ("OTEL_ENDPOINT", "OTEL_TRACES_ENDPOINT")
_LITELLM_KEYS: Final = ("ARIZE_API_KEY", "PHOENIX_API_KEY")
_HOSTS: Final = ("LANGFUSE_OTEL_HOST", "LANGFUSE_BASE_URL", "LANGFUSE_HOST")
_LANGFUSE: Final = (*_HOSTS, "LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY")
_PROTOCOL: Final = "http/protobuf (opentelemetry-instrument says grpc where nothing is set)"


def variables(environ: Mapping[str, str]) -> Variables:
    """Give the variables that are set, without blanks around them."""
    env = {name: value.strip() for name, value in environ.items()}
    return {name: value for name, value in env.items() if value}


def fields(env: Variables) -> dict[str, Any]:
    """Read the fields of `Settings` that are set, but target and host. Raises SettingsError."""
    return {**_otlp_settings(env), **_spool_settings(env), "proxies": _proxies(env)}


def target(
    env: Variables, endpoint: str | None, headers: Mapping[str, str] | None
) -> Target | None:
    """Name where spans go; what is given goes before what the variables say.

    `endpoint` and `headers` replace just those of the target that is named; but beside Langfuse
    keys, headers come to theirs. None where nothing names a target. Raises SettingsError.
    """
    keys = _langfuse_target(env)
    if endpoint is None and headers is None:
        return keys or _otlp_target(env)
    if keys is not None:
        return keys.redirected(endpoint, headers or {})
    endpoint = endpoint or _otlp_endpoint(env)
    if endpoint is None:
        raise SettingsError(f"headers were given, but no endpoint. {MISSING_KEYS}")
    return Target.otlp(endpoint, _otlp_headers(env) if headers is None else headers)


def host(env: Variables) -> str | None:
    """Give the Langfuse host that counts; None where none is named. Raises SettingsError."""
    for variable, named in hosts(env).items():
        langfuse_endpoint(named, variable)  # here, for an error that names the variable
        return named
    return None


def extra_headers(env: Variables, endpoint: str) -> dict[str, str]:
    """Give the headers that come to those of Langfuse keys, which go to an endpoint.

    They may be secrets: where a variable names a receiver on another host, they are for that one.
    What OpenTelemetry's exporter would pass over is left out.
    """
    variable = otlp_variable(env, "HEADERS")
    if variable is None:
        return {}
    is_general = variable == "OTEL_EXPORTER_OTLP_HEADERS"
    signals = ("", "TRACES_", "METRICS_", "LOGS_") if is_general else ("", "TRACES_")
    named = [f"OTEL_EXPORTER_OTLP_{signal}ENDPOINT" for signal in signals]
    receivers = [env[name] for name in (*named, *_LITELLM_ENDPOINTS) if name in env]
    is_others = any(name in env and env[name] in env[variable] for name in _LITELLM_KEYS)
    if is_others or not all(is_same_host(receiver, endpoint) for receiver in receivers):
        return {}
    return read_usable_headers(variable, env[variable])


def _spool_settings(env: Variables) -> dict[str, Any]:
    found = {}
    for name, rule in SPOOL_RULES.items():
        variable = f"SPOOL_{name.upper()}"
        if variable in env:
            found[name] = rule.read(variable, env[variable])
    for variable in env:
        if variable.startswith(("SPOOL_", "LANGFUSE_")):
            _warn_if_mistyped(variable)
    return found


@functools.cache  # once in a process
def _warn_if_mistyped(variable: str) -> None:
    """Warn of a name that is close to a setting's; others may use the prefix, too."""
    if meant := meant_by(variable):
        logger.warning("langfuse-spool: %s is no setting of the spool; %s is", variable, meant)


def meant_by(variable: str) -> str | None:
    """Give the setting that a variable nearly names; None for one that is, or is far.

    Langfuse's SDK and LiteLLM read others with `LANGFUSE_`: only the same letters are near.
    """
    if variable.startswith("LANGFUSE_"):
        near = (one for one in _LANGFUSE if _letters(one) == _letters(variable))
        return None if variable in _LANGFUSE else next(near, None)
    name = variable.removeprefix("SPOOL_").lower()
    close = difflib.get_close_matches(name, SPOOL_RULES, n=1)
    return f"SPOOL_{close[0].upper()}" if close and name not in SPOOL_RULES else None


def _letters(variable: str) -> str:
    return variable.replace("_", "").rstrip("S")


def _otlp_settings(env: Variables) -> dict[str, Any]:
    found = {}
    for suffix, (name, rule) in OTLP_RULES.items():
        variable = otlp_variable(env, suffix)
        if variable is not None and f"SPOOL_{name.upper()}" not in env:
            found[name] = rule.read(variable, env[variable])
            rule.check(variable, found[name])  # here, for an error that names this variable
    bundle = env.get("REQUESTS_CA_BUNDLE") or env.get("CURL_CA_BUNDLE")  # as requests does
    if bundle is not None:
        found.setdefault("certificate", Path(bundle))
    return found


def otlp_variable(env: Variables, suffix: str) -> str | None:
    """Find the variable that counts: the one for traces goes before the general one."""
    for variable in (f"OTEL_EXPORTER_OTLP_TRACES_{suffix}", f"OTEL_EXPORTER_OTLP_{suffix}"):
        if variable in env:
            return variable
    return None


def _proxies(env: Variables) -> dict[str, str]:
    return {scheme: env[variable] for scheme, variable in proxy_variables(env).items()}


def proxy_variables(env: Variables) -> dict[str, str]:
    """Name the variables of proxies that count: lower case goes first, as for curl and requests."""
    found: dict[str, str] = {}
    for scheme in ("http", "https", "all", "no"):
        for variable in (f"{scheme}_proxy", f"{scheme}_proxy".upper()):
            if variable in env:
                found.setdefault(scheme, variable)
    return found


def _langfuse_target(env: Variables) -> Target | None:
    public_key, secret_key = env.get("LANGFUSE_PUBLIC_KEY"), env.get("LANGFUSE_SECRET_KEY")
    if public_key and secret_key:
        check_keys("LANGFUSE_PUBLIC_KEY, LANGFUSE_SECRET_KEY", public_key, secret_key)
        return Target.langfuse(public_key, secret_key, host(env))
    if public_key or secret_key:
        raise SettingsError(f"{MISSING_KEYS} Only one of them is.")
    return None


def hosts(env: Variables) -> dict[str, str]:
    """Give the variables that name a Langfuse host; the first one counts."""
    return {name: env[name] for name in _HOSTS if name in env}


def _otlp_target(env: Variables) -> Target | None:
    endpoint = _otlp_endpoint(env)
    if endpoint is None:
        return None
    headers = _otlp_headers(env)
    which = "HEADERS" if "authorization" in headers else "ENDPOINT"
    return Target.otlp(endpoint, headers, otlp_variable(env, which) or which)


def _otlp_endpoint(env: Variables) -> str | None:
    variable = otlp_variable(env, "ENDPOINT")
    if variable is None:
        return None
    protocol = otlp_variable(env, "PROTOCOL")
    if protocol is not None and env[protocol] != "http/protobuf":
        refuse(protocol, env[protocol], _PROTOCOL)
    said = env[variable]
    url = said if variable.endswith("_TRACES_ENDPOINT") else said.rstrip("/") + "/v1/traces"
    check_url(variable, url, said)
    return url


def _otlp_headers(env: Variables) -> dict[str, str]:
    variable = otlp_variable(env, "HEADERS")
    return {} if variable is None else read_headers(variable, env[variable])
