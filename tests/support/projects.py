"""Two Langfuse projects: one is the environment's, the other brings its own keys."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from spool.settings.headers import basic_auth

PROJECTS: Final = {"pk-lf-test": "sk-lf-test", "pk-lf-team": "sk-lf-team"}
OWN_KEY: Final = basic_auth("pk-lf-test", "sk-lf-test")
TEAM_KEY: Final = basic_auth("pk-lf-team", "sk-lf-team")


def credentials_file(path: Path, host: str = "") -> str:
    """Write the other's keys where `SPOOL_CREDENTIALS_FILE` may name them."""
    path.write_text(f"pk-lf-team: sk-lf-team {host}\n")
    path.chmod(0o600)
    return str(path)
