from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from spool.commands.checks.finding import Finding
from spool.commands.checks.surroundings import look_around

pytestmark = pytest.mark.once

HOOK = "LITELLM_WORKER_STARTUP_HOOKS"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Say which versions are installed."""
    versions = {"opentelemetry-sdk": "1.45.0", "litellm": "1.108.7"}

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    return versions


def look(**environ: str) -> dict[str, Finding]:
    return {finding.name: finding for finding in look_around(environ)}


def test_without_litellm_there_is_nothing_to_judge(installed: dict[str, str]) -> None:
    del installed["litellm"]
    found = look()
    assert found["litellm"].is_well is None
    assert "litellm hook" not in found


@pytest.mark.parametrize(
    ("version", "v2", "words", "is_well"),
    [
        ("1.108.7", "", "1.108.7, v1", True),
        ("1.108.7", "true", "1.108.7, v2 (LITELLM_OTEL_V2 is set)", True),
        ("1.82.0", "", "1.82.0, v1", True),
        ("1.82.0", "true", "1.82.0, v2", False),
        ("1.79.3", "", "1.79.3, v1", False),
        ("1.82.0rc1", "false", "1.82.0rc1, v1", True),
    ],
)
def test_litellms_version_is_judged(
    installed: dict[str, str], version: str, v2: str, words: str, is_well: bool
) -> None:
    installed["litellm"] = version
    found = look(LITELLM_OTEL_V2=v2)["litellm"]
    assert found.is_well is is_well
    assert words in found.words


@pytest.mark.parametrize(
    ("hook", "is_well"),
    [("spool.litellm:install", True), ("a:b, spool.litellm:install", True), ("spool:go", False)],
)
def test_a_proxys_hook_is_judged(installed: dict[str, str], hook: str, is_well: bool) -> None:
    assert look(**{HOOK: hook})["litellm hook"].is_well is is_well


def test_a_hook_that_litellm_is_too_old_for_is_minded(installed: dict[str, str]) -> None:
    installed["litellm"] = "1.82.3"
    assert look(**{HOOK: "spool.litellm:install"})["litellm hook"].is_well is False


@pytest.mark.parametrize(
    ("text", "is_well"),
    [
        ('litellm_settings:\n  callbacks: ["spool.litellm.handler"]\n', True),
        ('litellm_settings:\n  callbacks: ["spooled.handler"]\n', True),
        ('litellm_settings:\n  callbacks: ["langfuse_otel"]  # not spool.litellm.handler\n', False),
    ],
)
def test_a_proxys_configuration_is_judged(
    installed: dict[str, str], text: str, is_well: bool, tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(text)
    assert look(CONFIG_FILE_PATH=str(config))["litellm hook"].is_well is is_well


def test_a_configuration_that_is_not_there_is_said(installed: dict[str, str]) -> None:
    found = look(CONFIG_FILE_PATH="/nowhere/config.yaml")["litellm hook"]
    assert found.words == "CONFIG_FILE_PATH=/nowhere/config.yaml: No such file or directory"


def test_an_opentelemetry_that_is_too_old_is_minded(installed: dict[str, str]) -> None:
    installed["opentelemetry-sdk"] = "1.29.0"
    assert look()["opentelemetry"].is_well is False


def test_the_road_without_code_needs_a_distro(
    installed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "spool")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: ())
    found = look()["zero-code"]
    assert found.is_well is False
    assert found.remedy == "pip install opentelemetry-distro"
