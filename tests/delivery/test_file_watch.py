from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from drains import Clock
from spans import batch
from spool.delivery.client import Client
from spool.delivery.file_watch import FileWatch
from spool.delivery.routes import Routes
from spool.settings.settings import Settings
from spool.settings.target import Target
from spool.store.store import Store

pytestmark = pytest.mark.once

AN_HOUR = 3600.0


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    file = tmp_path / "credentials"
    file.touch(0o600)
    return file


@pytest.fixture
def watch(store: Store, settings: Settings, credentials: Path, clock: Clock) -> FileWatch:
    """Watch a spool in which there is nothing to do for an hour."""
    store.open()
    settings = replace(settings, credentials_file=credentials)
    routes = Routes(store, settings, Client(settings, clock), clock)
    watch = FileWatch(store, routes)
    watch.begin()
    watch.rest(AN_HOUR)
    return watch


@pytest.fixture
def peer(path: Path) -> Iterator[Store]:
    """Use the spool as another process does."""
    peer = Store(path)
    yield peer
    peer.close()


def test_while_nothing_changes_there_is_nothing_to_look_at(watch: FileWatch) -> None:
    assert not watch.is_over()


def test_what_another_process_writes_is_noticed(
    watch: FileWatch, peer: Store, target: Target
) -> None:
    peer.append(target, batch("theirs"), 1.0)
    assert watch.is_over()


def test_what_this_process_writes_is_noticed(
    watch: FileWatch, store: Store, target: Target
) -> None:
    store.append(target, batch("mine"), 1.0)
    assert watch.is_over()


def test_a_secret_that_is_brought_is_noticed(watch: FileWatch, credentials: Path) -> None:
    credentials.write_text("pk-lf-mine: sk-lf-mine\n")
    assert watch.is_over()


def test_a_file_that_is_replaced_is_noticed(watch: FileWatch, path: Path, peer: Store) -> None:
    path.rename(path.with_name("aside.db"))
    peer.open()
    assert watch.is_over()


def test_a_file_that_cannot_be_read_is_looked_at(watch: FileWatch, path: Path) -> None:
    path.unlink()
    assert watch.is_over()


def test_when_the_time_has_come_it_is_over(watch: FileWatch) -> None:
    watch.rest(0.0)
    assert watch.is_over()


def test_the_wall_clock_may_jump_so_no_rest_lasts_for_ever(
    watch: FileWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spool.delivery.file_watch._LONGEST", 0.0)
    watch.rest(AN_HOUR)
    assert watch.is_over()
