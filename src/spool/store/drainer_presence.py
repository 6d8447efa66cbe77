"""Drainer presence: whether any process drains this spool, for others to see."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from spool.errors import SpoolFileError
from spool.system.locks import BRIEFLY, is_held

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spool.store.store import Store


@contextlib.contextmanager
def present(store: Store) -> Iterator[None]:
    """Let other processes see that this one drains, if the file lets us."""
    is_seen = False
    with contextlib.suppress(SpoolFileError):
        is_seen = store.presence.acquire(timeout=BRIEFLY)
    try:
        yield
    finally:
        if is_seen:
            store.presence.release()


def drainer(store: Store) -> tuple[bool, int | None]:
    """Say whether any process drains this spool, and the pid of who had the lock last."""
    with store.database.file_errors():
        if not is_held(store.presence.path, store.database.path):
            return False, None
        return True, store.drain_lock.pid()
