"""Where each setting came from, for a person to see; of secrets only that they are set.

What counts, and what gives way to another variable, is `environment`'s to say.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from spool.settings.environment import hosts, meant_by, otlp_variable, proxy_variables
from spool.settings.settings import Settings
from spool.settings.values import OTLP_RULES, SPOOL_RULES, shown
from spool.system.redaction import is_secret_key, without_secrets
from spool.system.words import count_of, size_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spool.settings.environment import Variables

_BUNDLES: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_SIZES: Final = ("max_bytes", "max_request_bytes")
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


@dataclass(frozen=True, slots=True)
class Origin:
    """What set something, and how a person would write that.

    `ignored` says why it does not count, nothing where it does; `remedy` what to do where a person
    erred.
    """

    name: str
    value: str
    ignored: str = ""
    remedy: str = ""


def origins(env: Variables, path: str | None) -> list[Origin]:
    """Give all that is set; `path` is the option's."""
    found = [Origin("--path", path)] if path is not None else []
    return [*found, *_own(env, has_path=path is not None), *_langfuse(env), *_otlp(env), *_net(env)]


def defaults(env: Variables) -> dict[str, str]:
    """Give the variables of ours that are not set, with what counts instead."""
    otlp = {field for suffix, (field, _) in OTLP_RULES.items() if otlp_variable(env, suffix)}
    return {
        f"SPOOL_{field.name.upper()}": _written(field.name, field.default)
        for field in fields(Settings)
        if field.name in SPOOL_RULES.keys() - {"path"} - otlp
        and f"SPOOL_{field.name.upper()}" not in env
    }


def _own(env: Variables, *, has_path: bool) -> Iterator[Origin]:
    for variable, value in env.items():
        if variable.startswith("SPOOL_") and variable.removeprefix("SPOOL_").lower() in SPOOL_RULES:
            is_beaten = variable == "SPOOL_PATH" and has_path
            yield Origin(variable, value, "--path goes before it" if is_beaten else "")
        elif variable.startswith("SPOOL_"):
            meant = meant_by(variable)
            why = "it is no setting of the spool"
            remedy = f"{meant} is one: correct the name" if meant else ""
            yield Origin(variable, _hidden(value), why, remedy)


def _langfuse(env: Variables) -> Iterator[Origin]:
    for variable, value in env.items():
        if variable.startswith("LANGFUSE_") and (meant := meant_by(variable)):
            yield Origin(variable, _hidden(value), "nothing reads it", f"write {meant}")
    if "LANGFUSE_PUBLIC_KEY" in env:
        key = env["LANGFUSE_PUBLIC_KEY"]
        yield Origin("LANGFUSE_PUBLIC_KEY", _hidden(key) if is_secret_key(key) else key)
    if "LANGFUSE_SECRET_KEY" in env:
        yield Origin("LANGFUSE_SECRET_KEY", _hidden(env["LANGFUSE_SECRET_KEY"]))
    first, *others = [*hosts(env)] or [""]
    for variable, value in hosts(env).items():
        why = f"{first} goes before it" if variable in others else ""
        yield Origin(variable, without_secrets(value), why)


def _otlp(env: Variables) -> Iterator[Origin]:
    is_langfuse = "LANGFUSE_PUBLIC_KEY" in env
    for variable in _ENDPOINTS:
        if variable in env:
            is_beaten = variable != otlp_variable(env, "ENDPOINT")
            why = f"{_ENDPOINTS[0]} goes before it" if is_beaten else ""
            why = "spans go to Langfuse, whose keys are set" if is_langfuse else why
            yield Origin(variable, without_secrets(env[variable]), why)
    if headers := otlp_variable(env, "HEADERS"):
        number = len([said for said in env[headers].split(",") if said.strip()])
        yield Origin(headers, f"set, {count_of(number, 'header')}")
    for suffix, (field, _) in OTLP_RULES.items():
        if named := otlp_variable(env, suffix):
            own = f"SPOOL_{field.upper()}"
            yield Origin(named, env[named], f"{own} goes before it" if own in env else "")


def _net(env: Variables) -> Iterator[Origin]:
    own = otlp_variable(env, "CERTIFICATE")
    if bundle := next((name for name in _BUNDLES if name in env), None):
        yield Origin(bundle, env[bundle], f"{own} goes before it" if own else "")
    for variable in proxy_variables(env).values():
        is_url = not variable.lower().startswith("no_")
        yield Origin(variable, without_secrets(env[variable]) if is_url else env[variable])


def _hidden(value: str) -> str:
    return f"set, {count_of(len(value), 'character')}"


def _written(name: str, value: Any) -> str:
    if value is None:
        return "none"
    return size_of(value) if name in _SIZES else shown(value)
