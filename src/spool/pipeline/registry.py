"""The registry: which spools this process has open, who joins and leaves them, and its exit.

Invariants:

- There is one pipeline for a file, whatever its exporters call it.
- Who joins an open spool waits for nobody.
- What nobody has shut down ends at the exit. What was refused after an end is counted then.
- A child of a fork has its parent's pipelines open; each starts over at its first use.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from spool.pipeline import pipeline
from spool.pipeline.pipeline import Pipeline
from spool.system import exits
from spool.system.forks import PerProcess

if TYPE_CHECKING:
    from pathlib import Path

    from spool.settings.settings import Settings
    from spool.settings.target import Target

_open_pipelines: Final[dict[Path, Pipeline]] = {}
# Of those that open and close: another thread of the parent may have held it at a fork.
_lock: Final = PerProcess(threading.RLock, lambda _: None)


def open_pipeline(settings: Settings, target: Target) -> tuple[Pipeline, Target]:
    """Join the spool that this process has open at the path, or open it; end with `release`.

    Gives the target as it is named there.

    Raises SpoolFileError where it is not ours, or not for us. What the disk refuses for now is no
    reason: then what ends is held in memory, and sent from there.
    """
    path = settings.path.parent.resolve() / settings.path.name
    with _lock.get():
        opened = _open_pipelines.get(path)
        is_first = opened is None
        if opened is None:
            opened = _open_pipelines[path] = Pipeline(path, settings)
        target = opened.join(settings, target)
    if is_first:
        try:
            opened.prepare(target)
            opened.start_threads()
        except BaseException:
            release(opened)
            raise
    else:
        opened.record(target)
    return opened, target


def release(opened: Pipeline) -> None:
    """Take a user off; the last one ends the threads and closes the file. Raises SpoolError."""
    with _lock.get():
        if not opened.leave():
            return
        _open_pipelines.pop(opened.path, None)
    opened.stop()


def _end_all() -> None:
    """End what nobody has shut down; count what was refused late."""
    for one in list(_open_pipelines.values()):
        one.stop_safely()
    for one in list(pipeline.late):
        one.count_late()


exits.register(_end_all)
