"""`adopt`: a stranded route's spans for the current credentials."""

from __future__ import annotations

import click

from spool.commands.open_spool import existing
from spool.commands.output import say
from spool.errors import SettingsError
from spool.store import operations, takeover


@click.command()
@click.argument("route")
@click.pass_obj
def adopt(path: str | None, route: str) -> None:
    """Give a stranded route's spans to the current credentials.

    Only a person can know that both belong to the same project.
    """
    with existing(path) as spool:
        if spool is None:
            return
        target = spool.settings.require_target()
        sending = spool.settings.timeout_seconds
        takeover.take_over_all(spool.store, compress=spool.settings.is_gzip, sending=sending)
        routes = {known.name: known for known in spool.store.routes()}
        if route not in routes or route == target.route:
            others = ", ".join(name for name in routes if name != target.route) or "none"
            raise SettingsError(f"ROUTE={route}: must be another route of this spool: {others}")
        moved = operations.adopt(spool.store, routes[route], target, sending)
    say(f"{moved} spans of {route} now wait for {target.route}")
