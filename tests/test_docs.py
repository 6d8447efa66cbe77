"""What the pages say is so: their commands and snippets run, their tables are the code's.

Each fenced block of the README has its test here, which runs it as it stands; what goes around it
(a stand-in in place of Langfuse, a call, a look at what arrived) is the test's own.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import pytest

import sabotage
import standin
from spans import batch
from spool import SpoolSpanExporter
from spool.commands import report
from spool.errors import SettingsError
from spool.settings import settings
from spool.settings.settings import Settings, Target
from spool.store.store import Store
from standin import StandIn

ROOT: Final = Path(__file__).resolve().parent.parent
README: Final = ROOT / "README.md"
PAGES: Final = [
    README,
    ROOT / "tests" / "README.md",
    ROOT / "scripts" / "README.md",
    ROOT / ".github" / "CONTRIBUTING.md",
]
SCRIPT: Final = ROOT / "scripts" / "test"
MOST_LINES: Final = 250

needs_litellm = pytest.mark.skipif(
    importlib.util.find_spec("litellm") is None,
    reason="litellm is not installed; pip install 'langfuse-spool[litellm]'",
)
needs_langfuse = pytest.mark.skipif(
    importlib.util.find_spec("langfuse") is None, reason="the Langfuse SDK is not installed here"
)


# The pages taken apart


@dataclass(frozen=True)
class Block:
    """A fenced block: what its fence says, what stands in it, and in which section."""

    section: str
    kind: str
    text: str


def blocks(page: Path) -> list[Block]:
    found, section = [], ""
    pattern = r"^## ([^\n]*)|^```(\w*)\n(.*?)^```$"
    for match in re.finditer(pattern, page.read_text(), re.MULTILINE | re.DOTALL):
        if match[3] is None:
            section = match[1]
        else:
            found.append(Block(section, match[2], match[3]))
    return found


def block(section: str, kind: str, number: int = 0) -> str:
    return [b.text for b in blocks(README) if (b.section, b.kind) == (section, kind)][number]


def table(page: Path, heading: str) -> list[list[str]]:
    """Give the rows of the table whose header begins with a heading."""
    _, _, rest = page.read_text().partition(f"\n| {heading}")
    rows = []
    for line in rest.splitlines()[2:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    assert rows, f"{page.name} has no table that begins with {heading}"
    return rows


def quoted(text: str) -> list[str]:
    """Give what stands between backquotes, outside of fenced blocks."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`]+)`", prose)


# Running


