"""A process's life: which loop it runs on, how many connections it may hold, when it ends, what it does in between.

1. The first SIGTERM or SIGINT asks for an orderly end, the second one ends at once: what is committed is safe anyhow.
2. Jobs are looked at when they are due, when somebody wakes them, and once a minute in case the clock was set; that it
   was set is worth a warning, as windows and confirm times are told by it.
3. SIGHUP asks to read again what may change while we run, and never ends the process.
4. A job that fails is logged and tried again later; it takes nobody with it. What it waits for is logged once.
5. A step that was begun is ended: it is asked to stop between steps, and only cut off when it takes too long.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

import structlog

from provisioner.errors import Unavailable
from provisioner.model import Millis
from provisioner.ports import Clock

T = TypeVar("T")

log = structlog.get_logger(__name__)

_LONGEST_NAP = 60.0
_AFTER_FAILURE = 1.0
_SET = 60.0
"""A wall clock that moved by so many seconds more or less than the steady one was set."""


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` on uvloop where there is one, else on asyncio's own loop."""
    try:
        import uvloop  # noqa: PLC0415  # not there on every system
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def settle_memory() -> None:
    """What was imported and built stays for good: the collector need not look through it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def most_memory() -> int:
    """The most memory this process had at any time, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


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


@contextlib.contextmanager
def reloaded_by_signal(*reloads: Callable[[], None]) -> Iterator[None]:
    """Call these, in order, on every SIGHUP."""
    loop = asyncio.get_running_loop()

    def reload() -> None:
        for one in reloads:
            one()

    loop.add_signal_handler(signal.SIGHUP, reload)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


class ClockWatch:
    """Tells the log when the wall clock was set, by comparing it with the one that nobody sets."""

    def __init__(self) -> None:
        self._seen: tuple[Millis, float] | None = None

    def look(self, now: Millis) -> None:
        """Compare them now."""
        steady = asyncio.get_running_loop().time()
        if self._seen is not None:
            moved = (now - self._seen[0]) / 1000 - (steady - self._seen[1])
            if abs(moved) >= _SET:
                log.warning("the clock was set", seconds=round(moved))
        self._seen = now, steady


class Stepper:
    """Calls `step` whenever it said that it is due, or `wake` is set; `name` tells whose it is in the log.

    `watch`: who is shown each time that is read; one worker of a program is enough.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[Millis], Awaitable[Millis | None]],
        clock: Clock,
        wake: asyncio.Event,
        watch: ClockWatch | None = None,
    ) -> None:
        self.name = name
        self._step = step
        self._clock = clock
        self._wake = wake
        self._ending = False
        self._watch = watch
        self._waits_for = ""

    async def run(self) -> None:
        """Work until `end`."""
        while not self._ending:
            self._wake.clear()
            nap = await self._work()
            if self._ending:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(nap):
                    await self._wake.wait()

    async def end(self, task: asyncio.Task[None], patience: float) -> None:
        """Let the step under way end, at most `patience` seconds; `task` is the one that runs `run`."""
        self._ending = True
        self._wake.set()
        await asyncio.wait([task], timeout=patience)
        task.cancel()

    async def _work(self) -> float:
        """One step; returns seconds until the next."""
        now = self._clock()
        if self._watch is not None:
            self._watch.look(now)
        try:
            due = await self._step(now)
        except Unavailable as error:
            if error.detail != self._waits_for:
                log.warning("work waits", worker=self.name, detail=error.detail, retry_after=error.retry_after)
                self._waits_for = error.detail
            return float(error.retry_after)
        except Exception:
            log.exception("work failed", worker=self.name)
            return _AFTER_FAILURE
        self._waits_for = ""
        return _LONGEST_NAP if due is None else min(_LONGEST_NAP, max(0.0, (due - self._clock()) / 1000))
