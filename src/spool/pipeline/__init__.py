"""The pipeline: what the exporters of one process share for one file, until the process ends.

Invariants:

- A file is opened once in a process: there is one store, one maintenance and at most one drainer.
- The application's threads wait for nobody here, and no exception but SpoolError leaves it.
- Nothing crosses a fork but the store, which looks after that itself.

In reading order:

- `registry`: which pipelines are open, who joins and leaves them, and the exit.
- `pipeline`: one file's: spans are appended, held, or refused and counted; a flush waits.
- `threads`: how maintenance and drainer start, begin and stop.
- `shutdown`: what is still sent, saved and counted when the last one leaves.
- `observation`: what is told to a MeterProvider of each spool.
"""
