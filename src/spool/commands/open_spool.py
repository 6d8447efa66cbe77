"""The spool that a command works on, as option and environment name it; none is created here."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from spool.commands.output import say
from spool.commands.zero_code import what_is_missing
from spool.delivery.drainer import Drainer
from spool.settings.settings import Settings
from spool.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

ENDING_SECONDS: Final = 5.0  # the longest that a command waits for a thread of its own to end


class OpenSpool:
    """The spool that a command works on."""

    def __init__(self, path: str | None) -> None:
        self.settings = Settings.from_env(path=path)
        self.store = Store(self.settings.path, self.settings.durability)
        self.drainer = Drainer(self.store, self.settings)
        if self.settings.target is not None:
            self.drainer.routes.add(self.settings.target)


@contextlib.contextmanager
def existing(path: str | None) -> Iterator[OpenSpool | None]:
    """Open a spool for a command; None where there is none yet, which is said and is well."""
    spool = OpenSpool(path)
    if not spool.store.exists():
        say(f"no spool yet at {spool.settings.path}", err=True)
        if missing := what_is_missing():
            say(missing, err=True)
        yield None
        return
    try:
        yield spool
    finally:
        spool.store.close()
