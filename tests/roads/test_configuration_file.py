"""The road by OpenTelemetry's configuration file: `simple:` in front of the spool, without code."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Final

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from instrumented import (
    KILLED,
    PROGRAM,
    ask,
    gunicorn,
    instrument,
    needs_configuration,
    needs_distro,
)
from ledgers import ledger_of
from manners import MANNERS
from spool import SettingsError, SpoolSpanExporter
from spool.store.records import Ledger
from standin import KEYS, StandIn
from users import spool
from waits import wait_until

pytestmark = [needs_distro, needs_configuration]

FILE: Final = """\
file_format: "1.0"
tracer_provider:
  processors:
    - simple:
        exporter:
          spool:
"""
((_, SECRET_KEY),) = KEYS.items()


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Write a file with these lines for the exporter, and name it as OpenTelemetry reads it."""

    def write(lines: str = "", file: str = FILE) -> Path:
        written = tmp_path / "otel.yaml"
        written.write_text(file + "".join(f"            {line}\n" for line in lines.splitlines()))
        monkeypatch.setenv("OTEL_CONFIG_FILE", str(written))
        # Only zero code without a file would read them.
        monkeypatch.setenv("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "*")
        return written

    return write


def exporter_of(written: Path) -> SpoolSpanExporter:
    """Make the exporter of a file, as OpenTelemetry makes it."""
    # Not installed where types are checked.
    configuration = importlib.import_module("opentelemetry.configuration")
    providers = importlib.import_module("opentelemetry.configuration._tracer_provider")
    read = configuration.load_config_file(str(written))
    provider = providers.create_tracer_provider(read.tracer_provider)
    (processor,) = provider._active_span_processor._span_processors
    assert isinstance(processor, SimpleSpanProcessor)
    assert isinstance(processor.span_exporter, SpoolSpanExporter)
    return processor.span_exporter


# Durable without a line of code


def test_a_kill_right_after_the_end_of_a_span_loses_nothing(
    environment: None, path: Path, langfuse: StandIn, configured: Callable[..., Path]
) -> None:
    configured("drain: false")
    for _ in range(3):
        assert instrument(KILLED).returncode == -signal.SIGKILL
    spool("drain")
    assert langfuse.names() == {"ended": 3}
    assert ledger_of(path) == Ledger(accepted=3, delivered=3)


def test_a_short_program_delivers(
    environment: None, path: Path, langfuse: StandIn, configured: Callable[..., Path]
) -> None:
    configured()
    done = instrument(PROGRAM)
    assert (done.returncode, done.stdout) == (0, "went on\n")
    assert langfuse.names() == {"ended": 1}
    assert ledger_of(path) == Ledger(accepted=1, delivered=1)


@pytest.mark.parametrize("options", [[], ["--preload"]], ids=["gunicorn", "preloaded"])
def test_workers_that_are_killed_leave_what_they_have_ended(
    environment: None,
    path: Path,
    langfuse: StandIn,
    tmp_path: Path,
    configured: Callable[..., Path],
    options: list[str],
) -> None:
    configured("drain: false")
    paths, workers = 0, set[int]()
    with gunicorn(tmp_path, *options) as connection:
        while len(workers) < 2:
            workers.add(ask(connection, f"/{paths}"))
            paths += 1
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        wait_until(lambda: answers_another(connection, workers))
    spool("drain")
    names = langfuse.names()
    assert names.pop("/next")
    # Not all that took over need have loaded it.
    assert names.pop("loaded") in ({1} if options else {3, 4})
    assert names == {f"/{number}": 1 for number in range(paths)}


def answers_another(connection: HTTPConnection, workers: set[int]) -> bool:
    """Say whether one has answered that took over from those who were killed."""
    with contextlib.suppress(ConnectionError):
        return ask(connection, "/next") not in workers
    return False


# The values, of YAML's types


def test_path_endpoint_headers_and_drain_are_taken(
    path: Path, configured: Callable[..., Path]
) -> None:
    with StandIn(manner=MANNERS[-1]) as receiver:
        lines = f"path: {path}\nendpoint: {receiver.endpoint}\nheaders: {{X-Team: a, api-key: k}}"
        configured(lines + "\ndrain: off")
        assert instrument(PROGRAM).stdout == "went on\n"
        assert not receiver.requests
        configured(lines)
        assert instrument(PROGRAM, SPOOL_SHUTDOWN_SECONDS="60").stdout == "went on\n"
        assert receiver.names() == {"ended": 2}
    for request in receiver.requests:
        assert (request.headers["x-team"], request.headers["api-key"]) == ("a", "k")


@pytest.mark.parametrize(
    "said",
    [
        "{X-Team: a}",
        '[{name: X-Team, value: "a"}]',
        '"X-Team=a"',
        "X-Team=${TEAM}",
        '{X-Team: "${TEAM}"}',
        "${HEADERS}",
    ],
)
def test_headers_are_a_mapping_pairs_or_text(
    environment: None,
    monkeypatch: pytest.MonkeyPatch,
    configured: Callable[..., Path],
    said: str,
) -> None:
    monkeypatch.setenv("TEAM", "a")
    monkeypatch.setenv("HEADERS", "X-Team=a")
    exporter = exporter_of(configured(f"headers: {said}"))
    assert exporter._target.headers["x-team"] == "a"
    assert exporter._target.headers["authorization"]
    exporter.shutdown()


@pytest.mark.parametrize("lines", ["path: ${NONE}\ndrain: ${NONE}", 'path: "${NONE}"', ""])
def test_what_the_file_leaves_open_comes_from_the_environment(
    environment: None, path: Path, configured: Callable[..., Path], lines: str
) -> None:
    exporter = exporter_of(configured(lines))
    assert exporter._pipeline.store.database.path == path
    exporter.shutdown()


WRONG: Final = {
    "path: 5": "path: must be text, the path of a file, not int",
    "path: [a]": "path: must be text, the path of a file, not list",
    "endpoint: true": "endpoint: must be text, a URL, not bool",
    "endpoint: collector:4318": "endpoint=collector:4318: must be a URL such as",
    'drain: "off"': "drain: must be true or false, without quotes, not str",
    "drain: 0": "drain: must be true or false, without quotes, not int",
    "headers: 5": "headers: must be a mapping of names to values",
    "headers: Bearer s3cret": "headers: must be a mapping of names to values",
    "headers: {api-key: 5}": "headers: the value of header 'api-key' must be text; put it in quot",
    "headers:\n  api-key: ${NONE}": "headers: the value of header 'api-key' has no value",
    "settings: {path: a}": "settings: must be a spool.Settings, which no file can give",
}


@pytest.mark.parametrize("lines", WRONG)
def test_a_wrong_value_is_an_error_that_names_its_key(
    environment: None, configured: Callable[..., Path], lines: str
) -> None:
    with pytest.raises(SettingsError) as raised:
        exporter_of(configured(lines))
    assert str(raised.value).startswith(WRONG[lines])
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('drain: "off"', "drain: must be true or false, without quotes, not str"),
        ("drian: off", "unexpected keyword argument 'drian'"),
    ],
)
def test_a_wrong_file_is_said_and_the_program_goes_on(
    environment: None, configured: Callable[..., Path], lines: str, words: str
) -> None:
    configured(lines)
    done = instrument(PROGRAM)
    assert words in done.stderr
    assert SECRET_KEY not in done.stderr
    assert (done.returncode, done.stdout) == (0, "went on\n")


