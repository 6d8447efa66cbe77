"""`check`: everything that must be right for spans to arrive, a line each, and what to do."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Final

import click

from spool.commands.checks import (
    acceptance,
    configuration,
    draining,
    place,
    secrets,
    surroundings,
)
from spool.commands.checks.finding import Finding
from spool.commands.checks.reach import reach
from spool.commands.output import say
from spool.delivery.client import Client
from spool.delivery.routes import Routes
from spool.errors import SpoolError
from spool.store import drainers
from spool.store.store import Store
from spool.system.words import count_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from spool.errors import SettingsError
    from spool.settings.settings import Settings
    from spool.settings.target import Target
    from spool.store.drainers import SeenDrainer
    from spool.store.records import Route

_SALVAGE: Final = "salvage it by `python -m spool drain`, and see to the disk"
_NOT_TRIED: Final = "no receiver is asked while the settings are wrong"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_obj
def check(path: str | None, *, as_json: bool) -> None:
    """Check settings, file, disk, drainer, network, keys, clock and LiteLLM; change nothing.

    A receiver is sent an export without spans, which it answers and does not store. Exits with 1 if
    something is wrong, with 2 if the settings are.
    """
    settings, errors = configuration.read(os.environ, path)
    findings: list[Finding] = []
    for finding in _findings(settings, path, errors):
        findings.append(finding)
        if not as_json:  # at once: the network may take its time
            say(str(finding))
    wrong = sum(finding.is_well is False for finding in findings)
    if as_json:
        checks = [finding.as_json() for finding in findings]
        click.echo(json.dumps({"ok": not wrong, "checks": checks}, indent=2))
    else:
        say(f"{count_of(wrong, 'thing')} to see to, marked with !" if wrong else "all is well")
    if wrong:
        sys.exit(2 if errors else 1)


def _findings(
    settings: Settings | None, path: str | None, errors: list[SettingsError]
) -> Iterator[Finding]:
    yield from configuration.describe(os.environ, path, errors)
    if settings is not None:
        places = list(place.examine(settings))
        yield from places
        is_refused = any(one.name == "path" and one.is_well is False for one in places)
        store = Store(settings.path, settings.durability)
        try:
            known, seen, said = ([], (), []) if is_refused else _look_into(store)
            yield from said
            if errors:
                yield Finding("export", _NOT_TRIED, is_well=None)
            else:
                yield from _ask_around(settings, store, known, seen)
        finally:
            store.close()
    yield from surroundings.look_around(os.environ)


def _look_into(store: Store) -> tuple[list[Route], tuple[SeenDrainer, ...], list[Finding]]:
    """Give a spool's routes and its drainers, and what is to be said of these."""
    try:
        if store.exists():
            known, seen = store.routes(), drainers.seen(store)
            return known, seen, list(draining.who_drains(store.ledger().pending, seen))
    except SpoolError as error:
        return [], (), [Finding.of_error("spool", error, _SALVAGE)]
    return [], (), []


def _ask_around(
    settings: Settings, store: Store, known: Sequence[Route], seen: Sequence[SeenDrainer]
) -> Iterator[Finding]:
    """Say whose secrets are known here, and what their receivers answer."""
    client = Client(settings, time.time)
    routes = Routes(store, settings, client, time.time)
    if settings.target is not None:
        routes.add(settings.target)
    targets, findings = secrets.known_targets(settings, routes, known, seen)
    yield from findings
    yield from _ask(targets, settings, client)


def _ask(targets: Iterable[Target], settings: Settings, client: Client) -> Iterator[Finding]:
    """Say what receivers answer; one that cannot be reached is asked for no further route."""
    seen: dict[str, bool] = {}
    for target in targets:
        if target.endpoint not in seen:
            way = list(reach(target.endpoint, settings))
            yield from way
            seen[target.endpoint] = all(finding.is_well for finding in way)
        if seen[target.endpoint]:
            findings, seen[target.endpoint] = acceptance.ask(target, client)
            yield from findings
        else:
            yield Finding("export", f"{target.route} is not tried: see above", is_well=None)
