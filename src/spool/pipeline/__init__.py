"""The pipeline: what the exporters of one process share for one file.

- `pipeline`: one store, its maintenance and its drainer, for all exporters of a file.
- `shutdown`: what is still sent, saved and counted when the process ends.
"""
