"""The credentials file: secrets of further routes, each with the host that it may go to.

Invariants:

- A secret goes to the host of its line, else to the one that the drainer's own settings name. What
  a row, a journal or a call names is never asked.
- A route that a call has brought is served only where the call brought this secret and host: else
  whoever names the public key of others could write into their project.
- Only its owner can read and change the file.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from spool.errors import SettingsError
from spool.settings.endpoints import langfuse_endpoint
from spool.settings.target import Named, Target, check_keys
from spool.system import spool_files

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Credential:
    """A secret, and the traces endpoint that its line names."""

    secret_key: str = field(repr=False)
    endpoint: str | None = None

    def target_of(self, route: str, public_key: str, named_endpoint: str | None) -> Target:
        """Give the target of a route of a public key; `named_endpoint` is the settings'.

        Raises SettingsError, which says what is missing.
        """
        endpoint = self.endpoint or named_endpoint
        if endpoint is None:
            raise SettingsError(
                "SPOOL_CREDENTIALS_FILE has its secret, but nothing names the host for that: write "
                "`public_key: secret_key https://host` there, or set LANGFUSE_HOST"
            )
        found = Target.langfuse(public_key, self.secret_key)
        found = replace(found, endpoint=endpoint, named=Named.BY_OWNER)
        if route == found.route:
            return found
        if route == found.marked().route:
            return found.marked()
        raise SettingsError(
            "it came with another secret or host than SPOOL_CREDENTIALS_FILE has; correct the "
            f"file, or `python -m spool adopt {route}`"
        )


class Credentials:
    """The file of one drainer, read again when it has changed."""

    def __init__(self, path: Path | None, spool: Path) -> None:
        self._path = path
        self._spool = spool
        self._seen: tuple[int, ...] = ()
        self._broken: tuple[int, ...] = ()
        self._found: dict[str, Credential] = {}
        self._told: dict[str, Credential] | None = None

    def state(self) -> tuple[int, ...]:
        """Give what is different after each change of the file. Raises OSError."""
        if self._path is None:
            return ()
        status, owner = os.stat(self._path), spool_files.owner_of(self._spool)[0]
        return status.st_dev, status.st_ino, status.st_ctime_ns, status.st_size, owner

    def of(self, public_key: str) -> Credential | None:
        """Give what the file has for a public key; None for nothing. Raises SettingsError.

        The spool's owner may have written it, too, where we are root.
        """
        if self._path is None:
            return None
        try:
            state = self.state()
        except OSError as error:
            raise SettingsError(
                f"SPOOL_CREDENTIALS_FILE={self._path}: cannot be read: {error.strerror}"
            ) from error
        if state not in (self._seen, self._broken):
            self._found = read_credentials(self._path, state[-1])
            self._seen = state
            self._told = self._found if self._told is None else self._told
        return self._found.get(public_key)

    def reload(self) -> str:
        """Read the file again now; say what has changed since that was said, without a secret.

        Where that fails what was read before stays, until the file changes again. Raises
        SettingsError.
        """
        if self._path is None:
            return "there is no SPOOL_CREDENTIALS_FILE to read again"
        before = self._told or {}
        with contextlib.suppress(OSError):
            self._broken = self.state()
        try:
            found = read_credentials(self._path, spool_files.owner_of(self._spool)[0])
        except OSError as error:
            raise SettingsError(f"SPOOL_CREDENTIALS_FILE={self._path}: {error.strerror}") from error
        self._seen, self._found, self._told = self._broken, found, found
        new, gone = found.keys() - before.keys(), before.keys() - found.keys()
        changed = {key for key in found.keys() & before.keys() if found[key] != before[key]}
        counts = {"new": len(new), "changed": len(changed), "gone": len(gone)}
        said = ", ".join(f"{count} {how}" for how, count in counts.items() if count)
        keys = f"{len(found)} public key{'' if len(found) == 1 else 's'}"
        return f"SPOOL_CREDENTIALS_FILE has secrets of {keys}: {said or 'nothing has changed'}"


def read_credentials(path: Path, owner: int) -> dict[str, Credential]:
    """Read `public_key: secret_key` and `public_key: secret_key https://host` lines.

    `#` begins a comment. `owner` is the user to whom the spool belongs: the file must be his alone
    (0600), or ours. Raises SettingsError, which shows no secret.
    """
    variable = f"SPOOL_CREDENTIALS_FILE={path}"
    try:
        lines = _read(path, owner).decode().splitlines()
    except OSError as error:
        raise SettingsError(f"{variable}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{variable}: must be text in UTF-8") from error
    found = {}
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        match = re.fullmatch(r"([^:\s]+)\s*:\s*(\S+)(?:\s+(\S+://\S*))?", text)
        if match is not None:
            public_key, secret_key, host = match.groups()
            check_keys(f"{variable}: line {number}", public_key, secret_key)
            where = f"{variable}: line {number}: host"
            endpoint = langfuse_endpoint(host, where) if host else None
            found[public_key] = Credential(secret_key, endpoint)
        elif text:
            raise SettingsError(
                f"{variable}: line {number} must be `public_key: secret_key` or "
                "`public_key: secret_key https://host`"
            )
    return found


def _read(path: Path, owner: int) -> bytes:
    """Read a file that only its owner can have written. Raises SettingsError, OSError."""
    # It may be a link, as where secrets are mounted; what is opened is looked at.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if why := _strangeness(os.fstat(fd), owner):
            raise SettingsError(f"SPOOL_CREDENTIALS_FILE={path}: {why}")
        with os.fdopen(fd, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(fd)


def _strangeness(status: os.stat_result, owner: int) -> str:
    """Say why a file is none to take secrets from; nothing where it may be."""
    if not stat.S_ISREG(status.st_mode):
        return "it is not a regular file"
    if status.st_uid not in (owner, os.geteuid()):
        return f"it belongs to user {status.st_uid}, not to you ({os.geteuid()}); chown it"
    return "others can read it; chmod 600 it" if status.st_mode & 0o077 else ""
