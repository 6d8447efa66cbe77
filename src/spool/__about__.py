"""The version, once. A zip or a frozen program has no metadata that would say it."""

__version__ = "0.1.0"
