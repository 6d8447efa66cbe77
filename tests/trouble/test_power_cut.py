"""A real power cut: ext4 on a loop device is shut down under a writing process, then mounted again.

The filesystem's shutdown ioctl stops all input and output at once, and leaves the journal as it is:
what no fsync had brought to the device is gone, as after a power cut. What this cannot show: a disk
that confirms a flush and has not done it.

The process says what it acknowledged and when a sync began and was done, so that no clock decides
what must be there: all that was acknowledged, where `SPOOL_SYNC_SECONDS` is 0; else what was
acknowledged before the last completed sync began, and that is what the window leaves: maintenance
begins one each interval (test_maintenance.py).

What is acknowledged while the ioctl is at work is not owed: a plain loop of pwrite and fdatasync
sometimes loses its last acknowledgement in that moment, too (3 of 60 times on Linux 6.18).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from crashes import WORKER, Found, Told, found_in
from seeds import seed
from trials import Trial
from users import environment_of

SHUTDOWN = 0x8004587D
WITHOUT_LOG_FLUSH = 2
FEW_CUTS, ALL_CUTS = 2, 20
ENDLESS = "export=1000000"


def missing() -> str:
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux"
    if shutil.which("mkfs.ext4") is None:
        return "needs mkfs.ext4 (e2fsprogs)"
    return "" if any(Path("/dev").glob("loop*")) else "needs loop devices"


pytestmark = [
    pytest.mark.trust,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]


@dataclass(frozen=True)
class Disk:
    """A filesystem of its own, in a file."""

    image: Path
    mount: Path

    def format(self) -> None:
        """Make it anew."""
        self.image.unlink(missing_ok=True)
        with self.image.open("wb") as image:
            image.truncate(64 << 20)
        subprocess.run(["mkfs.ext4", "-q", self.image], check=True)

    @contextlib.contextmanager
    def mounted(self) -> Iterator[None]:
        """Use it; nothing is written to it but by an fsync, for ten minutes."""
        options = "loop,commit=600"
        subprocess.run(["mount", "-o", options, self.image, self.mount], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", self.mount], check=True)

    def cut_power(self) -> None:
        """Stop it at once."""
        fd = os.open(self.mount, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", WITHOUT_LOG_FLUSH))
        finally:
            os.close(fd)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """Give a disk, if it can be mounted."""
    mount = tmp_path / "mount"
    mount.mkdir()
    disk = Disk(tmp_path / "image", mount)
    disk.format()
    try:
        with disk.mounted():
            return disk
    except subprocess.CalledProcessError as error:
        pytest.skip(f"needs to mount a loop device: {error}")


@pytest.fixture
def path(disk: Disk) -> Path:
    """Name a spool on it."""
    return disk.mount / "spool" / "spool.db"


@pytest.fixture(autouse=True)
def _environment(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = "http://127.0.0.1:9"  # see `serve`
    for name, value in environment_of(path, nobody).items():
        monkeypatch.setenv(name, value)


@dataclass(frozen=True)
class Cut:
    """What a process had said when the power was cut, and what was there afterwards."""

    told: Told
    owed: frozenset[str]
    found: Found

    @property
    def lost(self) -> frozenset[str]:
        """Give those that are owed, and are nowhere."""
        return self.owed - self.found.spans - self.told.delivered

    def __str__(self) -> str:
        return (
            f"{len(self.told.spooled)} acknowledged, {len(self.owed)} of them owed, "
            f"{self.found.ledger.accepted} on disk, {len(self.lost)} lost"
        )


def cut_power(disk: Disk, path: Path, steps: str, enough: Callable[[Told], bool]) -> Cut:
    """Let a process take steps on a new disk, and cut the power when it has said enough."""
    disk.format()
    told = Told()
    with disk.mounted():
        command = [sys.executable, str(WORKER), *steps.split()]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
            assert worker.stdout is not None
            for line in worker.stdout:
                told.hear(line)
                if enough(told):
                    break
            is_all_owed = os.environ["SPOOL_SYNC_SECONDS"] == "0"
            owed = frozenset(told.spooled if is_all_owed else told.synced)
            disk.cut_power()
            worker.kill()
            for line in worker.stdout:  # also what it acknowledged in the very moment
                told.hear(line)
    with disk.mounted():
        found = found_in(path)
    assert found.spans <= told.begun
    assert found.ledger.accepted <= len(told.begun)
    cut = Cut(told, owed, found)
    print(cut)
    return cut


@pytest.mark.parametrize("sync_seconds", ["0", "1"])
def test_a_power_cut_loses_nothing_that_is_older_than_the_window(
    disk: Disk,
    path: Path,
    sync_seconds: str,
    is_full: bool,
    monkeypatch: pytest.MonkeyPatch,
    report: Callable[[Trial], None],
) -> None:
    monkeypatch.setenv("SPOOL_SYNC_SECONDS", sync_seconds)
    chance = random.Random(seed())
    cuts = []
    for number in range(ALL_CUTS if is_full else FEW_CUTS):
        enough = after_syncs_of(chance.randint(0, 500), later=chance.randint(1, 100))
        serve = "serve " if number % 2 else ""
        cuts.append(cut_power(disk, path, f"{serve}export=5 await-sync {ENDLESS}", enough))
    report(row(f"power cut, SPOOL_SYNC_SECONDS={sync_seconds}", cuts))


def after_syncs_of(spans: int, later: int) -> Callable[[Told], bool]:
    """Wait until more than so many spans are synced, and so many more are acknowledged then."""
    first: list[int] = []

    def enough(told: Told) -> bool:
        if not first and len(told.synced) > spans:
            first.append(len(told.spooled))
        return bool(first) and len(told.spooled) >= first[0] + later

    return enough


def row(name: str, cuts: list[Cut]) -> Trial:
    """Give the table's row: a span counts if it must be there, or is."""
    return Trial(
        name=name,
        tried=len(cuts),
        ended=sum(max(len(cut.owed), cut.found.ledger.accepted) for cut in cuts),
        accepted=sum(cut.found.ledger.accepted for cut in cuts),
        refused=sum(cut.found.ledger.refused for cut in cuts),
        in_memory=0,
        lost=sum(len(cut.lost) for cut in cuts),
        duplicates=0,
    )


def test_a_spool_that_does_not_sync_loses_spans_by_a_power_cut(
    disk: Disk, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPOOL_SYNC_SECONDS", "0.3")
    steps = f"unsynced export=50 await-sync {ENDLESS}"
    assert cut_power(disk, path, steps, lambda told: len(told.synced) >= 50).lost
