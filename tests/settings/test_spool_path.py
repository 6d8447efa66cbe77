from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import NoReturn

import pytest

from environments import read
from owners import as_user, only_root
from spool.errors import SettingsError
from spool.settings.settings import Settings


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/tmp/caf\udce9/spool.db", r"/tmp/caf\udce9/spool.db"),
        ("/tmp/two\nlines.db", r"/tmp/two\nlines.db"),
        ("/tmp/\x1b[31mred.db", r"/tmp/\x1b[31mred.db"),
    ],
)
def test_a_path_that_cannot_be_used_everywhere_is_refused_and_shown_harmlessly(
    path: str, shown: str
) -> None:
    for given in ({"environ": {"SPOOL_PATH": path}}, {"path": path, "environ": {}}):
        with pytest.raises(SettingsError, match="in UTF-8 without control characters") as caught:
            Settings.from_env(**given)
        assert str(caught.value).startswith(f"SPOOL_PATH={shown}: must be ")


def test_a_path_may_be_of_any_language_and_as_long_as_is_said(tmp_path: Path) -> None:
    for name in ("café spans.db", "x" * 200):
        assert read({"SPOOL_PATH": str(tmp_path / name)}).path == tmp_path / name


def test_without_a_home_and_with_an_unknown_user_spool_path_must_be_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unknown(uid: int) -> NoReturn:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    words = f"SPOOL_PATH must be set: the home directory of user {os.getuid()} is not known"
    with pytest.raises(SettingsError, match=f"^{words}$"):
        Settings.from_env(environ={})
    assert read().path == Path("/spool/file.db")


def test_a_directory_means_the_file_spool_db_in_it(tmp_path: Path) -> None:
    assert read({"SPOOL_PATH": str(tmp_path)}).path == tmp_path / "spool.db"
    assert read({"SPOOL_PATH": str(tmp_path / "x")}).path == tmp_path / "x"


def test_a_relative_path_is_made_absolute_so_that_a_chdir_does_not_move_the_spool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read({"SPOOL_PATH": "spans.db"}).path == tmp_path / "spans.db"
    assert read({"SPOOL_CREDENTIALS_FILE": "keys"}).credentials_file == tmp_path / "keys"


def test_a_tilde_is_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read({"SPOOL_PATH": "~/spans.db"}).path == tmp_path / "spans.db"


def test_the_default_path_is_in_the_users_state_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert Settings.from_env(environ={}).path == tmp_path / "xdg" / "langfuse-spool" / "spool.db"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = Settings.from_env(environ={}).path
    assert path.is_relative_to(tmp_path / "home")
    assert path.parts[-2:] == ("langfuse-spool", "spool.db")


@only_root
def test_a_file_in_a_directory_without_rights_is_no_traceback() -> None:
    directory = Path(tempfile.mkdtemp())  # tmp_path's parents are closed to others
    directory.chmod(0o700)
    file = directory / "file"
    variable = "OTEL_EXPORTER_OTLP_CERTIFICATE"
    try:
        with as_user(12345):
            # That it cannot be used is said by whoever opens it.
            assert read({"SPOOL_PATH": str(file)}).path == file
            with pytest.raises(SettingsError, match=f"^{variable}={file}: must be a file"):
                read({variable: str(file)})
    finally:
        shutil.rmtree(directory)
