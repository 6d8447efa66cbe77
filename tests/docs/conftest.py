"""Where a reader of the pages is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pages import ROOT
from spans import batch
from spool.settings.target import Target
from spool.store.store import Store
from standin import StandIn

PYTHON = Path(sys.executable)
ENVIRONMENTS = f"""
find_python() {{ [ "$1" = 3.11 ] && echo {PYTHON}; }}
first_python() {{ echo {PYTHON}; }}
make_environment() {{
    mkdir -p "$1/bin"
    printf '#!/bin/sh\n[ "$2" != pip ] && exec {PYTHON} "$@"\n' >"$1/bin/python"
    chmod +x "$1/bin/python"
    ln -sf {PYTHON.parent}/ruff {PYTHON.parent}/lint-imports "$1/bin"
    ln -sf "$(type -P true)" "$1/bin/mypy"
}}
"""


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the clone. There each environment is this one and takes no time; mypy rests."""
    copy = tmp_path_factory.mktemp("copy") / "clone"
    shutil.copytree(
        ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv*", ".*_cache", "__pycache__")
    )
    environment = copy / "scripts" / "environment"
    environment.write_text(environment.read_text() + ENVIRONMENTS)
    make = ". scripts/environment; make_environment .venv-3.11"
    subprocess.run(["bash", "-ec", make], cwd=copy, check=True)
    return copy


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
    python.write_text(f'#!/bin/sh\nexec "{PYTHON}" "$@"\n')
    python.chmod(0o755)
    places = [str(python.parent), str(PYTHON.parent), os.environ["PATH"]]
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
