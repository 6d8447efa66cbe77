"""The journal: a process's own append-only file, where a span is on disk as it ends.

- `journal`: the files, and how they are appended to, read and removed.
- `frames`: what stands in them. `group_commit`: one fsync for all who wait for it.
- `overflow`: what the disk refuses, in memory.
"""
