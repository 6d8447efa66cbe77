"""The configuration: what is set, by what, and what of it is wrong."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from spool.commands.checks.finding import Finding
from spool.errors import SettingsError
from spool.settings import environment
from spool.settings.origins import defaults, origins
from spool.settings.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def read(
    environ: Mapping[str, str], path: str | None
) -> tuple[Settings | None, list[SettingsError]]:
    """Give the settings without those that are wrong, and what is wrong with these.

    None where not even the path is known.
    """
    errors: list[SettingsError] = []
    named: set[str] = set()
    while True:
        try:
            settings = Settings.from_env(path=path, environ=environ)
        except SettingsError as error:  # noqa: PERF203 - a handful
            errors.append(error)
            if not _named_by(error) & environ.keys():
                return None, errors
            named |= _named_by(error)
            environ = {name: value for name, value in environ.items() if name not in named}
        else:  # without SPOOL_PATH it is for another spool
            return None if "SPOOL_PATH" in named else settings, errors


def describe(
    environ: Mapping[str, str], path: str | None, errors: list[SettingsError]
) -> Iterator[Finding]:
    """Say what is set, and what is wrong."""
    for error in errors:
        yield Finding.wrong("setting", str(error), "correct it: nothing starts with it")
    env = environment.variables(environ)
    wrong = {name for error in errors for name in _named_by(error)}
    for origin in origins(env, path):
        if origin.name in wrong:
            continue
        said = f"{origin.name}={origin.value}" if origin.name != "--path" else f"--path {path}"
        if not origin.ignored:
            yield Finding("setting", said)
        elif origin.remedy:
            yield Finding.wrong("setting", f"{origin.name}: {origin.ignored}", origin.remedy)
        else:
            yield Finding("setting", f"{said} does not count: {origin.ignored}", is_well=None)
    if path is None and "SPOOL_PATH" not in env:
        yield Finding(
            "setting", "SPOOL_PATH is not set: this user's own spool counts", is_well=None
        )
    rest = ", ".join(f"{name}={value}" for name, value in defaults(env).items())
    yield Finding("defaults", rest or "none: all is set")


def _named_by(error: SettingsError) -> set[str]:
    """Give the variables that an error names, which it does first."""
    return set(re.findall(r"[A-Z][A-Z0-9_]+", str(error).partition(":")[0].partition("=")[0]))
