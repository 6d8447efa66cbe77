"""Disks that refuse: full ones, small ones, and files that may not grow."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


def can_mount() -> bool:
    return sys.platform == "linux" and os.geteuid() == 0


@contextlib.contextmanager
def small_disk(directory: Path, size: int) -> Iterator[None]:
    """Mount a tmpfs of so many bytes. Only for root."""
    directory.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", directory], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", directory], check=True)


def enlarge_disk(directory: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", directory], check=True)


def fill_disk(ballast: Path) -> None:
    """Take all the space that is left."""
    with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * size)


@contextlib.contextmanager
def no_room() -> Iterator[None]:
    """Let no file of this process grow, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """Make a directory read-only, as a failing disk becomes. Only for root."""
    make_read_only(directory, is_read_only=True)
    try:
        yield
    finally:
        make_read_only(directory, is_read_only=False)


def make_read_only(directory: Path, *, is_read_only: bool) -> None:
    """Bind the directory onto itself, read-only, or take that away again."""
    aside = directory.with_name("read-only")  # where nobody has a file open
    aside.mkdir(exist_ok=True)
    if is_read_only:
        subprocess.run(["mount", "--bind", directory, aside], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", aside], check=True)
        subprocess.run(["mount", "--bind", aside, directory], check=True)
    else:
        for mounted in (directory, aside):  # lazily: a reader may be in there
            subprocess.run(["umount", "-l", mounted], check=True)
