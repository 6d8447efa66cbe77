"""The journal: a process's own append-only files, where a span is on disk as it ends.

On disk, beside the spool, whose name comes first (all mode 0600):

    spool.db.inbox-<pid>-<12 hex digits>    one header, then frames: one an `export()` call

The bytes of the header are drawn in `header`, those of a frame, and where its checksum comes from,
in `frames`. The journal was once called the inbox: on disk, in `.inbox-` and in the table `inbox`
of the store, which says how far each file was moved, that stays its name.

Invariants:

- A span is in a file when its append has returned, and only the disk refuses one.
- One process appends to a file; who can have its lock knows that this process is dead.
- A file only grows, its name is never used twice, and it is removed when the store has all of it.
- Damage hides nothing but what is damaged, and that is counted.

In reading order:

- `journal`: what this process appends to, and what becomes of that. `own_files`: what it has open.
- `file`: one file: made, appended to, closed. `group_commit`: one fsync for all who wait for it.
- `header`, `frames`: what stands in a file, by the byte. `identity`: whose a frame is.
- `reader`: reads frames, damaged as they may be.
- `chunk`: frames read at once, and what of them makes a request.
- `directory`: the journals beside a spool, any process's.
- `at_fork`: what a fork waits for, and what its child closes.
- `overflow`: what the disk refuses, in memory.
"""
