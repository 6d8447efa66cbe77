from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from certificates import tls_of
from ports import HOST
from resolver import Addresses
from senders import MakeSender
from spool.delivery.http.sender import Sender
from spool.settings.settings import Settings
from spool.settings.target import Target
from standin import StandIn


@pytest.fixture
def sender_to() -> Iterator[MakeSender]:
    made = []

    def make(where: Target | str, **settings: Any) -> Sender:
        is_url = isinstance(where, str)
        target = Target.langfuse("pk-lf-test", "sk-lf-test", where) if is_url else where
        usual = Settings(path=Path("/nowhere/spool.db"), target=target, **settings)
        made.append(Sender(target, usual))
        return made[-1]

    yield make
    for sender in made:
        sender.close()


@pytest.fixture
def sender(sender_to: MakeSender, target: Target) -> Sender:
    return sender_to(target)


@pytest.fixture
def plain(sender_to: MakeSender, langfuse: StandIn) -> Sender:
    """Send to a receiver of which nobody knows that it is Langfuse."""
    return sender_to(Target.otlp(langfuse.url + "/v1/traces", {"api-key": "k"}))


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as bound:  # bound and not listening: nobody else gets it
        bound.bind((HOST, 0))
        yield bound.getsockname()[1]


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Connections are taken by the kernel, and by nobody else."""
    with socket.create_server((HOST, 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def bundle(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture
def secure(authority: trustme.CA) -> Iterator[StandIn]:
    with StandIn(tls=tls_of(authority)) as server:
        yield server


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[], Addresses]]:
    """Answer for these names; no other name leaves the machine."""
    answers: dict[str, Callable[[], Addresses]] = {}
    resolve = socket.getaddrinfo

    def fake(host: str, *arguments: Any, **named: Any) -> Any:
        return answers[host]() if host in answers else resolve(HOST, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", fake)
    return answers
