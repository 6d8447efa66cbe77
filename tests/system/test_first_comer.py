from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from spool.system import first_comer, spool_files
from spool.system.first_comer import FirstComer

pytestmark = pytest.mark.once


@pytest.fixture
def new(tmp_path: Path) -> Callable[[], FirstComer]:
    """Make one more that would like to be it, as another process would."""
    spool = tmp_path / "spool.db"
    spool.touch(0o600)
    path = spool_files.beside(spool, ".reporter")
    return lambda: FirstComer(path, lambda created: spool_files.create(created, spool))


def test_who_asks_first_is_it_until_that_is_given_up(new: Callable[[], FirstComer]) -> None:
    first, second = new(), new()
    assert first.is_us()
    assert not second.is_us()
    assert first.is_us()
    first.close()
    assert second.is_us()
    assert not first.is_us()


def test_whoever_removes_the_file_makes_another_one_possible(
    new: Callable[[], FirstComer],
) -> None:
    first, second = new(), new()
    assert first.is_us()
    first.path.unlink()
    assert second.is_us()
    assert not first.is_us()


def test_a_child_of_a_fork_is_not_it_and_does_not_end_its_parents_turn(
    new: Callable[[], FirstComer],
) -> None:
    first, second = new(), new()
    assert first.is_us()
    child = os.fork()
    if child == 0:
        is_it = first.is_us()
        first.close()
        os._exit(is_it)
    assert os.waitpid(child, 0)[1] == 0
    assert not second.is_us()


def test_the_death_of_its_process_lets_the_next_one_be_it(new: Callable[[], FirstComer]) -> None:
    ready, told = os.pipe()
    wait, over = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(over)
        os.write(told, b"%d" % new().is_us())
        os.read(wait, 1)
        os._exit(0)
    os.close(wait)
    second = new()
    assert os.read(ready, 1) == b"1"
    assert not second.is_us()
    os.close(over)
    os.waitpid(child, 0)
    assert second.is_us()


def test_who_has_not_asked_for_long_is_it_no_longer(new: Callable[[], FirstComer]) -> None:
    first, second = new(), new()
    assert first.is_us()
    long_ago = time.time() - first_comer.LAPSE_SECONDS - 1
    os.utime(first.path, (long_ago, long_ago))
    assert first.is_us()  # who asks in time stays it
    assert not second.is_us()
    assert not second.is_us()
    os.utime(first.path, (long_ago, long_ago))
    assert not second.is_us()
    assert second.is_us()
    assert not first.is_us()


def test_it_keeps_one_descriptor_and_who_is_not_it_none(new: Callable[[], FirstComer]) -> None:
    first, second = new(), new()
    before = len(list(Path("/dev/fd").iterdir()))
    for _ in range(10):
        first.is_us()
        second.is_us()
    assert len(list(Path("/dev/fd").iterdir())) == before + 1
