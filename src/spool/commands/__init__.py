"""The commands, `python -m spool [--path FILE] COMMAND`: what a person or a script calls.

Invariants:

- One file a command, or a group of commands, named as it is called.
- Exit codes: 0 all is well; 1 it is not, as each command says; 2 wrong usage or settings. An error
  is one line on standard error, never a traceback.
- Only `run` creates a spool. For the others one that does not exist is exit code 2 where its path
  was given, else 1; `--json` prints its shape all the same. Reading commands move no rows, and work
  while others write.
- Whatever spans, keys and servers say is escaped before it is printed.

In reading order:

- `main`: the group, the options that all share, errors as exit codes.
- `open_spool`: the spool that a command works on. `zero_code`: why there may be none yet.
- `output`: what all of them print with. `spans`: spans as a person reads them.
- `choice`: which route, spans or dead letters are meant. `consent`: what is done is said first.
- `drain_bar`: what a drain shows of itself.
- `drain`, `run`, `status`, `history`, `check`, `peek`, `adopt`, `dead`: the commands.
- `sidecar`: what `run` says while it drains. `refusing_disk`: how it begins on a full disk.
  `listen`: what `run --listen` serves. `checks`: what `check` asks.

A new command is a file here with a `@click.command()` of its name that takes the spool from
`open_spool.existing` and prints with `output.say`, its name in `main`'s list, and its tests in
`tests/commands/test_<name>.py`.
"""
