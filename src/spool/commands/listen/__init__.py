"""What `run --listen` serves: whether all is well, the metrics, and the page.

Invariants:

- Nobody who asks can hold up the drain, or the end, or use up the descriptors.
- It only reads, and is for this machine alone, unless it was told an address of others.

In reading order:

- `answers`: what is answered to which path.
- `server`: HTTP, bounded. `address`: where it listens, and who is answered there.
"""
