"""A durable, disk-buffered OpenTelemetry span exporter for unreliable networks.

The way of a span:

    it ends → exporter → otlp: its bytes → journal: one write, and the application goes on
                                           ├→ delivery: one POST → settled   while its route is well
                                           └→ store: a row, that waits → delivery → settled

A line a package; an import only points down this list:

- `__main__`, `litellm`, `litellm_v2`, `litellm_projects`, `exporter`, `litellm_worker`:
  the roads in.
- `commands`: what a person calls.
- `report`: what a person should know of a spool.
- `pipeline`: what the exporters of one process share for one file.
- `delivery`: from the spool to a receiver. What was delivered leaves.
- `store`: spans that wait, as rows of one SQLite file.
- `journal`: where a span is on disk as it ends, in its process's own file.
- `otlp`: spans as bytes, and requests made of them.
- `settings`: what is configured, whose secrets there are, and where they may go.
- `system`: files, locks, forks, threads and the log.
- `errors`: what is raised. `__about__`: the version.
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
