"""The road without code: variables, and `opentelemetry-instrument` with a distro."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from typing import Final

import pytest

import spool
from instrumented import PROGRAM, ZERO_CODE, ask, gunicorn, instrument, is_here, needs_distro
from ledgers import ledger_of
from manners import MANNERS
from programs import run
from spool.commands.main import main
from spool.commands.zero_code import what_is_missing
from spool.store.records import Ledger
from spool.store.store import Store
from standin import KEYS, StandIn
from users import spool as command
from waits import wait_until

MISSING: Final = "but nothing here reads it: pip install opentelemetry-distro"
((PUBLIC_KEY, SECRET_KEY),) = KEYS.items()


@needs_distro
def test_a_short_program_delivers_and_what_an_outage_has_left_goes_with_the_next(
    environment: None, path: Path, langfuse: StandIn
) -> None:
    langfuse.stop()
    assert instrument(PROGRAM, **ZERO_CODE).stdout == "went on\n"
    assert ledger_of(path) == Ledger(accepted=1, pending=1)
    langfuse.start()
    done = instrument(PROGRAM, **ZERO_CODE, SPOOL_BACKOFF_SECONDS="0.01..0.05")
    assert (done.returncode, done.stdout, done.stderr) == (0, "went on\n", "")
    assert "ended" in langfuse.names()
    command("drain")
    assert langfuse.names() == {"ended": 2}


@needs_distro
@pytest.mark.parametrize("options", [[], ["--preload"]], ids=["gunicorn", "preloaded"])
def test_workers_that_are_forked_deliver_what_they_end(
    environment: None, langfuse: StandIn, tmp_path: Path, options: list[str]
) -> None:
    paths, workers = 0, set[int]()
    with gunicorn(tmp_path, *options, **ZERO_CODE) as connection:
        while len(workers) < 2:
            workers.add(ask(connection, f"/{paths}"))
            paths += 1
        # A worker that is told to end may be killed before it has sent: it has sent by now.
        loaded = 1 if options else 2
        wanted = {"loaded": loaded, **{f"/{number}": 1 for number in range(paths)}}
        wait_until(lambda: langfuse.names() == wanted)


@needs_distro
def test_another_receiver_can_be_named_as_opentelemetry_does(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StandIn(manner=MANNERS[-1]) as receiver:
        monkeypatch.setenv("SPOOL_PATH", str(path))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        done = instrument(PROGRAM, **ZERO_CODE, OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf")
        assert (done.stdout, done.stderr) == ("went on\n", "")
        assert receiver.names() == {"ended": 1}


WRONG: Final = {
    "half of the keys": ({"LANGFUSE_SECRET_KEY": ""}, "Only one of them is."),
    "no keys": (
        {"LANGFUSE_SECRET_KEY": "", "LANGFUSE_PUBLIC_KEY": ""},
        "LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY must be set",
    ),
    # OpenTelemetry's distro sets the protocol where nobody does.
    "another receiver without its protocol": (
        {
            "LANGFUSE_SECRET_KEY": "",
            "LANGFUSE_PUBLIC_KEY": "",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        },
        "must be http/protobuf (opentelemetry-instrument says grpc where nothing is set)",
    ),
    "a wrong value": ({"SPOOL_DRAIN": "maybe"}, "SPOOL_DRAIN=maybe: must be on or off"),
}


@needs_distro
@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_setting_is_said_and_the_program_goes_on(environment: None, case: str) -> None:
    wrong, words = WRONG[case]
    done = instrument(PROGRAM, **{**ZERO_CODE, **wrong})
    assert words in done.stderr
    assert SECRET_KEY not in done.stderr
    assert (done.returncode, done.stdout) == (0, "went on\n")


@needs_distro
@pytest.mark.skipif(
    is_here("opentelemetry.exporter.otlp.proto.grpc"),
    reason="what the distro exports metrics with is installed here",
)
def test_the_exporters_of_metrics_and_logs_that_the_distro_assumes_are_said_to_be_missing(
    environment: None,
) -> None:
    done = instrument(PROGRAM, OTEL_TRACES_EXPORTER="spool")
    assert "'otlp_proto_grpc' not found in entry point 'opentelemetry_metrics_" in done.stderr
    assert (done.returncode, done.stdout) == (0, "went on\n")


RESOURCE: Final = {
    "OTEL_SERVICE_NAME": "shop",
    "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test,team=a%20b",
}
LIMITED: Final = """
from opentelemetry import trace
tracer = trace.get_tracer("app")
with tracer.start_as_current_span("limited") as span:
    span.set_attributes({"first": "0123456789", "second": "b", "third": "c"})
    span.add_event("first")
    span.add_event("second")
