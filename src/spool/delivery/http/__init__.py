"""One request over HTTP, and what its response means. It knows nothing of spools and routes.

Invariants: a request ends by one deadline; nothing that network or server do raises.

- `sender`: one POST. `response`: what was answered.
- `classification`: what that means for the spans.
- `content_encoding`: whether the receiver reads gzip.
- `connection`, `connection_pool`, `proxy`: how the bytes get there.
"""
