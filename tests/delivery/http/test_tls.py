from __future__ import annotations

import contextlib
import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from certificates import tls_of
from ports import HOST
from resolver import Addresses, address
from senders import BODY, MakeSender
from spool.delivery.http.classification import Verdict
from spool.delivery.http.sender import Sender
from spool.settings.settings import Settings
from spool.settings.target import Target
from standin import StandIn


def test_a_certificate_that_the_configured_bundle_vouches_for_is_trusted(
    secure: StandIn, bundle: Path, sender_to: MakeSender
) -> None:
    with contextlib.closing(sender_to(secure.url, certificate=bundle)) as sender:
        for _ in range(3):
            assert sender.send(BODY, 10).verdict is Verdict.DELIVERED
    assert (secure.connections, secure.accepted) == (1, 3)


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_certificate_that_the_bundle_of_requests_vouches_for_is_trusted(
    secure: StandIn, bundle: Path, variable: str
) -> None:
    environ = {"SPOOL_PATH": "/nowhere/spool.db", variable: str(bundle)}
    target = Target.langfuse("pk-lf-test", "sk-lf-test", secure.url)
    settings = Settings.from_env(target=target, environ=environ)
    with contextlib.closing(Sender(target, settings)) as sender:
        assert sender.send(BODY, 10).verdict is Verdict.DELIVERED


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to hash a directory")
def test_a_bundle_may_be_a_directory_as_for_requests(
    secure: StandIn, bundle: Path, sender_to: MakeSender
) -> None:
    said = subprocess.run(
        ["openssl", "x509", "-hash", "-noout", "-in", bundle], capture_output=True, check=True
    )
    directory = bundle.with_name("bundle")
    directory.mkdir()
    (directory / f"{said.stdout.decode().strip()}.0").write_bytes(bundle.read_bytes())
    with contextlib.closing(sender_to(secure.url, certificate=directory)) as sender:
        assert sender.send(BODY, 10).verdict is Verdict.DELIVERED


def test_a_bundle_that_is_not_there_is_waited_out_and_named(
    secure: StandIn, tmp_path: Path, sender_to: MakeSender
) -> None:
    outcome = sender_to(secure.url, certificate=tmp_path / "missing.pem").send(BODY, 10)
    assert outcome.verdict is Verdict.WAIT
    assert f"{tmp_path}/missing.pem: there is no CA bundle" in outcome.reason


def test_an_unknown_certificate_is_waited_out_and_nothing_is_sent(
    secure: StandIn, sender_to: MakeSender
) -> None:
    outcome = sender_to(secure.url).send(BODY, 10)
    assert outcome.verdict is Verdict.WAIT
    assert "is not trusted" in outcome.reason
    assert not secure.requests


def test_a_certificate_of_another_host_is_waited_out_and_nothing_is_sent(
    authority: trustme.CA, bundle: Path, sender_to: MakeSender
) -> None:
    with StandIn(tls=tls_of(authority, "other.example")) as server:
        outcome = sender_to(server.url, certificate=bundle).send(BODY, 10)
        assert outcome.verdict is Verdict.WAIT
        assert "certificate" in outcome.reason
        assert not server.requests


def test_a_certificate_is_checked_for_the_name_in_the_endpoint(
    authority: trustme.CA,
    bundle: Path,
    names: dict[str, Callable[[], Addresses]],
    sender_to: MakeSender,
) -> None:
    with StandIn(tls=tls_of(authority, "langfuse.invalid")) as server:
        for name in ("langfuse.invalid", "other.invalid"):
            names[name] = lambda: [address(server.port)]
            with contextlib.closing(sender_to(f"https://{name}", certificate=bundle)) as sender:
                verdict = sender.send(BODY, 10).verdict
            assert (verdict is Verdict.DELIVERED) == (name == "langfuse.invalid")
        assert server.accepted == 1


def test_a_bundle_that_is_none_is_waited_out_with_the_reason(
    secure: StandIn, tmp_path: Path, sender_to: MakeSender
) -> None:
    (tmp_path / "ca.pem").write_text("this is no certificate")
    outcome = sender_to(secure.url, certificate=tmp_path / "ca.pem").send(BODY, 10)
    assert outcome.verdict is Verdict.WAIT
    assert outcome.reason


def test_plain_http_where_tls_is_expected_is_waited_out(
    langfuse: StandIn, sender_to: MakeSender
) -> None:
    outcome = sender_to(f"https://{HOST}:{langfuse.port}").send(BODY, 5)
    assert outcome.verdict is Verdict.WAIT
    assert not langfuse.accepted


def test_a_client_certificate_is_shown_where_one_is_wanted(
    authority: trustme.CA, bundle: Path, tmp_path: Path, sender_to: MakeSender
) -> None:
    context = tls_of(authority)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    client = authority.issue_cert("client@example.org")
    certificate, key, both = (tmp_path / name for name in ("client.pem", "client.key", "both.pem"))
    client.cert_chain_pems[0].write_to_path(str(certificate))
    client.private_key_pem.write_to_path(str(key))
    client.private_key_and_cert_chain_pem.write_to_path(str(both))
    with StandIn(tls=context) as server:
        without = sender_to(server.url, certificate=bundle)
        assert without.send(BODY, 10).verdict is Verdict.WAIT
        apart = {"client_certificate": certificate, "client_key": key}
        for files in (apart, {"client_certificate": both}):
            with contextlib.closing(sender_to(server.url, certificate=bundle, **files)) as sender:
                assert sender.send(BODY, 10).verdict is Verdict.DELIVERED
        assert server.accepted == 2