"""


@needs_distro
def test_opentelemetrys_own_variables_count(environment: None, langfuse: StandIn) -> None:
    limits = {
        "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "2",
        "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "4",
        "OTEL_SPAN_EVENT_COUNT_LIMIT": "1",
    }
    assert instrument(LIMITED, **ZERO_CODE, **RESOURCE, **limits).returncode == 0
    (resource,) = langfuse.resource_spans
    said = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert said["service.name"] == "shop"
    assert (said["deployment.environment.name"], said["team"]) == ("test", "a b")
    assert said["telemetry.auto.version"]
    (span,) = langfuse.spans
    kept = {one.key: one.value.string_value for one in span.attributes}
    assert (kept, span.dropped_attributes_count) == ({"second": "b", "third": "c"}, 1)
    assert ([one.name for one in span.events], span.dropped_events_count) == (["second"], 1)


@needs_distro
@pytest.mark.parametrize(
    "settings",
    [
        {"OTEL_SDK_DISABLED": "true"},
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"},
    ],
    ids=lambda settings: ",".join(settings.values()),
)
def test_a_program_that_is_not_to_be_traced_spools_nothing(
    environment: None, path: Path, langfuse: StandIn, settings: dict[str, str]
) -> None:
    done = instrument(PROGRAM, **ZERO_CODE, **settings)
    assert (done.returncode, done.stdout, done.stderr) == (0, "went on\n", "")
    assert not langfuse.requests
    command("drain")
    assert not langfuse.requests


# Where the distro is missing


@pytest.fixture
def without_distro(tmp_path: Path) -> str:
    """Give a beginning that leaves out what tells that a distro is installed."""
    site = tmp_path / "site"
    site.mkdir()
    for installed in Path(sysconfig.get_path("purelib")).iterdir():
        if not installed.name.startswith("opentelemetry_distro"):
            (site / installed.name).symlink_to(installed)
    source = Path(spool.__file__).parents[1]
    return f"import sys; sys.path[:0] = [{str(source)!r}, {str(site)!r}]\n"


STATUS = """
import sys
from spool.commands.main import main
sys.argv[1:] = ["status"]
try:
    main()
except SystemExit as exiting:
    assert exiting.code == 2
"""


@pytest.mark.skipif(
    not is_here("opentelemetry.instrumentation"),
    reason="opentelemetry-instrumentation is not installed here",
)
def test_without_a_distro_nothing_is_traced_and_status_says_why(
    environment: None, without_distro: str
) -> None:
    begin = "import opentelemetry.instrumentation.auto_instrumentation.sitecustomize\n"
    code = without_distro + begin + PROGRAM
    assert run(code, "-I", "-S", **ZERO_CODE).stderr == ""
    status = without_distro + STATUS
    said = run(status, "-I", "-S", **ZERO_CODE).stderr.splitlines()
    assert said[0].startswith("no spool yet at")
    assert said[1:] == [f"OTEL_TRACES_EXPORTER names the spool, {MISSING}"]
    assert len(run(status, "-I", "-S").stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ({"OTEL_TRACES_EXPORTER": "console, spool"}, "OTEL_TRACES_EXPORTER names the spool"),
        ({"OTEL_CONFIG_FILE": "otel.yaml"}, "OTEL_CONFIG_FILE is set"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, None),
        ({}, None),
    ],
)
@pytest.mark.parametrize("is_installed", [False, True], ids=["no distro", "a distro"])
def test_what_is_missing_is_known(
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, str],
    asked: str | None,
    is_installed: bool,
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [group] * is_installed)
    expected = None if asked is None or is_installed else f"{asked}, {MISSING}"
    assert what_is_missing() == expected


def test_a_spool_that_is_empty_says_why(
    environment: None,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: ())
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "spool")
    store.open()
    monkeypatch.setattr(sys, "argv", ["spool", "status"])
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == 1
    words, remedy = MISSING.split(": ")
    said = f"! OTEL_TRACES_EXPORTER names the spool, {words}; {remedy}"
    assert said in capsys.readouterr().out
