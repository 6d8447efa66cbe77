"""`run`: drain until told to stop."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import Final

import click

from spool.commands.listen.answers import Answers
from spool.commands.listen.server import HealthServer
from spool.commands.open_spool import ENDING_SECONDS, OpenSpool
from spool.commands.refusing_disk import RefusingDisk
from spool.commands.sidecar import Sidecar, log_to_stderr
from spool.errors import SettingsError
from spool.pipeline.observation import observed
from spool.settings.environment import MISSING_KEYS
from spool.store.history import BY_RUN
from spool.store.maintenance_thread import MaintenanceThread
from spool.system import service_manager
from spool.system.log import logger

_STOPS: Final = frozenset({signal.SIGTERM, signal.SIGINT})
_SIGNALS: Final = _STOPS | {signal.SIGHUP}


@click.command()
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Serve /healthz, /metrics and a page there; :PORT is for this machine alone.",
)
@click.option("-q", "--quiet", is_flag=True, help="Log only what is wrong, and its end.")
@click.option("-v", "--verbose", is_flag=True, help="Log each request, too.")
@click.pass_obj
def run(path: str | None, listen: str | None, *, quiet: bool, verbose: bool) -> None:
    """Drain until SIGTERM or SIGINT: a sidecar, or a service.

    SIGHUP reads SPOOL_CREDENTIALS_FILE again; a second SIGTERM ends at once.
    """
    # Blocked here and in the threads to come, so that only `sigwait` gets them: a handler runs in
    # the main thread, which sleeps on where the kernel has given the signal to another.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    log_to_stderr(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
    spool = _opened(path)
    spool.store.database.pace.by = BY_RUN
    server = None if listen is None else HealthServer(listen, Answers(spool))
    maintenance = MaintenanceThread(spool.store, spool.settings)
    disk = RefusingDisk(spool, maintenance)
    disk.open()
    spool.drainer.routes.read_credentials()
    maintenance.start()
    spool.drainer.start()
    observed.begin(spool.store, spool.settings.max_bytes)
    sidecar = Sidecar(spool)
    sidecar.begin_to_drain()
    if server is not None:
        server.start()
        logger.info("langfuse-spool: listening at %s", server.url)
    sidecar.start()
    while signal.sigwait(_SIGNALS) not in _STOPS:
        sidecar.reload()
    logger.info("langfuse-spool: ending")
    service_manager.notify(STOPPING=1)
    _end_at_the_next_one()
    sidecar.stop(ENDING_SECONDS)
    if server is not None:
        server.stop(ENDING_SECONDS)
    disk.stop(ENDING_SECONDS)
    spool.drainer.stop(ENDING_SECONDS)
    maintenance.stop(ENDING_SECONDS)
    observed.end(spool.store)
    spool.store.close()


def _opened(path: str | None) -> OpenSpool:
    """Open the spool to drain, though it may be empty still. Raises SettingsError."""
    directory = Path(path).expanduser().absolute().parent if path else None
    if directory is not None and not os.path.lexists(directory):
        raise SettingsError(
            f"--path {path}: there is no directory {directory}; correct the path, or make it"
        )
    spool = OpenSpool(path, "run")
    if spool.settings.target is None and spool.settings.credentials_file is None:
        raise SettingsError(
            f"there is no secret to send anything with: {MISSING_KEYS} Or name a file with the "
            "keys of several projects in SPOOL_CREDENTIALS_FILE"
        )
    return spool


def _end_at_the_next_one() -> None:
    """Let who asks a second time not wait for the end: nothing is lost by that."""
    for number in _STOPS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
