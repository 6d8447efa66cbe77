"""A process that ends spans, and says on a pipe which ones; made to be killed.

`python tests/writer.py COUNT PAUSE`: each span is acknowledged, by its id on a line of standard
output, before the next one begins. Everything else comes from the environment.
"""

from __future__ import annotations

import os
import sys
import time

from spans import provider_of
from spool import SpoolSpanExporter


def main() -> None:
    """End spans until killed or done."""
    count, pause = int(sys.argv[1]), float(sys.argv[2])
    tracer = provider_of(SpoolSpanExporter()).get_tracer("writer")
    for number in range(count):
        span = tracer.start_span(f"span {number}", attributes={"text": "x" * 500})
        span.end()
        os.write(1, f"{span.get_span_context().span_id:016x}\n".encode())
        time.sleep(pause)


if __name__ == "__main__":
    main()
