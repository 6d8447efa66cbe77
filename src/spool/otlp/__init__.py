"""OTLP: spans as bytes, and requests made of them.

- `encoder`: spans to protobuf. `batch`: how requests are joined, cut and merged.
- `compression`: how they are compressed so that they can still be joined.
"""
