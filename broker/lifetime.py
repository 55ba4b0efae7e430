"""A process's life: which loop it runs on, how many connections it may hold, when it ends, what it does in between.

1. The first SIGTERM or SIGINT asks for an orderly end, the second one ends at once: what is committed is safe anyhow.
2. Jobs are looked at when they are due, when somebody wakes them, and once a minute in case the clock was set.
3. A job that fails is logged and tried again later; it takes nobody with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

import structlog

from provisioner.errors import Unavailable
from provisioner.model import Millis
from provisioner.ports import Clock

T = TypeVar("T")

_LONGEST_NAP = 60.0
_AFTER_FAILURE = 1.0


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` on uvloop where there is one, else on asyncio's own loop."""
    try:
        import uvloop  # noqa: PLC0415  # not there on every system
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def raise_file_limit() -> int:
    """Take as many open files as the system lets us without privileges; returns how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # some systems name a hard limit above what they accept
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            return hard
    return soft


@contextlib.contextmanager
def stopped_by_signals(stop: asyncio.Event) -> Iterator[None]:
    """Set `stop` on the first signal; the second ends the process with the exit code shells expect."""
    loop = asyncio.get_running_loop()

    def ask(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, ask, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def keep_stepping(step: Callable[[Millis], Awaitable[Millis | None]], clock: Clock, wake: asyncio.Event) -> None:
    """Call `step` whenever it said that it is due, or `wake` is set, until cancelled."""
    log = structlog.get_logger().bind()
    while True:
        wake.clear()
        try:
            due = await step(clock())
            nap = _LONGEST_NAP if due is None else min(_LONGEST_NAP, max(0.0, (due - clock()) / 1000))
        except Unavailable as error:
            log.warning("jobs wait", detail=error.detail, retry_after=error.retry_after)
            nap = float(error.retry_after)
        except Exception:
            log.exception("jobs failed")
            nap = _AFTER_FAILURE
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(nap):
                await wake.wait()
