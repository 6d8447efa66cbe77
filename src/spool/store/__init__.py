"""The store: spans that wait, in one SQLite file that all processes share.

- `store`: what the others call. `records`: what it gives out.
- `rows`, `sql`, `schema`, `version`: how rows are read and changed, the statements, the tables.
- `database`, `salvage`: the file itself, and what is left of a damaged one.
- `ingest`, `takeover`, `maintenance`: how spans come here from journals, and by whom it is kept.
"""
