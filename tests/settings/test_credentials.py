from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from drains import Clock, drain_all
from owners import STRANGER, only_root
from spans import batch
from spool.delivery.drainer import Drainer
from spool.delivery.route_state import RouteState
from spool.errors import SettingsError
from spool.report.report import Report
from spool.settings.credentials import Credential, Credentials, read_credentials
from spool.settings.settings import Settings
from spool.settings.target import Target
from spool.store.records import Route
from spool.store.store import Store
from standin import StandIn

TRACES = "/api/public/otel/v1/traces"
THEIRS = {"pk-lf-theirs": "sk-lf-theirs"}


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.touch(mode=0o600)
    return path


@pytest.fixture
def theirs() -> Iterator[StandIn]:
    """Serve the project whose secret the file has."""
    with StandIn(keys=THEIRS) as server:
        yield server


def read(path: Path) -> dict[str, Credential]:
    return read_credentials(path, os.geteuid())


@pytest.mark.once
def test_a_line_with_swapped_keys_is_named_and_not_shown(credentials: Path) -> None:
    credentials.write_text("pk-lf-1: sk-lf-1\nsk-lf-aa: pk-lf-bb\n")
    with pytest.raises(SettingsError, match=r"line 2: .*swapped") as refused:
        read(credentials)
    assert not any(key in str(refused.value) for key in ("lf-aa", "lf-bb"))


# The file


def test_the_file_gives_the_secret_of_each_public_key_and_the_host_of_its_line(
    credentials: Path,
) -> None:
    credentials.write_text(
        "# ours\n\npk-lf-1: sk-lf-1\n  pk-lf-2:sk:2  # the other team's\n"
        "pk-lf-3: sk-lf-3 https://h.example/\n"
    )
    assert read(credentials) == {
        "pk-lf-1": Credential("sk-lf-1"),
        "pk-lf-2": Credential("sk:2"),
        "pk-lf-3": Credential("sk-lf-3", "https://h.example" + TRACES),
    }


@pytest.mark.parametrize(
    "line",
    [
        "pk-lf-2", "pk-lf-2 s3cret", ": s3cret", "pk-lf-2:", ":", "pk: s3cret host",
        "pk: s3cret https://h more", "pk: s3cret ftp://h", "pk: s3cret https://u:1/s3cret@h",
    ],
)  # fmt: skip
def test_a_bad_line_is_named_by_number_only(credentials: Path, line: str) -> None:
    credentials.write_text(f"pk-lf-1: s3cret\n{line}\n")
    with pytest.raises(SettingsError, match=r"^SPOOL_CREDENTIALS_FILE=/.*line 2.* must") as caught:
        read(credentials)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644])
def test_a_file_that_is_open_to_others_is_refused(credentials: Path, mode: int) -> None:
    credentials.write_text("pk-lf-1: sk-lf-1\n")
    credentials.chmod(mode)
    with pytest.raises(SettingsError, match=r"^SPOOL_CREDENTIALS_FILE=/.*chmod 600"):
        read(credentials)


def test_a_file_that_cannot_be_read_is_an_error(credentials: Path) -> None:
    for path in (credentials.with_name("missing"), credentials.parent):
        with pytest.raises(SettingsError, match=f"^SPOOL_CREDENTIALS_FILE={path}: "):
            read(path)
    credentials.write_bytes(b"pk: \xff\xfe\n")
    with pytest.raises(SettingsError, match=r"^SPOOL_CREDENTIALS_FILE="):
        read(credentials)


def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "keys", 0o600)
    with pytest.raises(SettingsError, match="keys: it is not a regular file"):
        read(tmp_path / "keys")


def test_a_link_is_followed_as_mounted_secrets_are_links(credentials: Path) -> None:
    credentials.write_text("pk-lf-1: sk-lf-1\n")
    link = credentials.with_name("link")
    link.symlink_to(credentials)
    assert read(link) == {"pk-lf-1": Credential("sk-lf-1")}


@only_root
def test_only_the_spools_owner_and_we_may_have_written_it(credentials: Path) -> None:
    credentials.write_text("pk-lf-1: sk-lf-1\n")
    os.chown(credentials, STRANGER, STRANGER)
    with pytest.raises(SettingsError, match="it belongs to user 12345, not to you"):
        read(credentials)
    assert read_credentials(credentials, STRANGER) == {"pk-lf-1": Credential("sk-lf-1")}


@only_root
def test_another_users_file_is_refused_though_we_can_read_it() -> None:
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    file = directory / "keys"
    file.touch(mode=0o600)
    os.chown(file, STRANGER, STRANGER)
    try:
        with pytest.raises(SettingsError, match="it belongs to user 12345"):
            read(file)
    finally:
        shutil.rmtree(directory)


# Where its secrets go


def drainer_with(store: Store, settings: Settings, credentials: Path, text: str) -> Drainer:
    credentials.write_text(text)
    return Drainer(store, replace(settings, credentials_file=credentials))


def route_of(store: Store, name: str) -> Route:
    return next(route for route in store.routes() if route.name == name)


