"""`python -m spool`."""

from spool.cli import main

main()
