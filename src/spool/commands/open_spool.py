"""The spool that a command works on, as option and environment name it.

None is created here, unless spans wait for it in journals: then only its main file was taken away.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Final, TypeVar

from spool.commands.output import say
from spool.commands.zero_code import what_is_missing
from spool.delivery.drainer import Drainer
from spool.errors import SpoolDamagedError
from spool.journal import directory
from spool.settings.settings import Settings
from spool.store.store import Store
from spool.system import location

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from spool.store.drainers import Kind

_Result = TypeVar("_Result")

ENDING_SECONDS: Final = 5.0  # the longest that a command waits for a thread of its own to end


class OpenSpool:
    """The spool that a command works on."""

    def __init__(self, path: str | None, kind: Kind = "drain") -> None:
        self.settings = Settings.from_env(path=path)
        self.store = Store(self.settings.path, self.settings.durability)
        self.drainer = Drainer(self.store, self.settings)
        self.drainer.presence.kind = kind
        if self.settings.target is not None:
            self.drainer.routes.add(self.settings.target)

    def salvaging(self, work: Callable[[], _Result]) -> _Result:
        """Do something; where the file proves damaged, salvage it and do that again.

        Raises SpoolError.
        """
        try:
            return work()
        except SpoolDamagedError:
            self.store.database.repair()
            return work()


@contextlib.contextmanager
def existing(path: str | None) -> Iterator[OpenSpool | None]:
    """Open a spool for a command; None where there is none, which is said, and is not well.

    Then what the command does within is its last: it exits, with 2 where the path was given, for it
    is wrong, and with 1 where the default one was meant.
    """
    spool = OpenSpool(path)
    if not _exists(spool):
        is_given = bool(path or os.environ.get("SPOOL_PATH", "").strip())
        cure = "" if is_given else "; is SPOOL_PATH, which is not set, to name another?"
        say(f"no spool yet at {spool.settings.path}{cure}", err=True)
        with spool.store.database.file_errors():
            found = location.obstacle(spool.settings.path)
        if found:
            say(f"none can be made there: {found[0]}; {found[1]}", err=True)
        if missing := what_is_missing():
            say(missing, err=True)
        yield None
        sys.exit(2 if is_given else 1)
    try:
        yield spool
    finally:
        spool.store.close()


def _exists(spool: OpenSpool) -> bool:
    """Say whether there is a spool; where there are only journals, make what takes them in."""
    with spool.store.database.file_errors():
        if not spool.store.exists() and directory.paths(spool.settings.path):
            spool.store.open()
    return spool.store.exists()
