"""The README's table of settings: variables, defaults and errors are the code's."""

from __future__ import annotations

import os
import re
from dataclasses import fields
from typing import Final

import pytest

from pages import README, block, quoted, table
from sources import texts
from spool.errors import SettingsError
from spool.settings import environment
from spool.settings.settings import Settings
from spool.settings.target import EU_HOST
from spool.settings.values import OTLP_RULES, SPOOL_RULES

pytestmark = pytest.mark.once


def variables_of_the_readme() -> set[str]:
    """Give the table's variables; `X_[TRACES_]Y` are two, `…_Z` begins as the one before."""
    found: set[str] = set()
    for row in table(README, "variable"):
        beginning = ""
        for name in quoted(row[0]):
            whole = name.replace("…_", beginning)
            beginning = whole[: whole.index("]") + 1] if "[" in whole else ""
            found |= {re.sub(r"\[(\w+)\]", r"\1", whole), re.sub(r"\[\w+\]", "", whole)}
    return found


def variables_of_the_code() -> set[str]:
    """Give the variables that settings read."""
    is_variable = re.compile(r"(SPOOL|LANGFUSE|REQUESTS|CURL)_[A-Z_]*[A-Z]").fullmatch
    spool = {f"SPOOL_{name.upper()}" for name in SPOOL_RULES}
    named = set(filter(is_variable, texts(environment)))
    readers = [f for name, f in vars(environment).items() if name.startswith(("_otlp", "otlp"))]
    is_suffix = re.compile(r"[A-Z]+(_[A-Z]+)*").fullmatch
    suffixes = {*OTLP_RULES} | {
        s for function in readers for s in texts(function) if is_suffix(s)
    } - named
    otlp = {f"OTEL_EXPORTER_OTLP_{x}{suffix}" for suffix in suffixes for x in ("", "TRACES_")}
    is_scheme = re.compile(r"[a-z]+").fullmatch
    proxies = {
        f"{said.upper()}_PROXY" for said in texts(environment.proxy_variables) if is_scheme(said)
    }
    return spool | named | otlp | proxies


def test_the_readmes_variables_are_those_of_the_code() -> None:
    assert variables_of_the_readme() == variables_of_the_code()


def test_every_variable_of_the_spools_own_is_a_setting() -> None:
    names = {f"SPOOL_{field.name.upper()}" for field in fields(Settings)}
    assert {v for v in variables_of_the_readme() if v.startswith("SPOOL_")} <= names


OWN: Final = [row for row in table(README, "variable") if row[0].startswith("`SPOOL_")]


@pytest.mark.parametrize("row", OWN, ids=lambda row: row[0].strip("`"))
def test_a_default_is_what_counts_where_nothing_is_set(row: list[str]) -> None:
    (variable,) = quoted(row[0])
    unset = Settings.from_env(environ={})
    if variable == "SPOOL_PATH":
        ending, *_ = quoted(row[1])
        assert str(unset.path) == f"{os.environ['XDG_STATE_HOME']}/{ending}"
    elif row[1] == "none":
        assert getattr(unset, variable.removeprefix("SPOOL_").lower()) is None
    else:
        (default,) = quoted(row[1])
        assert Settings.from_env(environ={variable: default}) == unset


def test_the_default_host_is_the_one_that_the_readme_names() -> None:
    (row,) = [row for row in table(README, "variable") if "`LANGFUSE_HOST`" in row[0]]
    assert quoted(row[1]) == [EU_HOST]
    assert quoted(row[0]) == list(environment.hosts(dict.fromkeys(quoted(row[0]), "x")))


# The credentials file is read when a route needs it: see test_credentials.
@pytest.mark.parametrize(
    "variable", sorted({row[0].strip("`") for row in OWN} - {"SPOOL_CREDENTIALS_FILE"})
)
def test_a_wrong_value_is_an_error_that_names_variable_and_value(variable: str) -> None:
    wrong = "a\nb" if variable == "SPOOL_PATH" else "wrong"
    with pytest.raises(SettingsError, match=rf"^{variable}=.*: must be "):
        Settings.from_env(environ={variable: wrong})


def test_the_quick_start_exports_settings_that_count() -> None:
    exported = re.findall(r"^export (\w+)=", block("Quick start", "sh", 0), re.MULTILINE)
    assert len(exported) == 3
    assert set(exported) <= variables_of_the_code()
