"""Metering: how instruments come to the MeterProvider of a process, where one is set.

Invariants:

- Only a thread of its own makes them, and only who collects looks at them. OpenTelemetry's SDK
  holds a lock while it collects, as long as anybody's callbacks last, and the child of a fork may
  find it locked for ever: nobody else ever waits for it.
- Where no MeterProvider is set nothing is begun. One that is set later is found by the next look.
- Each instrument is made once, and one that cannot be had hinders no other.
- A fork waits for the making, briefly and once: its child would find the SDK's locks locked.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from typing import TYPE_CHECKING, Final

from opentelemetry.environment_variables import OTEL_PYTHON_METER_PROVIDER
from opentelemetry.metrics import NoOpMeter, get_meter, get_meter_provider

from spool.__about__ import __version__
from spool.system.forks import PerProcess, will_fork
from spool.system.locks import BRIEFLY
from spool.system.log import LimitedWarning

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.metrics import Meter

trouble: Final = LimitedWarning("the MeterProvider raises")

_NAME: Final = "langfuse-spool"
_unmade: Final[deque[Callable[[Meter], object]]] = deque()
# The thread that makes them, if there is one.
_making: Final[PerProcess[list[threading.Thread]]] = PerProcess(list, lambda _: None)


def want(*makers: Callable[[Meter], object]) -> None:
    """Have instruments made once a MeterProvider is set; each of `makers` makes one."""
    _unmade.extend(makers)


def look() -> bool:
    """Say whether a MeterProvider is set; where one is, have made what is wanted. Never waits."""
    is_set = _is_set()
    if is_set and _unmade and not will_fork():
        making = _making.get()
        if not any(one.is_alive() for one in making):
            thread = threading.Thread(target=_make, name="spool-metrics", daemon=True)
            making[:] = [thread]
            with contextlib.suppress(RuntimeError):  # none is to be had: the next look tries again
                thread.start()
    return is_set


def _is_set() -> bool:
    if OTEL_PYTHON_METER_PROVIDER in os.environ:  # loading it is the thread's
        return True
    provider = get_meter_provider()
    # Those of the API itself pass all over; the SDK's says so in the log once it was shut down.
    is_the_apis = type(provider).__module__.startswith("opentelemetry.metrics")
    return not is_the_apis and not getattr(provider, "_shutdown", False)


def _make() -> None:
    try:
        meter = get_meter(_NAME, __version__)
    except Exception as error:  # noqa: BLE001 - what OTEL_PYTHON_METER_PROVIDER names
        trouble.warn(error)
        meter = NoOpMeter(_NAME)
    while _unmade:
        try:
            _unmade.popleft()(meter)
        except Exception as error:  # noqa: BLE001, PERF203 - as the invariants say
            trouble.warn(error)


def _before_fork() -> None:
    making = _making.get()
    while making:
        thread = making.pop()
        if thread.is_alive():
            thread.join(BRIEFLY)


os.register_at_fork(before=_before_fork)