@pytest.mark.parametrize("is_of_a_call", [False, True])
def test_a_secret_never_goes_to_a_host_that_only_a_row_names(
    store: Store, settings: Settings, credentials: Path, theirs: StandIn, is_of_a_call: bool
) -> None:
    bait = Target.langfuse("pk-lf-theirs", "whatever", theirs.url)
    bait = bait.marked() if is_of_a_call else bait
    store.append(bait, batch("bait"), now=1.0)
    text = "pk-lf-theirs: sk-lf-theirs\n"
    for settled in (replace(settings, target=None), settings):
        drainer = drainer_with(store, settled, credentials, text)
        drain_all(drainer)
    assert theirs.requests == []


def test_a_route_whose_host_nobody_names_waits_and_says_so(
    store: Store, settings: Settings, credentials: Path, theirs: StandIn
) -> None:
    store.append(Target.langfuse("pk-lf-theirs", "-", theirs.url), batch("theirs"), now=1.0)
    nobody = replace(settings, target=None)
    drainer = drainer_with(store, nobody, credentials, "pk-lf-theirs: sk-lf-theirs\n")
    assert not drainer.send_due()
    report = Report.of(store, drainer.routes, 1 << 30, now=100.0)
    assert report.states == (RouteState.NO_SECRET,)
    assert any("nothing names the host" in concern.words for concern in report.concerns())
    assert theirs.requests == []


def test_a_secret_goes_to_the_host_of_its_line_else_to_the_one_that_the_settings_name(
    store: Store, settings: Settings, credentials: Path, theirs: StandIn, langfuse: StandIn
) -> None:
    langfuse.keys["pk-lf-other"] = "sk-lf-other"
    for public_key in ("pk-lf-theirs", "pk-lf-other"):
        elsewhere = Target.langfuse(public_key, "-", "http://127.0.0.1:9")
        store.append(elsewhere, batch(public_key), now=1.0)
    text = f"pk-lf-theirs: sk-lf-theirs {theirs.url}\npk-lf-other: sk-lf-other\n"
    drain_all(drainer_with(store, settings, credentials, text))
    assert theirs.names() == {"pk-lf-theirs": 1}
    assert langfuse.names() == {"pk-lf-other": 1}


def test_a_host_without_keys_names_where_the_secrets_go(
    store: Store, path: Path, credentials: Path, theirs: StandIn
) -> None:
    store.append(Target.langfuse("pk-lf-theirs", "-", "http://127.0.0.1:9"), batch("a"), now=1.0)
    settings = Settings.from_env(path=path, environ={"LANGFUSE_HOST": theirs.url})
    drain_all(drainer_with(store, settings, credentials, "pk-lf-theirs: sk-lf-theirs\n"))
    assert theirs.names() == {"a": 1}


def test_a_route_of_a_call_is_served_where_the_call_brought_the_same_secret_and_host(
    store: Store, settings: Settings, credentials: Path, theirs: StandIn
) -> None:
    good = Target.langfuse("pk-lf-theirs", "sk-lf-theirs", theirs.url).marked()
    forged = Target.langfuse("pk-lf-theirs", "guessed", theirs.url).marked()
    for target, name in ((good, "good"), (forged, "forged")):
        store.append(target, batch(name), now=1.0)
    text = f"pk-lf-theirs: sk-lf-theirs {theirs.url}\n"
    drainer = drainer_with(store, settings, credentials, text)
    drain_all(drainer)
    assert theirs.names() == {"good": 1}
    missing = drainer.routes.missing(route_of(store, forged.route))
    assert "another secret or host" in missing
    assert "sk-lf" not in missing


def test_the_file_is_read_again_when_it_has_changed_and_only_then(
    store: Store,
    settings: Settings,
    credentials: Path,
    theirs: StandIn,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store.append(Target.langfuse("pk-lf-theirs", "-", theirs.url), batch("a"), now=1.0)
    drainer = drainer_with(store, settings, credentials, "pk-lf-other: sk-lf-other\n")
    reads: list[Path] = []

    def counted(path: Path, owner: int) -> dict[str, Credential]:
        reads.append(path)
        return read_credentials(path, owner)

    monkeypatch.setattr("spool.settings.credentials.read_credentials", counted)
    for _ in range(5):
        assert not drainer.send_due()
    assert len(reads) == 1
    credentials.write_text(f"pk-lf-theirs: sk-lf-theirs {theirs.url}\n")
    drain_all(drainer)
    assert theirs.names() == {"a": 1}
    assert len(reads) == 2


def test_what_has_changed_is_told_since_it_was_told_last(credentials: Path, store: Store) -> None:
    store.open()
    credentials.write_text("pk-lf-a: sk-lf-a\n")
    read = Credentials(credentials, store.database.path)
    assert read.of("pk-lf-b") is None
    credentials.write_text("pk-lf-a: sk-lf-a\npk-lf-b: sk-lf-b\n")
    assert read.of("pk-lf-b") is not None  # a drainer looks by itself
    assert read.reload().endswith("secrets of 2 public keys: 1 new")
    assert read.reload().endswith("nothing has changed")
