"""What an environment's variables mean, as settings and as their target."""

from __future__ import annotations

from base64 import b64encode

from spool.settings.settings import Settings
from spool.settings.target import Target

KEYS = {"LANGFUSE_PUBLIC_KEY": "pk-lf-1", "LANGFUSE_SECRET_KEY": "sk-lf-1"}
TRACES = "/api/public/otel/v1/traces"


def basic(text: str) -> str:
    return "Basic " + b64encode(text.encode()).decode()


def read(environ: dict[str, str] | None = None) -> Settings:
    return Settings.from_env(environ={"SPOOL_PATH": "/spool/file.db", **(environ or {})})


def target(environ: dict[str, str]) -> Target:
    return read(environ).require_target()
