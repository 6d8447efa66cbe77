"""The files of scripts/deploy: what they run is run, and who is to read them finds no fault."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from pages import ROOT
from ports import HOST, free_port
from spans import batch
from spool.settings.target import Target
from spool.store.store import Store
from standin import StandIn
from waits import wait_until

pytestmark = pytest.mark.once

DEPLOY: Final = ROOT / "scripts" / "deploy"
UNIT: Final = DEPLOY / "langfuse-spool.service"
LISTEN: Final = "127.0.0.1:9464"


def unit() -> dict[str, list[str]]:
    """Give what the unit says, of all sections."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found


def only(name: str) -> str:
    (value,) = unit()[name]
    return value


def variables_of(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))


def documents(name: str) -> list[Any]:
    yaml = pytest.importorskip("yaml")
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def compose() -> Any:
    (found,) = documents("compose.yaml")
    return found


def pod() -> Any:
    (found,) = [one for one in documents("kubernetes.yaml") if one["kind"] == "Deployment"]
    return found["spec"]["template"]["spec"]


def here(command: list[str], port: int) -> list[str]:
    """Give a command as it runs on this machine: with this Python, and a port that is free."""
    assert Path(command[0]).name == "python"
    rest = (word.replace(LISTEN, f"{HOST}:{port}").replace("9464", str(port)) for word in command)
    return [sys.executable, *list(rest)[1:]]


