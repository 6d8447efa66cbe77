"""A durable, disk-buffered OpenTelemetry span exporter for unreliable networks.

The way of a span, and a line a package; an import only points down this list:

- `exporter`, `litellm`, `__main__`: the roads in. `commands`: what a person calls.
- `pipeline`: what the exporters of one process share for one file.
- `delivery`: from the spool to a receiver. What was delivered leaves.
- `store`: spans that wait, as rows of one SQLite file.
- `journal`: where a span is on disk as it ends, in its process's own file.
- `otlp`: spans as bytes. `settings`: what is configured. `system`: files, locks, forks, the log.
- `errors`: what is raised.
"""

from spool.__about__ import __version__
from spool.errors import SettingsError, SpoolBusyError, SpoolError, SpoolFileError
from spool.exporter import SpoolSpanExporter
from spool.settings.settings import Settings

__all__ = [
    "Settings",
    "SettingsError",
    "SpoolBusyError",
    "SpoolError",
    "SpoolFileError",
    "SpoolSpanExporter",
    "__version__",
]
