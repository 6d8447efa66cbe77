from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest

import ports
import standin
from spool.store.store import Store
from standin import StandIn
from users import spool
from waits import wait_until

pytestmark = pytest.mark.once


def asked(url: str, accept: str = "*/*") -> tuple[int, str]:
    try:
        request = urllib.request.Request(url, headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@contextlib.contextmanager
def sidecar() -> Iterator[str]:
    """Run one that listens, and end it as a service manager does; give where it is."""
    command = [sys.executable, "-m", "spool", "run", "--listen", ":0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
                    break
            else:
                pytest.fail("it does not listen")
            yield found[0]
            process.send_signal(signal.SIGTERM)
            rest = process.stderr.read()
            assert process.wait(60) == 0
        finally:
            process.kill()
    assert "Traceback" not in rest


def test_who_looks_sees_an_outage_and_that_it_is_over(
    filled: Store, langfuse: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("prometheus_client")
    monkeypatch.setenv("SPOOL_BACKOFF_SECONDS", "0.1..0.2")
    langfuse.behave(standin.status(503, body=b"out of <order>"))
    with sidecar() as url:
        wait_until(lambda: asked(f"{url}healthz")[0] == HTTPStatus.SERVICE_UNAVAILABLE)
        _, said = asked(f"{url}healthz", "application/json")
        (concern,) = json.loads(said)["concerns"]
        assert concern["code"] == "stuck"
        status, page = asked(url)
        assert status == HTTPStatus.OK
        assert "1 thing needs you" in page
        assert "10 spans wait" in page
        assert "<order>" not in page
        _, metrics = asked(f"{url}metrics")
        assert 'langfuse_spool_pending_spans{route="pk-lf-test"} 10.0' in metrics
        langfuse.behave(None)
        wait_until(lambda: asked(f"{url}healthz") == (HTTPStatus.OK, "ok\n"))
        wait_until(lambda: "All is well" in asked(url)[1])


def test_it_ends_at_once_whoever_still_holds_a_connection(filled: Store, langfuse: StandIn) -> None:
    with sidecar() as url, contextlib.ExitStack() as stack:
        port = int(url.rstrip("/").rpartition(":")[2])
        for _ in range(40):
            client = stack.enter_context(socket.create_connection((ports.HOST, port), timeout=60))
            client.sendall(b"GET / HTTP/1.1\r\n")
        langfuse.wait_for(lambda server: server.accepted == 10)


@pytest.mark.parametrize("listen", ["nonsense", ":99999"])
def test_a_wrong_address_is_an_error_before_anything_is_made(path: Path, listen: str) -> None:
    assert "must be HOST:PORT" in spool("run", "--listen", listen, code=2).stderr
    assert not path.exists()


def test_an_address_that_is_taken_is_an_error(filled: Store) -> None:
    with socket.socket() as taken:
        taken.bind((ports.HOST, 0))
        taken.listen()
        listen = f":{taken.getsockname()[1]}"
        said = spool("run", "--listen", listen, code=2).stderr
    assert said == (
        f"spool: --listen {listen}: Address already in use; "
        "name an address of this machine and a free port\n"
    )
    assert filled.ledger().pending == 10
