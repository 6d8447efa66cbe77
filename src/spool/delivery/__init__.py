"""The delivery: from the spool to a receiver, one POST at a time.

- `drainer`: whose spans are sent, and when. `drain_once`: the same by hand, until nothing is left.
- `row_delivery`, `journal_delivery`, `full_disk`: from where, and what becomes of it.
- `routes`, `lane`, `request_size`: when a route is sent, by which thread, and how much of it.
- `evidence`, `silent_hosts`: what several responses of a route, or of a host, prove together.
- `http`: one request, and what its response means.
"""