@contextlib.contextmanager
def running(command: list[str], environ: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run a drainer until the block ends, as SIGTERM does."""
    with subprocess.Popen(
        command, env={**os.environ, **environ}, stderr=subprocess.PIPE, text=True
    ) as drainer:
        try:
            yield drainer
            drainer.send_signal(signal.SIGTERM)
            assert drainer.wait(120) == 0
        finally:
            drainer.kill()


def is_answered(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    with contextlib.suppress(OSError), contextlib.closing(connection):
        connection.request("GET", "/healthz")
        return connection.getresponse().status in (200, 503)
    return False


@pytest.fixture
def waiting(store: Store, target: Target) -> Store:
    """Hold a span for the stand-in."""
    store.append(target, batch("waits"), now=1_700_000_000.0)
    store.close()
    return store


# systemd


def test_the_units_command_drains_by_its_environment_file(
    waiting: Store, path: Path, langfuse: StandIn
) -> None:
    said = variables_of((DEPLOY / "langfuse-spool.env").read_text())
    assert list(said) == ["LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY", "LANGFUSE_HOST"]
    given = dict.fromkeys(said, "")
    given.update(zip(said, ("pk-lf-test", "sk-lf-test", langfuse.url), strict=True))
    given.update(variables_of(only("Environment")))
    given["SPOOL_PATH"] = given["SPOOL_PATH"].replace(
        f"/var/lib/{only('StateDirectory')}", str(path.parent)
    )
    assert given["SPOOL_PATH"] == str(path)
    assert only("Type") == "notify"
    port = free_port()
    given["NOTIFY_SOCKET"] = f"@langfuse-spool-test-{os.getpid()}-{port}"
    given["WATCHDOG_USEC"] = str(int(only("WatchdogSec")) * 1_000_000)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + given["NOTIFY_SOCKET"].removeprefix("@"))
        systemd.settimeout(120)
        with running(here(shlex.split(only("ExecStart")), port), given):
            for wanted in (b"READY=1", b"WATCHDOG=1"):
                while wanted not in systemd.recv(1000):
                    pass
            langfuse.wait_for(lambda server: server.names() == {"waits": 1})
            wait_until(lambda: is_answered(port))


def test_systemd_finds_no_fault_with_the_unit(tmp_path: Path) -> None:
    systemd_analyze = shutil.which("systemd-analyze")
    if systemd_analyze is None:
        pytest.skip("systemd-analyze is not installed")
    copy = tmp_path / UNIT.name
    python = shlex.split(only("ExecStart"))[0]
    copy.write_text(UNIT.read_text().replace(f"={python} ", f"={sys.executable} "))
    done = subprocess.run(
        [systemd_analyze, "verify", "--man=no", copy], capture_output=True, text=True, check=False
    )
    faults = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert (done.returncode, faults) == (0, [])


def test_the_unit_is_hardened_and_never_given_up(tmp_path: Path) -> None:
    assert (only("Restart"), only("StartLimitIntervalSec")) == ("always", "0")
    assert only("StateDirectoryMode") == "0700"
    assert only("User") == only("StateDirectory") == "langfuse-spool"
    systemd_analyze = shutil.which("systemd-analyze")
    if systemd_analyze is None:
        pytest.skip("systemd-analyze is not installed")
    done = subprocess.run(
        [systemd_analyze, "security", "--offline=true", "--threshold=25", UNIT],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-400:] + done.stderr


# Compose


def test_composes_own_schema_takes_the_file() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    package = pytest.importorskip("check_jsonschema")
    vendor = Path(package.__file__).parent / "builtin_schemas" / "vendor"
    schema = json.loads((vendor / "compose-spec.json").read_text())
    jsonschema.validate(compose(), schema)


def test_application_and_sidecar_of_compose_are_one_user_with_one_volume() -> None:
    services = compose()["services"]
    for name in ("user", "volumes"):
        assert services["application"][name] == services["spool"][name], name
    application = services["application"]["environment"]
    sidecar = services["spool"]["environment"]
    assert application == {**sidecar, "SPOOL_DRAIN": "off"}
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert f"USER {services['spool']['user']}" in dockerfile
    assert f"ENV SPOOL_PATH={sidecar['SPOOL_PATH']}" in dockerfile
    assert (ROOT / services["spool"]["build"]["dockerfile"]).exists()


def test_the_sidecar_of_compose_drains_and_its_health_is_asked(
    waiting: Store, langfuse: StandIn, environment: None
) -> None:
    sidecar, port = compose()["services"]["spool"], free_port()
    kind, *healthcheck = sidecar["healthcheck"]["test"]
    assert kind == "CMD"
    with running(here(sidecar["command"], port), {}):
        langfuse.wait_for(lambda server: server.accepted == 1)
        is_well = lambda: subprocess.run(here(healthcheck, port), check=False).returncode == 0  # noqa: E731
        wait_until(is_well, every=0.5)


# Kubernetes


def test_kubernetes_own_schemas_take_the_manifest() -> None:
    validate = pytest.importorskip("kubernetes_validate")
    for document in documents("kubernetes.yaml"):
        validate.validate(document, validate.latest_version(), strict=True)


def test_application_and_sidecar_of_the_pod_are_one_user_with_one_volume() -> None:
    spec = pod()
    (sidecar,), (application,) = spec["initContainers"], spec["containers"]
    assert sidecar["restartPolicy"] == "Always"
    assert spec["securityContext"]["runAsUser"] == 10001
    for container in (sidecar, application):
        assert "runAsUser" not in container.get("securityContext", {})
    for name in ("volumeMounts", "envFrom"):
        assert sidecar[name] == application[name], name
    off = {"name": "SPOOL_DRAIN", "value": "off"}
    assert application["env"] == [*sidecar["env"], off]
    (mount,), (volume,) = sidecar["volumeMounts"], spec["volumes"]
    assert sidecar["env"][0]["value"].startswith(f"{mount['mountPath']}/")
    assert mount["name"] == volume["name"]
    assert volume["persistentVolumeClaim"]["claimName"] in {
        one["metadata"]["name"]
        for one in documents("kubernetes.yaml")
        if one["kind"] == "PersistentVolumeClaim"
    }


def test_the_sidecar_of_the_pod_drains_and_its_probe_minds_only_whether_it_answers(
    store: Store, target: Target, langfuse: StandIn, environment: None
) -> None:
    (sidecar,) = pod()["initContainers"]
    probe, port = sidecar["livenessProbe"]["exec"]["command"], free_port()
    asked = here(probe, port)
    langfuse.behave(lambda exchange: exchange.hang())  # an outage
    store.append(target, batch("waits"), now=1_700_000_000.0)
    store.close()
    assert subprocess.run(asked, stderr=subprocess.DEVNULL, check=False).returncode != 0
    with running(here(sidecar["command"], port), {}):
        wait_until(lambda: is_answered(port))
        assert subprocess.run(asked, check=False).returncode == 0
        langfuse.behave(None)


# The page


def test_the_commands_of_the_page_name_what_is_there() -> None:
    page = (DEPLOY / "README.md").read_text()
    for file in re.findall(r"scripts/deploy/([\w.-]+)", page):
        assert (DEPLOY / file).exists(), file
    (extra,) = re.findall(r"'\.\[(\w+)\]'", page)
    assert re.search(rf"^{extra} = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    (venv,) = set(re.findall(r"(/opt/[\w-]+)/bin/p", page))
    assert only("ExecStart").startswith(f"{venv}/bin/python ")


def test_the_line_of_cron_writes_metrics(
    waiting: Store, path: Path, tmp_path: Path, environment: None
) -> None:
    pytest.importorskip("prometheus_client")
    (line,) = re.findall(
        r"^\* \* \* \* \* [\w-]+ (.*)$", (DEPLOY / "README.md").read_text(), re.MULTILINE
    )
    line = re.sub(r"d=[^;]*;", f"d={tmp_path};", line)
    line = re.sub(r"SPOOL_PATH=\S+", f"SPOOL_PATH={path}", line)
    line = re.sub(r"/opt/\S+/python", sys.executable, line)
    subprocess.run(["/bin/sh", "-c", line], check=True)
    assert "spool" in (tmp_path / "spool.prom").read_text()
