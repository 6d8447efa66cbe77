from __future__ import annotations

from pathlib import Path

import pytest

from owners import STRANGER, as_user, only_root
from spool.system import disk
from spool.system.spool_files import create


@only_root
def test_a_file_that_cannot_be_made_is_an_error_that_names_it(shared_directory: Path) -> None:
    shared_directory.chmod(0o755)
    path = shared_directory / "spool.db"
    with as_user(STRANGER), pytest.raises(PermissionError) as caught:
        create(path, path)
    error = disk.unusable(path, caught.value)
    assert str(error).startswith(f"{path}: cannot be used as the spool: Permission denied: {path}")
