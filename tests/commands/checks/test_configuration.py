from __future__ import annotations

import pytest

from environments import KEYS
from spool.commands.checks.configuration import describe, read

pytestmark = pytest.mark.once


def test_all_that_is_wrong_is_named_and_the_rest_is_read() -> None:
    environ = {
        "SPOOL_PATH": "/spool/file.db",
        "SPOOL_MAX_BYTES": "much",
        "SPOOL_DRAIN": "perhaps",
        "LANGFUSE_PUBLIC_KEY": "pk-lf-1",
        "SPOOL_SYNC_SECONDS": "5",
    }
    settings, errors = read(environ, None)
    assert settings is not None
    assert (str(settings.path), settings.sync_seconds) == ("/spool/file.db", 5)
    assert len(errors) == 3
    lines = list(map(str, describe(environ, None, errors)))
    wrong = [line for line in lines if line.startswith("!")]
    assert len(wrong) == 3
    assert all("correct it: nothing starts with it" in line for line in wrong)
    assert sum("SPOOL_DRAIN=" in line for line in lines) == 1  # not said twice


def test_swapped_keys_are_one_thing_to_see_to_and_not_shown() -> None:
    swapped = {"LANGFUSE_PUBLIC_KEY": "sk-lf-aa", "LANGFUSE_SECRET_KEY": "pk-lf-bb"}
    environ = {"SPOOL_PATH": "/spool/file.db", **swapped}
    settings, errors = read(environ, None)
    assert settings is not None
    assert len(errors) == 1
    said = "\n".join(map(str, describe(environ, None, errors)))
    assert "swapped" in said
    assert not any(key in said for key in ("lf-aa", "lf-bb"))


def test_a_path_that_cannot_be_leaves_nothing() -> None:
    settings, errors = read({}, "/spool\n.db")
    assert settings is None
    assert "SPOOL_PATH=" in str(errors[0])


def test_where_no_path_is_set_that_is_said() -> None:
    lines = list(map(str, describe(KEYS, None, [])))
    assert any("SPOOL_PATH is not set" in line for line in lines)
    assert not any("SPOOL_PATH is not set" in line for line in describe_lines(KEYS, "/x.db"))


def describe_lines(environ: dict[str, str], path: str) -> list[str]:
    return list(map(str, describe(environ, path, [])))
