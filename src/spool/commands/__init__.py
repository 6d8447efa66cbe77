"""The commands: `python -m spool`, one file a command or a group of them, and what they print.

- `main`: the options that all share, and errors as exit codes.
- `report`: what `status` and the health endpoint know, and what a person should see to.
"""
