"""Where the spool file is: the path that is set, or one in the user's state directory."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Final

from spool.errors import SettingsError

# Room for what the other files are called, and for what SQLite takes (its own limit is 512).
_LONGEST_NAME: Final = 200
_LONGEST_PATH: Final = 470
_NAME: Final = "spool.db"

ALLOWED: Final = (
    f"a file, or a directory to hold {_NAME}; in UTF-8 without control characters, "
    f"{_LONGEST_NAME} bytes for its name and {_LONGEST_PATH} in all at most"
)


def spool_file(given: str | Path) -> Path:
    """Give the spool file that a path names: itself, or one in that directory.

    Raises RuntimeError for the home of a user who is none, OSError for a working directory that is
    gone.
    """
    path = Path(given).expanduser().absolute()
    # os.path: Path.is_dir raises where a directory above may not be searched.
    return path / _NAME if os.path.isdir(path) else path  # noqa: PTH112 - as above


def default_spool_file() -> Path:
    """Give the one in the user's state directory. Raises SettingsError where there is none."""
    import platformdirs  # noqa: PLC0415 - only where SPOOL_PATH is not set

    with contextlib.suppress(RuntimeError, KeyError):  # nobody knows this user
        directory = platformdirs.user_state_path("langfuse-spool")
        if directory.is_absolute():
            return directory / _NAME
    raise SettingsError(
        f"SPOOL_PATH must be set: the home directory of user {os.getuid()} is not known"
    )


def is_nameable(path: Path) -> bool:
    """Say whether a spool may be called so: SQLite and people must be able to name its files."""
    try:
        name, whole = path.name.encode(), str(path).encode()
    except UnicodeEncodeError:
        return False
    is_short = 0 < len(name) <= _LONGEST_NAME and len(whole) <= _LONGEST_PATH
    return is_short and not re.search(r"[\x00-\x1f\x7f-\x9f]", str(path))
