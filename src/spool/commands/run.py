"""`run`: drain until told to stop."""

from __future__ import annotations

import signal

import click

from spool.commands.listen.answers import Answers
from spool.commands.listen.server import HealthServer
from spool.commands.open_spool import ENDING_SECONDS, OpenSpool
from spool.commands.output import say
from spool.pipeline.observation import observed
from spool.store.history import BY_RUN
from spool.store.maintenance_thread import MaintenanceThread


@click.command()
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Serve /healthz, /metrics and a page there; :PORT is for this machine alone.",
)
@click.pass_obj
def run(path: str | None, listen: str | None) -> None:
    """Drain until SIGTERM or SIGINT: a sidecar, or a service."""
    # Blocked here and in the threads to come, so that only `sigwait` gets them: a handler runs in
    # the main thread, which sleeps on where the kernel has given the signal to another.
    stops = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    spool = OpenSpool(path, "run")
    spool.store.database.pace.by = BY_RUN
    server = None if listen is None else HealthServer(listen, Answers(spool))
    spool.store.open()
    spool.drainer.routes.name_endpoints()
    maintenance = MaintenanceThread(spool.store, spool.settings)
    maintenance.start()
    spool.drainer.start()
    observed.begin(spool.store, spool.settings.max_bytes)
    say(f"draining {spool.settings.path}", err=True)
    if server is not None:
        server.start()
        say(f"listening at {server.url}", err=True)
    signal.sigwait(stops)
    if server is not None:
        server.stop(ENDING_SECONDS)
    spool.drainer.stop(ENDING_SECONDS)
    maintenance.stop(ENDING_SECONDS)
    observed.end(spool.store)
    spool.store.close()
