"""What the tests share: a clean environment, a spool path, a stand-in for Langfuse."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import freezegun
import pytest

from drains import NAMES, Clock, drainer_of
from manners import target_of
from real_receivers import REAL, Receiver
from spans import batch
from spool import SpoolSpanExporter
from spool.delivery.drainer import Drainer
from spool.pipeline import registry
from spool.settings.settings import Settings
from spool.settings.target import Target
from spool.store.store import Store
from standin import LANGFUSE, Manner, StandIn
from trials import Trial
from users import environment_of

SUPPORT = Path(__file__).parent / "support"
_OURS = ("SPOOL_", "LANGFUSE_", "OTEL_", "LITELLM_")

_trials = pytest.StashKey[dict[str, Trial]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="as often as tests/README.md says")
    parser.addoption("--rewrite", action="store_true", help="write tests/README.md's transcripts")


def pytest_configure(config: pytest.Config) -> None:
    # Programs that tests start find what is shared, too.
    paths = [str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    # What any test has imported of them imports more when it is looked at, which breaks a freeze.
    freezegun.configure(extend_ignore_list=["langfuse", "litellm"])
    config.stash[_trials] = {}


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if config.stash[_trials]:
        terminalreporter.section("troubles")
        terminalreporter.write_line(Trial.table(list(config.stash[_trials].values())))


@pytest.fixture
def is_full(pytestconfig: pytest.Config) -> bool:
    """Say whether trouble is to be tried as often as the table in tests/README.md says."""
    return bool(pytestconfig.getoption("--full"))


@pytest.fixture
def show(pytestconfig: pytest.Config) -> Callable[[Trial], None]:
    """Print what came of a trouble, with the others at the end of the run."""

    def note(trial: Trial) -> None:
        known = pytestconfig.stash[_trials]
        same = known.get(trial.name)
        known[trial.name] = trial if same is None else same + trial

    return note


@pytest.fixture
def report(show: Callable[[Trial], None]) -> Callable[[Trial], None]:
    """Print what came of a trouble, and check it."""

    def print_and_check(trial: Trial) -> None:
        show(trial)
        trial.check()

    return print_and_check


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(_OURS) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")


@pytest.fixture(autouse=True)
def _no_spool_is_left_open() -> Iterator[None]:
    yield
    left = dict(registry._open_pipelines)
    for spool in left.values():
        spool.stop()
    registry._open_pipelines.clear()
    assert not left, "the test did not shut its exporters down"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name a spool file that does not exist yet."""
    return tmp_path / "spool" / "spool.db"


@pytest.fixture
def manner() -> Manner:
    """Say what receiver the stand-in is; `each_manner` makes it each one in turn."""
    return LANGFUSE


@pytest.fixture
def langfuse(manner: Manner) -> Iterator[StandIn]:
    """Serve a healthy stand-in."""
    with StandIn(manner=manner) as server:
        yield server


@pytest.fixture(scope="session")
def receivers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Receiver]]:
    """Run real receivers, each from its first use on: they take their time to start."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def start(name: str) -> Receiver:
            return stack.enter_context(REAL[name](tmp_path_factory.mktemp(name)))

        yield start


@pytest.fixture
def target(langfuse: StandIn) -> Target:
    """Name the stand-in, with its good keys."""
    return target_of(langfuse)


@pytest.fixture
def environment(path: Path, langfuse: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name spool and stand-in as a user would, who has a busy machine: an exit may take long."""
    for name, value in environment_of(path, langfuse.url, SPOOL_SHUTDOWN_SECONDS="60").items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def settings(path: Path, target: Target) -> Settings:
    """Spool to the path, for the stand-in, with short waits."""
    return Settings(path=path, target=target, backoff_seconds=(0.01, 0.05), timeout_seconds=2)


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """Use the spool at the path."""
    store = Store(path)
    yield store
    store.close()


@pytest.fixture
def other(path: Path) -> Iterator[Store]:
    """Use the spool as another process does."""
    other = Store(path)
    yield other
    other.close()


@pytest.fixture
def exporter(settings: Settings) -> Iterator[SpoolSpanExporter]:
    """Export to the stand-in."""
    exporter = SpoolSpanExporter(settings=settings)
    yield exporter
    exporter.shutdown()


@pytest.fixture
def writer(settings: Settings) -> Iterator[SpoolSpanExporter]:
    """Export to the spool; nobody drains it."""
    writer = SpoolSpanExporter(settings=replace(settings, drain=False))
    yield writer
    writer.shutdown()


@pytest.fixture
def clock() -> Clock:
    """Give the drainer's wall clock."""
    return Clock()


@pytest.fixture
def drainer(store: Store, settings: Settings, target: Target, clock: Clock) -> Drainer:
    """Drain a spool that holds twenty single spans."""
    for name in NAMES:
        store.append(target, batch(name), clock.now)
    return drainer_of(store, settings, target, clock)