@pytest.fixture
def environment(
    path: Path, langfuse: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Be where a reader is: with keys and host set, a spool, and `python` on the path."""
    for name, value in {
        "SPOOL_PATH": str(path),
        "LANGFUSE_PUBLIC_KEY": "pk-lf-test",
        "LANGFUSE_SECRET_KEY": "sk-lf-test",
        "LANGFUSE_HOST": langfuse.url,
    }.items():
        monkeypatch.setenv(name, value)
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("PATH", f"{python.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)


def run(*command: str, code: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command,
        env={**os.environ, **more},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


def run_python(code: str, **more: str) -> str:
    return run("python", "-c", code, code=0, **more).stdout


def run_shell(code: str) -> str:
    """Run a block of commands; the keys and hosts that it exports are the test's own."""
    return run("bash", "-ec", f"export() {{ :; }}\n{code}").stdout


def drain() -> None:
    """Send what a program has left."""
    run("python", "-m", "spool", "drain")


# The README as a whole


def test_the_readme_fits_its_page() -> None:
    assert len(README.read_text().splitlines()) <= MOST_LINES


def test_every_block_of_the_readme_has_its_test() -> None:
    assert [(b.section, b.kind) for b in blocks(README)] == [
        ("", ""),
        ("", "sh"),
        ("", "python"),
        ("Quick start", "python"),
        ("Quick start", "sh"),
        ("Quick start", "sh"),
        ("The roads in", "python"),
        ("The roads in", "yaml"),
        ("The roads in", "python"),
        ("Commands", "sh"),
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_links_to_is_there(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in link:
            assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_files_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text()
    named = re.findall(r"(?<![\w/.])((?:src|tests|scripts|\.github)/[\w./-]*\w)", text)
    named += [name for name in quoted(text) if re.fullmatch(r"[a-z_/]+\.(py|toml|md)", name)]
    places = [ROOT, ROOT / "tests", ROOT / "src" / "spool"]
    for name in set(named) - {"hello.py", "spooled.py"}:  # those are the reader's
        assert any((place / name).exists() for place in places), name


# The first screen


def test_the_two_commands_are_there() -> None:
    lines = block("", "sh").splitlines()
    assert [line.split()[0] for line in lines] == ["scripts/demo", "scripts/test"]
    for line in lines:
        assert os.access(ROOT / line.split()[0], os.X_OK)


def test_the_tests_run_on_the_pythons_that_the_package_names() -> None:
    project, workflow = ROOT / "pyproject.toml", ROOT / ".github" / "workflows" / "test.yml"
    named = re.findall(r'"Programming Language :: Python :: ([\d.]+)"', project.read_text())
    (tried,) = re.findall(r"^for version in ([\d. ]+); do$", SCRIPT.read_text(), re.MULTILINE)
    assert sorted(tried.split()) == sorted(named)
    assert re.findall(r"^ +(3\.\d+)$", workflow.read_text(), re.MULTILINE) == named
    assert "scripts/test\n" in workflow.read_text()


@needs_litellm
@pytest.mark.timeout(600)
def test_the_demo_prints_what_the_readme_shows() -> None:
    said, *story = block("", "").splitlines()
    assert f'echo "{said}"' in (ROOT / "scripts" / "demo").read_text()
    shown = run(sys.executable, str(ROOT / "scripts" / "demo.py")).stdout.splitlines()
    assert [without_figures(line) for line in shown] == [without_figures(line) for line in story]


def without_figures(line: str) -> str:
    """Take out what differs each time: the port, and how long it took."""
    return re.sub(r"127\.0\.0\.1:\d+|and \d+\.\d s", "…", line)


# LiteLLM

CALL: Final = """
litellm.completion(
    model="gpt-4o", messages=[{"role": "user", "content": "hello"}], mock_response="hello"
)
from litellm.litellm_core_utils.thread_pool_executor import executor
executor.shutdown(wait=True)  # the call is logged in LiteLLM's own threads
"""


@needs_litellm
@pytest.mark.parametrize("section", ["", "The roads in"])
def test_a_litellm_call_arrives(section: str, environment: None, langfuse: StandIn) -> None:
    code = block(section, "python")
    assert "litellm" in code
    run_python(code + CALL)
    drain()
    assert langfuse.names() == {"litellm_request": 1, "raw_gen_ai_request": 1}


@needs_litellm
def test_with_litellms_v2_install_warns(environment: None) -> None:
    code = block("The roads in", "python") + "print('went on')"
    done = run("python", "-W", "always", "-c", code, LITELLM_OTEL_V2="true")
    assert "LITELLM_OTEL_V2 is set" in done.stderr
    assert "went on" in done.stdout


@needs_litellm
def test_the_proxys_ways_are_those_that_are_tried() -> None:
    """They are tried with a real proxy in test_litellm_proxy."""
    yaml = pytest.importorskip("yaml")
    from test_litellm_proxy import SHIM, WAYS

    said = yaml.safe_load(block("The roads in", "yaml"))
    dotted, _, hook = WAYS.values()
    assert said == {"litellm_settings": {"callbacks": [dotted.callback]}}
    text = " ".join(README.read_text().split())
    assert f"`{SHIM.strip()}`" in text
    (assignment,) = [f"{name}={value}" for name, value in hook.environment.items()]
    assert f"`{assignment} litellm --config config.yaml`" in text
    assert f'callbacks: ["{hook.callback}"]' in text
    for way in (dotted, hook):
        assert ".".join(map(str, way.first)) in text


# OpenTelemetry, and the Langfuse SDK


def test_the_quick_start_ends_with_a_trace(
    environment: None, tmp_path: Path, langfuse: StandIn
) -> None:
    (tmp_path / "hello.py").write_text(block("Quick start", "python"))
    said = run_shell(block("Quick start", "sh", 0))
    assert "delivered 1" in said
    assert langfuse.names() == {"hello": 1}
    said = run_shell(block("Quick start", "sh", 1))
    assert said.startswith("delivered 1 spans")
    assert langfuse.names() == {"hello": 2}


def test_the_quick_start_exports_settings_that_count() -> None:
    exported = re.findall(r"^export (\w+)=", block("Quick start", "sh", 0), re.MULTILINE)
    assert len(exported) == 3
    assert set(exported) <= variables_of_the_code()


def test_what_can_be_given_to_the_exporter_is_what_the_readme_says() -> None:
    (call,) = [
        said for said in quoted(README.read_text()) if said.startswith("SpoolSpanExporter(p")
    ]
    taken = inspect.signature(SpoolSpanExporter).parameters
    assert re.findall(r"(\w+)=", call) == [name for name in taken if name != "settings"]


def test_without_code_opentelemetry_finds_the_exporter(
    environment: None, langfuse: StandIn
) -> None:
    (command,) = [c for c in quoted(README.read_text()) if "opentelemetry-instrument" in c]
    assignment = command.split()[0]
    code = """
    from opentelemetry.sdk._configuration import _OTelSDKConfigurator  # what the command calls
    _OTelSDKConfigurator().configure(auto_instrumentation_version="")
    from opentelemetry import trace
    trace.get_tracer("x").start_span("without code").end()
    """
    name, _, value = assignment.partition("=")
    others = {"OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none", name: value}
    run_python(textwrap.dedent(code), **others)
    drain()
    assert langfuse.names() == {"without code": 1}


@needs_langfuse
def test_the_langfuse_sdk_takes_the_exporter(environment: None, langfuse: StandIn) -> None:
    code = """
    with langfuse.start_as_current_observation(name="observed"):
        pass
    langfuse.shutdown()
    """
    run_python(block("The roads in", "python", 1) + textwrap.dedent(code))
    drain()
    assert langfuse.names() == {"observed": 1}


# Commands, and what they say


@pytest.fixture
def filled(environment: None, store: Store, target: Target) -> Store:
    """Hold a span for the stand-in, and one of an old key."""
    store.append(target, batch("new"), now=1_700_000_000.0)
    old = Target.langfuse("pk-lf-old", "sk-lf-old", "https://old.example")
    store.append(old, batch("old"), now=1_700_000_000.0)
    store.close()
    return store


def test_each_command_of_the_readme_does_its_work(filled: Store, langfuse: StandIn) -> None:
    drained, told, peeked, listed, adopted, ran = block("Commands", "sh").splitlines()
    one, rest = ["bash", "-c"], "1 spans of pk-lf-old now wait for pk-lf-test\n"
    assert (
        "delivered 1 spans" in run(*one, drained, code=1).stdout
    )  # the other one's key is missing
    assert "no-secret" in run(*one, told, code=1).stdout
    assert "  old\n" in run(*one, peeked).stdout
    assert run(*one, listed).stdout == ""
    assert run(*one, adopted).stdout == rest
    with subprocess.Popen(["bash", "-c", f"exec {ran}"], stderr=subprocess.PIPE) as sidecar:
        langfuse.wait_for(lambda server: server.accepted == 2)
        sidecar.send_signal(signal.SIGTERM)
        assert sidecar.wait(60) == 0
    run(*one, told)
    assert "Usage" in run("python", "-m", "spool", "no-such-command", code=2).stderr
    assert "SPOOL_DRAIN" in run("python", "-m", "spool", "status", code=2, SPOOL_DRAIN="?").stderr


def test_the_commands_that_print_json_are_those_that_the_readme_names(filled: Store) -> None:
    (sentence,) = re.findall(r"[^.]+take `--json`", README.read_text().replace("\n", " "))
    assert quoted(sentence)[:-1] == ["drain", "status", "peek"]
    run("python", "-m", "spool", "drain", "--json", code=1)
    json.loads(run("python", "-m", "spool", "status", "--json", code=1).stdout)
    json.loads(run("python", "-m", "spool", "peek", "--json").stdout)


def test_dead_letters_are_looked_after_as_the_readme_says(filled: Store, langfuse: StandIn) -> None:
    langfuse.behave(standin.reject_span("new"))
    (line,) = [row[2] for row in table(README, "it says") if "dead letters" in row[0]]
    commands = [c for c in quoted(line) if c.startswith("dead")]
    assert commands == ["dead list", "dead show ID", "dead retry", "dead purge"]
    for command in commands:
        assert "Usage" in run("python", "-m", "spool", *command.split()[:2], "--help").stdout


# The table of `status`


def texts(function: Any) -> list[str]:
    """Give the strings of a function or module: one each, with {} for what is put in."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    parts = {
        part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values
    }
    docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        said
        for node in ast.walk(tree)
        if node not in parts and node not in docstrings and (said := text_of(node)) is not None
    ]


def text_of(node: ast.AST) -> str | None:
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or "{}" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def shown_by_status() -> list[str]:
    return [said for row in table(README, "it says") for said in quoted(row[0])]


def test_the_states_are_those_of_the_code() -> None:
    is_state = re.compile(r"[a-z-]+").fullmatch
    assert set(filter(is_state, shown_by_status())) == set(texts(report._state))


def concerns_of_the_code() -> list[str]:
    """Give the lines with `!`: what is formatted, or handed on as it is, and is no mere part."""
    said = []
    for function in (report.Report.concerns, report.Report._concern):
        nodes = list(ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))))
        handed_on = [one for node in nodes if isinstance(node, ast.Call) for one in node.args]
        formatted = [node for node in nodes if isinstance(node, ast.JoinedStr)]
        said += [text_of(node) or "" for node in (*handed_on, *formatted)]
    return [one for one in said if re.search(r"\w+ \w+", one)]


def test_every_concern_of_status_is_in_the_readme_and_the_reverse() -> None:
    concerns = concerns_of_the_code()
    shown = {said for said in shown_by_status() if " " in said} | {"is held"}
    assert [said for said in concerns if not any(words in said for words in shown)] == []
    assert [words for words in shown if not any(words in said for said in concerns)] == []


def test_status_says_no_secret_held_and_waiting_where_the_readme_says_so(
    environment: None, store: Store, target: Target, langfuse: StandIn
) -> None:
    store.append(target, batch("one"), now=1_700_000_000.0)
    store.close()
    command = ["python", "-m", "spool"]
    other = {"LANGFUSE_PUBLIC_KEY": "pk-lf-other"}
    assert "no-secret" in run(*command, "status", code=1, **other).stdout
    langfuse.behave(standin.unavailable())
    run(*command, "drain", code=1)
    assert "waiting" in run(*command, "status", code=1).stdout
    langfuse.behave(standin.status(401))
    run(*command, "drain", code=1)
    assert "held" in run(*command, "status", code=1).stdout
    langfuse.behave(None)
    run(*command, "drain")
    assert "         ok  " in run(*command, "status").stdout


def test_the_symptoms_that_are_our_words_are_those_of_the_code() -> None:
    package = ROOT / "src" / "spool"
    said = " ".join("".join(re.findall(r'"([^"]*)"', f.read_text())) for f in package.rglob("*.py"))
    for row in table(README, "symptom"):
        for symptom in quoted(row[0]):
            if symptom.count(" ") > 1:
                assert symptom in said, symptom


# Settings


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
    spool = {f"SPOOL_{name.upper()}" for name in settings._PARSERS}
    named = set(filter(is_variable, texts(settings)))
    readers = [f for name, f in vars(settings).items() if name.startswith("_otlp")]
    is_suffix = re.compile(r"[A-Z]+(_[A-Z]+)*").fullmatch
    suffixes = {s for function in readers for s in texts(function) if is_suffix(s)} - named
    otlp = {f"OTEL_EXPORTER_OTLP_{x}{suffix}" for suffix in suffixes for x in ("", "TRACES_")}
    is_scheme = re.compile(r"[a-z]+").fullmatch
    proxies = {f"{said.upper()}_PROXY" for said in texts(settings._proxies) if is_scheme(said)}
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
    assert quoted(row[1]) == [settings.EU_HOST]
    assert quoted(row[0]) == list(settings._hosts(dict.fromkeys(quoted(row[0]), "x")))


# The credentials file is read when a route needs it: see test_credentials.
@pytest.mark.parametrize(
    "variable", sorted({row[0].strip("`") for row in OWN} - {"SPOOL_CREDENTIALS_FILE"})
)
def test_a_wrong_value_is_an_error_that_names_variable_and_value(variable: str) -> None:
    wrong = "a\nb" if variable == "SPOOL_PATH" else "wrong"
    with pytest.raises(SettingsError, match=rf"^{variable}=.*: must be "):
        Settings.from_env(environ={variable: wrong})


# What was tried


def test_nothing_that_was_accepted_is_lost_in_the_table_of_trouble() -> None:
    rows = table(ROOT / "tests" / "README.md", "trouble")
    accepted, lost = (sum(int(row[i].replace(",", "")) for row in rows) for i in (3, 6))
    assert lost == 0
    assert accepted > 1_000_000, "the README says: more than a million"


def test_the_table_of_sabotage_names_sabotages_and_tests_that_there_are() -> None:
    names = {one.name for one in sabotage.SABOTAGES}
    source = "".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    for name, test in table(ROOT / "tests" / "README.md", "broken on purpose"):
        assert name in names
        assert f"def {test.strip('`')}(" in source


def test_the_scripts_are_those_of_their_table() -> None:
    named = {row[0].strip("`") for row in table(ROOT / "scripts" / "README.md", "script")}
    there = {f for f in (ROOT / "scripts").iterdir() if f.is_file() and os.access(f, os.X_OK)}
    assert named == {f"scripts/{file.name}" for file in there}


def test_the_costs_in_the_readme_are_those_of_the_table() -> None:
    text = " ".join(README.read_text().split())
    ours = {row[0]: row[1:3] for row in table(ROOT / "scripts" / "README.md", "| ours")}
    cpu = next(cells for name, cells in ours.items() if name.startswith("CPU a span, all in"))
    end = next(cells for name, cells in ours.items() if name.startswith("`end()`, median"))
    packed = ours["drain of a packed backlog"]
    assert (
        f"{cpu[0]} of CPU a span, all in, durable at `end()`; the stock exporter in memory {cpu[1]}"
        in text
    )
    assert f"`end()` {end[0]}" in text
    assert f"at {packed[0].partition(' ')[0]} spans a second" in text
