"""A durable, disk-buffered OpenTelemetry span exporter for unreliable networks."""

from spool.errors import SettingsError, SpoolBusyError, SpoolError, SpoolFileError
from spool.exporter import SpoolSpanExporter
from spool.settings import Settings

__all__ = [
    "Settings",
    "SettingsError",
    "SpoolBusyError",
    "SpoolError",
    "SpoolFileError",
    "SpoolSpanExporter",
]
