"""The secrets: whose spans can be sent from here, and where these would go."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from spool.commands.checks.finding import Finding
from spool.errors import SettingsError
from spool.report import sentences
from spool.settings.credentials import read_credentials
from spool.settings.environment import MISSING_KEYS
from spool.settings.target import Named
from spool.system import spool_files
from spool.system.words import count_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from spool.delivery.routes import Routes
    from spool.settings.settings import Settings
    from spool.settings.target import Target
    from spool.store.drainers import SeenDrainer
    from spool.store.records import Route

_NAME: Final = "secrets"
_NO_HOST: Final = (
    "no host is named: spans go to Langfuse's cloud in the EU, those of LiteLLM's callback to the "
    "one in the US; LANGFUSE_HOST would name one for both"
)


def known_targets(
    settings: Settings, routes: Routes, known: Sequence[Route], seen: Sequence[SeenDrainer]
) -> tuple[list[Target], list[Finding]]:
    """Give the targets that can be asked, as a delivery would, and what is to be said of the rest.

    `known` are the routes of the spool, `seen` its drainers.
    """
    targets = {one.name: found for one in known if (found := routes.target_of(one)) is not None}
    if settings.target is not None:
        targets.setdefault(settings.target.route, settings.target)
    findings: list[Finding] = []
    if settings.target is not None and settings.target.named is Named.BY_NOBODY:
        findings.append(Finding(_NAME, _NO_HOST, is_well=None))
    for public_key, found in _of_the_file(settings, findings):
        if public_key not in targets:
            targets[public_key] = settings.with_extra_headers(found)
    findings += _without(routes, known, seen)
    if not targets:
        findings.append(_none(seen))
    return list(targets.values()), findings


def _of_the_file(settings: Settings, findings: list[Finding]) -> Iterator[tuple[str, Target]]:
    path = settings.credentials_file
    if path is None:
        return
    try:
        credentials = read_credentials(path, _owner(settings.path))
    except SettingsError as error:
        findings.append(Finding.of_error(_NAME, error, "correct it: until then its routes wait"))
        return
    findings.append(Finding(_NAME, f"{count_of(len(credentials), 'route')} in {path}"))
    for public_key, credential in credentials.items():
        try:
            yield public_key, credential.target_of(public_key, public_key, settings.named_endpoint)
        except SettingsError as error:  # noqa: PERF203 - where one is wrong others may not be
            findings.append(Finding.wrong(_NAME, f"{public_key}: {error}", "until then it waits"))


def _owner(spool: Path) -> int:
    """Tell to whom the spool belongs, or would if it were made."""
    try:
        return spool_files.owner_of(spool)[0]
    except OSError:
        return os.geteuid()


def _without(
    routes: Routes, known: Sequence[Route], seen: Sequence[SeenDrainer]
) -> Iterator[Finding]:
    """Say who has a secret that is not here, and that nobody has one."""
    for route in known:
        missing, _, remedy = routes.missing(route).partition("; ")
        if not missing or not route.pending_spans:
            continue
        words = f"{route.name}, of which {count_of(route.pending_spans, 'span')} wait"
        sender = next((one for one in seen if one.can_send(route.name)), None)
        if sender is not None:
            yield Finding(_NAME, f"{words}: {sentences.pid(sender)} can send it", is_well=None)
        else:
            yield Finding.wrong(_NAME, f"{words}: {missing}", remedy or "correct that file")


def _none(seen: Sequence[SeenDrainer]) -> Finding:
    if any(one.routes for one in seen):
        return Finding(_NAME, "none is known here, but to who drains", is_well=None)
    remedy = "set them here as the application has them, or OTEL_EXPORTER_OTLP_ENDPOINT"
    return Finding.wrong(_NAME, f"none is known here: {MISSING_KEYS.rstrip('.')}", remedy)
