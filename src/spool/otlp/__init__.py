"""OTLP: spans as bytes, and requests made of them. Nothing here knows of files or networks.

Invariants:

- Spans are decoded nowhere: requests are joined, cut and merged as bytes, and what a span was
  encoded to never changes. So a resend carries the same ids and times.
- A request body is one gzip member, or raw.
- What cannot be read is a PayloadError, whatever the damage.

In reading order:

- `encoder`: spans to protobuf, on the application's threads.
- `batch`: spans as one payload, raw or deflated; joined to a body, merged to a row.
- `compression`: payloads deflated so that they can still be joined, and the body, by the byte.
- `cutting`: a batch cut between its spans.
"""
