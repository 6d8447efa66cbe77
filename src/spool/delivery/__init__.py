"""The delivery: from the spool to a receiver, one POST at a time.

What becomes of spans, by the verdict about their request:

| verdict | rows | journal | overflow |
|---|---|---|---|
| delivered | deleted, counted | never become rows, counted | gone, counted when the file allows |
| delivered in part | what was rejected is a dead letter | the same | wait for the file |
| wait | stay until a backoff is over | become rows, and wait | stay until a backoff is over |
| hold | stay, 330 s between two tries | become rows, and wait | stay until a backoff is over |
| split | half as much is sent, down to one span | become rows, and are split | wait for the file |

One span that was refused, or failed alone, is a dead letter only when its receiver has accepted
others since; else its route is held, or waits.

Invariants:

- Whoever sends rows or a journal holds the drain lock: of the routes that are well, or of those in
  trouble. What only its own memory holds a process sends without.
- At least once: a span leaves the spool when its receiver has it, or as a dead letter. What was
  delivered and cannot be settled, because the file refuses, is remembered and not sent again.
- Only evidence condemns a span, and no elapsed time does.
- A process sends only routes whose secret it has.
- Fresh spans wait for no backlog, and routes that are well for none in trouble.

In reading order:

- `drainer`: the thread that sends what is due. `drain_once`: the same by hand, until nothing is
  left, and `drain_full_disk`: what it and `run` do where the file takes nothing.
- `lane`: routes that are well and those in trouble, each in their own.
- `routes`: whose spans can be sent, and when. `route_state`: how a route stands, and for how long
  it waits. `backoff`: how long that is.
- `row_delivery`, `journal_delivery`, `overflow_delivery`: one request, by where its spans are.
- `causes`: why requests fail, and what a person can do.
- `evidence`: whether spans are to blame for a failure, or their receiver.
- `client`: posts a request of any route. `request_size`: how much one holds. `silent_hosts`: which
  answer nobody.
- `packing`, `file_watch`: what is done, and looked at, while nothing can be sent.
- `instrumentation`: keeps all of this out of the traces that it carries. `metrics`: what is told of
  it.
- `http`: one request, and what its response means.
"""
