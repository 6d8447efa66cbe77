"""`adopt`: a stranded route's spans for the current credentials."""

from __future__ import annotations

import click

from spool.commands.choice import check_route, routes_in
from spool.commands.consent import consent_options, has_consent
from spool.commands.open_spool import existing
from spool.commands.output import say
from spool.errors import SettingsError
from spool.store import operations, takeover
from spool.system.redaction import without_secrets
from spool.system.words import count_of


@click.command()
@click.argument("route")
@consent_options
@click.pass_obj
def adopt(path: str | None, route: str, *, is_dry: bool, is_yes: bool) -> None:
    """Give a stranded route's spans to the current credentials.

    Only a person can know that both belong to the same project.
    """
    with existing(path) as spool:
        if spool is None:
            return
        target = spool.settings.require_target()
        if route == target.route:
            raise SettingsError(
                f"{route} is the route of your own credentials: `python -m spool drain` sends it"
            )
        routes = routes_in(spool.store)
        check_route(route, [name for name in routes if name != target.route])
        spans = count_of(routes[route].pending_spans, "span")
        receiver = f"{target.route} at {without_secrets(target.endpoint)}"
        will_be = f"{spans} of {route} will go to {receiver}, as if made with its key"
        if not has_consent(will_be, is_dry=is_dry, is_yes=is_yes):
            return
        sending = spool.settings.timeout_seconds
        takeover.take_over_all(spool.store, compress=spool.settings.is_gzip, sending=sending)
        found = next((one for one in spool.store.routes() if one.name == route), None)
        moved = 0 if found is None else operations.adopt(spool.store, found, target, sending)
        wait = "waits" if moved == 1 else "wait"
        say(f"{count_of(moved, 'span')} of {route} now {wait} for {target.route}")
