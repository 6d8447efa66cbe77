"""Every error that this package raises has one root, and its text says what to do."""

from __future__ import annotations


class SpoolError(Exception):
    """The root of all errors of this package."""


class SettingsError(SpoolError):
    """A setting is missing or has a value that is not allowed."""


class SpoolFileError(SpoolError):
    """The spool file cannot be used as it is: not ours, not writable, not on a local disk."""


class SpoolStrangerError(SpoolFileError):
    """What stands in place of a file of the spool is not its owner's, or no regular file."""


class SpoolUnavailableError(SpoolFileError):
    """The disk refuses for now (full, read-only, failing): what comes is held in memory."""


class SpoolDamagedError(SpoolUnavailableError):
    """The spool file is damaged; the next patient writer salvages it."""


class SpoolUnsyncedError(SpoolFileError):
    """The spans are in the spool and will be sent, but a power cut could take them."""


class SpoolBusyError(SpoolError):
    """The spool's mutex was not to be had within the time allowed."""


class SpoolFullError(SpoolError):
    """The spool has reached SPOOL_MAX_BYTES, and SPOOL_WHEN_FULL says to drop what is newest."""


class PayloadError(SpoolError):
    """A stored payload is not the OTLP request that was written."""
