"""The report: what a person should know of a spool, apart from how and where it is shown.

Invariants:

- Reading changes nothing, and works while others write and drain.
- Whatever is shown of a spool anywhere (`status`, a page, metrics) is said by one `Report`.

In reading order:

- `report`: a spool at one moment. `facts`: what is read for it.
- `sentences`: how spool and routes stand, in words. `concerns`: what a person should see to.
- `situations`: routes that stand alike, as one where there are many.
- `prometheus`: the same in Prometheus' text format.
- `timeline`: what happened as sentences, and a chart for a terminal.
- `page`: the same as a page of HTML. `chart`: its charts.
"""
