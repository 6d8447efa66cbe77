from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from drains import Clock, NewDrainer, drainer_of, end
from spool.delivery.drainer import Drainer
from spool.settings.settings import Settings
from spool.settings.target import Target
from spool.store.store import Store


@pytest.fixture
def new_drainer(store: Store, settings: Settings, target: Target, clock: Clock) -> NewDrainer:
    """Make drainers that know only what the file tells, as after a restart.

    Each for the stand-in or another target, with the test's settings and changes of them by name.
    """

    def make(where: Target = target, **changes: Any) -> Drainer:
        return drainer_of(store, replace(settings, **changes), where, clock)

    return make


@pytest.fixture
def fresh(store: Store, target: Target, new_drainer: NewDrainer) -> Drainer:
    """Drain a spool whose journal holds three spans."""
    store.register(target)
    end(store, target, "a", "b", "c")
    return new_drainer()


@pytest.fixture
def peer(path: Path) -> Iterator[Store]:
    """Use the spool as another process does."""
    peer = Store(path)
    yield peer
    peer.close()
