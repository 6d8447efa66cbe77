"""One request over HTTP, and what its response means. It knows nothing of spools and routes.

Invariants: a request ends by one deadline; nothing that network or server do raises.

In reading order:

- `sender`: one POST. `response`: what was answered.
- `classification`: what that means for the spans: the table of status codes.
- `reason`: why, in the server's words, without our secrets.
- `content_encoding`: whether the receiver reads gzip.
- `connection_pool`, `connection`: the sockets, open and in use. `deadline`: when all is over.
- `dial`, `tls`, `proxy`: how a host is reached, whom we trust, and through whom.
"""
