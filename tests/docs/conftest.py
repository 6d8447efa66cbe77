"""Where a reader of the pages is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from spans import batch
from spool.settings.target import Target
from spool.store.store import Store
from standin import StandIn


@pytest.fixture
def environment(
    path: Path, langfuse: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Be where a reader is: with keys and host set, a spool, and this Python on the path."""
    for name, value in {
        "SPOOL_PATH": str(path),
        "LANGFUSE_PUBLIC_KEY": "pk-lf-test",
        "LANGFUSE_SECRET_KEY": "sk-lf-test",
        "LANGFUSE_HOST": langfuse.url,
    }.items():
        monkeypatch.setenv(name, value)
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    places = [str(python.parent), str(Path(sys.executable).parent), os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(places))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def filled(environment: None, store: Store, target: Target) -> Store:
    """Hold a span for the stand-in, and one of an old key."""
    store.append(target, batch("new"), now=1_700_000_000.0)
    old = Target.langfuse("pk-lf-old", "sk-lf-old", "https://old.example")
    store.append(old, batch("old"), now=1_700_000_000.0)
    store.close()
    return store
