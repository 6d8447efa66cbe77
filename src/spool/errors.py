"""Every error that this package raises: one root, and a text that says what to do.

An application sees only SettingsError, SpoolFileError and SpoolBusyError, from a constructor; the
others are what its threads are spared. Each says when it is raised, and what who gets it does.

    SpoolError
    ├── SettingsError
    ├── SpoolFileError
    │   ├── SpoolStrangerError
    │   ├── SpoolUnavailableError
    │   │   └── SpoolDamagedError
    │   └── SpoolUnsyncedError
    ├── SpoolBusyError
    ├── SpoolFullError
    └── PayloadError
"""

from __future__ import annotations


class SpoolError(Exception):
    """The root of all errors of this package."""


class SettingsError(SpoolError):
    """A setting is missing or has a value that is not allowed; or a secret has no host to go to.

    A constructor raises it to the user, a command exits with 2, and a drainer lets the route wait.
    """


class SpoolFileError(SpoolError):
    """The spool file cannot be used as it is: not ours, not writable, not on a local disk.

    It stays so until a person does something: a constructor raises it, a command exits with 2.
    """


class SpoolStrangerError(SpoolFileError):
    """What stands in place of a file of the spool is not its owner's, or no regular file.

    Raised by who opens it. Where the spool can do without that file, it is passed over, and named
    by `status`.
    """


class SpoolUnavailableError(SpoolFileError):
    """The disk refuses for now: it is full, read-only or failing.

    What ends is held in memory, and what is on disk is sent all the same; who had to write tries
    again later.
    """


class SpoolDamagedError(SpoolUnavailableError):
    """SQLite cannot read the spool file, which is ours.

    Who drains or maintains it, and can wait for the mutex, salvages it; until then as for any other
    disk that refuses.
    """


class SpoolNotMadeError(SpoolUnavailableError):
    """Another process makes the spool file just now.

    It will have done so in a moment: a background thread looks again and says nothing.
    """


class SpoolUnsyncedError(SpoolFileError):
    """The spans are in the spool and will be sent, but a power cut could take them.

    Raised by an append where SPOOL_SYNC_SECONDS is 0 and the disk refuses to sync. The spans count
    as accepted, but `export` gives FAILURE; nothing is done again.
    """


class SpoolBusyError(SpoolError):
    """A lock of the spool was not to be had within the time allowed.

    Nothing was changed. A background thread tries again, a command exits with 1.
    """


class SpoolFullError(SpoolError):
    """The spool has reached SPOOL_MAX_BYTES, and SPOOL_WHEN_FULL says to drop what is newest.

    The spans are refused, counted and logged: trying again does not help.
    """


class PayloadError(SpoolError):
    """A stored payload is not the OTLP request that was written.

    Who was about to send it makes dead letters of its spans: the others go.
    """
