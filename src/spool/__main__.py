"""`python -m spool`."""

from spool.commands.main import main

main()
