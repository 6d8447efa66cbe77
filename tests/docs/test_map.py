"""The map: every module stands in its package's docstring and in the page for developers, once."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

import pytest

from pages import CONTRIBUTING, ROOT, quoted, table

pytestmark = pytest.mark.once

SOURCE: Final = ROOT / "src" / "spool"
TESTS: Final = ROOT / "tests"
PACKAGES: Final = sorted(found.parent for found in SOURCE.rglob("*/__init__.py"))
ROWS: Final = {ROOT / quoted(row[0])[0]: quoted(row[2]) for row in table(CONTRIBUTING, "package")}
FILES: Final = sorted(SOURCE.rglob("*.py"))
MOST_LINES: Final = 350
LONGER: Final = {"otlp/encoder.py"}  # one protocol fills it
# They are about several modules of their package.
OF_SEVERAL: Final = {"pipeline/test_flush.py", "store/test_model.py", "store/test_query_plans.py"}


def name_of(package: Path) -> str:
    return str(package.relative_to(SOURCE))


def things_in(package: Path) -> set[str]:
    """Give the modules and packages that stand in a package."""
    modules = {found.stem for found in package.glob("*.py")} - {"__init__"}
    return modules | {found.parent.name for found in package.glob("*/__init__.py")}


def introduced(package: Path, list_begins: str) -> list[str]:
    """Give what a package's docstring introduces (`this`: or `this`, `that`:), in its order."""
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    found, _, listed = docstring.partition(list_begins)
    assert listed, f"{found} has no list that begins with {list_begins}"
    groups = re.findall(r"(?:`\w+`,?\s+)*`\w+`:", listed.strip().partition("\n\n")[0])
    return re.findall(r"\w+", " ".join(groups))


@pytest.mark.parametrize("package", PACKAGES, ids=name_of)
def test_a_package_introduces_each_of_its_files_once(package: Path) -> None:
    assert sorted(introduced(package, "reading order:")) == sorted(things_in(package))


def test_the_whole_introduces_its_packages_in_the_order_of_the_layers() -> None:
    (layers,) = re.findall(
        r"^layers = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL
    )
    order = [re.findall(r"\w+", layer) for layer in layers.splitlines()]
    rank = {name: number for number, names in enumerate(order) for name in names}
    named = introduced(SOURCE, "this list:")
    assert sorted(named) == sorted(things_in(SOURCE)) == sorted(rank)
    assert [rank[name] for name in named] == sorted(rank.values())


def test_the_page_has_each_package_with_its_files_in_their_order() -> None:
    assert set(ROWS) == {SOURCE, *PACKAGES}
    assert {file.removesuffix(".py") for file in ROWS[SOURCE]} | {
        package.name for package in PACKAGES if package.parent == SOURCE
    } == things_in(SOURCE)
    for package in PACKAGES:
        named = [file.removesuffix(".py").strip("/") for file in ROWS[package]]
        assert named == introduced(package, "reading order:"), name_of(package)
        for file in ROWS[package]:
            assert (package / file).exists()


def test_a_modules_tests_stand_where_it_does() -> None:
    for package in PACKAGES:
        for test in (TESTS / package.relative_to(SOURCE)).glob("test_*.py"):
            subject = test.stem.removeprefix("test_") + "_"
            is_of_one = any(subject.startswith(f"{one}_") for one in things_in(package))
            assert is_of_one or str(test.relative_to(TESTS)) in OF_SEVERAL, test


def test_no_name_stands_for_two_files_of_tests() -> None:
    names = [file.name for file in TESTS.rglob("*.py") if file.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))


def test_no_module_is_longer_than_can_be_kept_in_mind() -> None:
    lines = {str(file.relative_to(SOURCE)): len(file.read_text().splitlines()) for file in FILES}
    assert {name for name, count in lines.items() if count > MOST_LINES} <= LONGER


def test_a_package_hands_nothing_on() -> None:
    for package in PACKAGES:
        (docstring,) = ast.parse((package / "__init__.py").read_text()).body
        assert isinstance(docstring, ast.Expr), name_of(package)