# What else the file says


RESOURCE: Final = """\
disabled: ${OTEL_SDK_DISABLED:-false}
resource:
  attributes_list: ${OTEL_RESOURCE_ATTRIBUTES}
  attributes: [{name: service.name, value: "${OTEL_SERVICE_NAME:-app}"}]
"""


def test_service_and_resource_can_come_from_opentelemetrys_variables(
    environment: None, langfuse: StandIn, configured: Callable[..., Path]
) -> None:
    configured(file=FILE + RESOURCE)
    variables = {"OTEL_SERVICE_NAME": "shop", "OTEL_RESOURCE_ATTRIBUTES": "team=a%20b"}
    instrument(PROGRAM, **variables)
    instrument(PROGRAM, **variables, OTEL_SDK_DISABLED="true")
    (resource,) = langfuse.resource_spans
    said = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert (said["service.name"], said["team"]) == ("shop", "a b")


@pytest.mark.parametrize(
    ("part", "code"),
    [("  sampler: {always_off: }\n", 0), ("disabled: true\n", 2)],  # 2: no spool is made at all
    ids=["sampler", "disabled"],
)
def test_a_program_that_is_not_to_be_traced_spools_nothing(
    environment: None, langfuse: StandIn, configured: Callable[..., Path], part: str, code: int
) -> None:
    configured(file=FILE + part)
    assert instrument(PROGRAM).stdout == "went on\n"
    spool("drain", code=code)
    assert not langfuse.requests
