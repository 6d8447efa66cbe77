"""HTTP: one request, and what its response means. Nothing here knows of spools and routes.

Invariants:

- A request ends by one deadline.
- Nothing that the network or a server does raises.

In reading order:

- `sender`: one POST. `response`: what was answered.
- `classification`: what that means for the spans: the table of status codes.
- `reason`: why, in the server's words, without our secrets. `failure`: why there are none.
- `content_encoding`: whether the receiver reads gzip.
- `connection_pool`, `connection`: the sockets, open and in use. `deadline`: when all is over.
- `dial`, `tls`, `proxy`: how a host is reached, whom we trust, and through whom.
"""
