"""The pages for those who work on it: what they link to, name and count is there."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

import pytest

from pages import PAGES, README, ROOT, SCRIPTS, TESTS, quoted, table

pytestmark = pytest.mark.once

SCRIPT: Final = ROOT / "scripts" / "test"
WORKFLOW: Final = ROOT / ".github" / "workflows" / "test.yml"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_links_to_is_there(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in link:
            assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_files_that_a_page_names_are_there(page: Path) -> None:
    text = re.sub(r"^\| `src/spool/.*", "", page.read_text(), flags=re.MULTILINE)  # see test_map
    named = re.findall(r"(?<![\w/.])((?:src|tests|scripts|\.github)/[\w./-]*\w)", text)
    named += [name for name in quoted(text) if re.fullmatch(r"[a-z_/]+\.(py|toml|md)", name)]
    places = [ROOT, ROOT / "tests", ROOT / "src" / "spool"]
    for name in set(named) - {"hello.py", "spooled.py"}:  # those are the reader's
        assert any((place / name).exists() for place in places), name


def test_the_tests_run_on_the_pythons_that_the_package_names() -> None:
    project, workflow = (ROOT / "pyproject.toml").read_text(), WORKFLOW.read_text()
    named = re.findall(r'"Programming Language :: Python :: ([\d.]+)"', project)
    (tried,) = re.findall(r"^for version in ([\d. ]+); do$", SCRIPT.read_text(), re.MULTILINE)
    assert sorted(tried.split()) == sorted(named)
    assert re.findall(r"^ +(3\.\d+)$", workflow, re.MULTILINE) == named
    assert "scripts/test\n" in workflow


def test_the_workflow_installs_what_the_tests_of_trouble_need() -> None:
    text = " ".join(TESTS.read_text().split())
    (needed,) = re.findall(r"trouble need root, ([\w, ]+) \(Debian's names\)", text)
    (installed,) = re.findall(r"install -y ([\w ]+)$", WORKFLOW.read_text(), re.MULTILINE)
    assert re.split(r", | and ", needed) == installed.split()


def test_nothing_that_was_accepted_is_lost_in_the_table_of_trouble() -> None:
    rows = table(TESTS, "trouble")
    accepted, lost = (sum(int(row[i].replace(",", "")) for row in rows) for i in (3, 6))
    assert lost == 0
    assert accepted > 1_000_000, "the README says: more than a million"


def test_the_scripts_are_those_of_their_table() -> None:
    named = {row[0].strip("`") for row in table(SCRIPTS, "script")}
    there = {f for f in (ROOT / "scripts").iterdir() if f.is_file() and os.access(f, os.X_OK)}
    assert named == {f"scripts/{file.name}" for file in there}


def test_the_costs_in_the_readme_are_those_of_the_table() -> None:
    text = " ".join(README.read_text().split())
    ours = {row[0]: row[1:3] for row in table(SCRIPTS, "| ours")}
    cpu = next(cells for name, cells in ours.items() if name.startswith("CPU a span, all in"))
    end = next(cells for name, cells in ours.items() if name.startswith("`end()`, median"))
    packed = ours["drain of a packed backlog"]
    assert (
        f"{cpu[0]} of CPU a span, all in, durable at `end()`; the stock exporter in memory {cpu[1]}"
        in text
    )
    assert f"`end()` {end[0]}" in text
    assert f"at {packed[0].partition(' ')[0]} spans a second" in text


def test_what_arrives_without_us_in_an_outage_is_that_of_the_table() -> None:
    text = " ".join(README.read_text().split())
    stock = {row[0]: row[1].rpartition(", ")[2] for row in table(SCRIPTS, "endpoint")}
    assert stock.pop("healthy") == "40"
    assert set(stock.values()) == {"0"}
    assert "0 of 40 spans of LiteLLM's stock `langfuse_otel` [arrive]" in text
