"""Being another user, which only root can."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

STRANGER = 12345

only_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can give files away and become another user"
)


@contextlib.contextmanager
def as_user(uid: int) -> Iterator[None]:
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
