from __future__ import annotations

import re

import pytest

from sabotages import SABOTAGES, SOURCE, TESTS, Sabotage

pytestmark = pytest.mark.once


@pytest.mark.parametrize("broken", SABOTAGES, ids=lambda broken: broken.name)
def test_there_is_still_one_place_to_break(broken: Sabotage) -> None:
    text = (SOURCE / "spool" / broken.module).read_text()
    assert broken.broken_text(text) != text
    for name in broken.tests.split():
        file, _, test = name.partition("::")
        assert f"def {test}" in (TESTS / file).read_text()


def test_the_table_of_sabotage_names_sabotages_and_tests_that_there_are() -> None:
    names = {one.name for one in SABOTAGES}
    source = "".join(file.read_text() for file in TESTS.rglob("test_*.py"))
    page = (TESTS / "README.md").read_text().partition("| broken on purpose |")[2]
    rows = re.findall(r"^\| (.+) \| `(\w+)` \|$", page, re.MULTILINE)
    assert rows
    for name, test in rows:
        assert name in names
        assert f"def {test}(" in source
