"""The surroundings: what is installed beside the spool, and whether that uses it.

What an application has in its own environment is not seen from here: the same is to be set, and the
same Python asked. Versions are those of the README's roads.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from spool.commands.checks.finding import Finding
from spool.commands.zero_code import what_is_missing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_OPENTELEMETRY: Final = (1, 30)
_LITELLM: Final = (1, 82)
_LITELLM_V2: Final = (1, 88)
_PROXY: Final = (1, 94)
_HOOKS: Final = (1, 83)
# Of LiteLLM: what names its proxy's config.yaml to its workers, and what they run as they start.
_CONFIGS: Final = "CONFIG_FILE_PATH"
_HOOK: Final = "LITELLM_WORKER_STARTUP_HOOKS"
_INSTALL: Final = "spool.litellm:install"


def look_around(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Say what is installed, and whether it uses the spool."""
    yield _opentelemetry()
    yield from _litellm(environ)
    if missing := what_is_missing():
        words, _, remedy = missing.partition(": ")
        yield Finding.wrong("zero-code", words, remedy)


def _opentelemetry() -> Finding:
    version = importlib.metadata.version("opentelemetry-sdk")
    words = f"{version}, on Python {sys.version.split()[0]}"
    if _numbers(version) < _OPENTELEMETRY:
        return Finding.wrong("opentelemetry", words, f"take {_text(_OPENTELEMETRY)} or newer")
    return Finding("opentelemetry", words)


def _litellm(environ: Mapping[str, str]) -> Iterator[Finding]:
    try:
        version = importlib.metadata.version("litellm")
    except importlib.metadata.PackageNotFoundError:
        yield Finding("litellm", "not installed for this Python", is_well=None)
        return
    is_v2 = environ.get("LITELLM_OTEL_V2", "").strip().lower() in {"1", "true", "yes", "on"}
    oldest = _LITELLM_V2 if is_v2 else _LITELLM
    words = f"{version}, {'v2 (LITELLM_OTEL_V2 is set)' if is_v2 else 'v1'}"
    if _numbers(version) < oldest:
        yield Finding.wrong("litellm", words, f"take litellm {_text(oldest)} or newer")
        return
    yield Finding("litellm", words)
    yield _hooked(environ, _numbers(version))


def _hooked(environ: Mapping[str, str], version: tuple[int, ...]) -> Finding:
    """Say how LiteLLM is told of the spool, as far as the environment shows that."""
    hook, config = environ.get(_HOOK, ""), environ.get(_CONFIGS, "")
    if _INSTALL in re.split(r"[,\s]+", hook):
        if version < _HOOKS:
            words = f"{_HOOK} names the spool, but litellm before {_text(_HOOKS)} reads no hooks"
            return Finding.wrong("litellm hook", words, f"take litellm {_text(_PROXY)} or newer")
        return Finding("litellm hook", f"{_HOOK} names the spool")
    if "spool" in hook:
        return Finding.wrong("litellm hook", f"{_HOOK}={hook}", f"it must name {_INSTALL}")
    if config:
        return _hooked_by(Path(config))
    words = (
        "nothing in this environment names the spool; in code litellm.callbacks does, which is not "
        f"seen from here; for a proxy set {_HOOK}={_INSTALL}"
    )
    return Finding("litellm hook", words, is_well=None)


def _hooked_by(config: Path) -> Finding:
    try:
        text = config.read_text(errors="replace")
    except OSError as error:
        words = f"{_CONFIGS}={config}: {error.strerror}"
        return Finding.wrong("litellm hook", words, "correct the path, or its rights")
    lines = [line.partition("#")[0] for line in text.splitlines()]
    if any(re.search(r"\bspool(ed)?(\.litellm)?\.handler\b", line) for line in lines):
        return Finding("litellm hook", f"{config} has the spool's callback")
    remedy = f'write callbacks: ["spool.litellm.handler"] there, or set {_HOOK}={_INSTALL}'
    return Finding.wrong("litellm hook", f"{config} does not name the spool", remedy)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:2]))


def _text(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
