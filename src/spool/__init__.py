"""A durable, disk-buffered OpenTelemetry span exporter for unreliable networks."""

# First, as modules below ask for it. A zip or a frozen program has no metadata that would say it.
__version__ = "0.1.0"

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
