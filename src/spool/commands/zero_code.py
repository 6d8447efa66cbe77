"""The zero-code road as a command sees it: without a distro OpenTelemetry ignores it, silently."""

from __future__ import annotations

import importlib.metadata
import os


def what_is_missing() -> str | None:
    """Say what the environment asks for in vain, and what to do; None where all is there.

    `opentelemetry-instrument` comes with any instrumentation, but what reads these variables is an
    entry point that only a distro brings.
    """
    exporters = os.environ.get("OTEL_TRACES_EXPORTER", "").split(",")
    if os.environ.get("OTEL_CONFIG_FILE"):
        asked = "OTEL_CONFIG_FILE is set"
    elif "spool" in map(str.strip, exporters):
        asked = "OTEL_TRACES_EXPORTER names the spool"
    else:
        return None
    if importlib.metadata.entry_points(group="opentelemetry_configurator"):
        return None
    return f"{asked}, but nothing here reads it: pip install opentelemetry-distro"
