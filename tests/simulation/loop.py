"""An event loop in virtual time whose order is drawn from a seed.

1. Time stands still while something is ready and then jumps to the next timer.
2. Of what is ready any one runs next. asyncio promises the order of arrival; code that leans on it across tasks is
   found out here.
3. What runs belongs to a `Life`, which it inherits like any context variable. Once a life is over nothing of it runs
   again, as after SIGKILL: neither `except` nor `finally`.
4. An error that escapes a callback ends the run.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from asyncio import events
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVarTuple, cast

Ts = TypeVarTuple("Ts")


class Life:
    """Of one process, from its start until it is killed."""

    __slots__ = ("context", "is_over")

    def __init__(self) -> None:
        self.is_over = False
        self.context = Context()
        self.context.run(_LIFE.set, self)


_LIFE: ContextVar[Life | None] = ContextVar("life", default=None)
WORLD = Context()
"""For what goes on whichever process dies."""


class VirtualLoop(asyncio.AbstractEventLoop):
    """See the module. `after_step` is called after each callback; `steps` counts them."""

    def __init__(self, rng: random.Random, after_step: Callable[[], None]) -> None:
        self.steps = 0
        self._draw = rng.random
        self._after_step = after_step
        self._now = 0.0
        self._ready: list[asyncio.Handle] = []
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._numbered = 0
        self._error: BaseException | None = None
        self._closed = False
        self._kept: list[asyncio.Task[Any]] = []

    # -- what the simulation asks --------------------------------------------------------------------------------------

    def advance(self, until: float, done: Callable[[], bool]) -> bool:
        """Run until `done` (True) or until this time (False). Raises what a callback raised."""
        events._set_running_loop(self)
        try:
            while not done():
                if not self._ready and not self._wind(until):
                    self._now = max(self._now, until)
                    return False
                self._step()
        finally:
            events._set_running_loop(None)
        return True

    def _wind(self, until: float) -> bool:
        """Make the next timers ready; False when none is due before `until`."""
        timers = self._timers
        if not timers or timers[0][0] > until:
            return False
        self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            self._ready.append(heapq.heappop(timers)[2])
        return True

    def _step(self) -> None:
        ready = self._ready
        index = int(self._draw() * len(ready)) if len(ready) > 1 else 0
        handle = ready[index]
        ready[index] = ready[-1]
        ready.pop()
        if handle.cancelled():
            return
        life: Life | None = handle._context.get(_LIFE)  # type: ignore[attr-defined]  # Python 3.12 has get_context
        if life is not None and life.is_over:
            return
        handle._run()
        self.steps += 1
        if self._error is not None:
            raise self._error
        self._after_step()

    # -- what asyncio asks ---------------------------------------------------------------------------------------------

    def time(self) -> float:
        """Seconds since the world began."""
        return self._now

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """As asyncio's, but for the order."""
        handle = asyncio.Handle(callback, args, self, copy_context() if context is None else context)
        if not self._closed:
            self._ready.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As asyncio's."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As asyncio's."""
        handle = asyncio.TimerHandle(when, callback, args, self, copy_context() if context is None else context)
        if not self._closed:
            self._numbered += 1
            heapq.heappush(self._timers, (when, self._numbered, handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        """As asyncio's."""
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[Any]:
        """As asyncio's. Kept until the end, so that nothing of a killed process runs while it is thrown away."""
        task = asyncio.Task(coro, loop=self, name=name or "task", context=context)
        self._kept.append(task)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """A callback raised: that ends the run."""
        if "handle" in context and not self._closed:
            self._error = context.get("exception")

    def get_debug(self) -> bool:
        """Whether asyncio should check itself: no, that would cost more than everything else here."""
        return False

    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def is_running(self) -> bool:
        """Whether `advance` is at work; a future that is thrown away asks."""
        return not self._closed

    def close(self) -> None:
        """Throw away what is left, each coroutine by itself: garbage collection would do it in any order."""
        self._closed = True
        self._ready.clear()
        self._timers.clear()
        events._set_running_loop(self)
        for task in self._kept:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is meant to be thrown away
                with suppress(RuntimeError):  # its `finally` would wait for something
                    cast("Coroutine[Any, Any, Any]", task.get_coro()).close()
        events._set_running_loop(None)
        self._kept.clear()

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Asked by `TimerHandle.cancel`; a cancelled one is passed over when its time comes."""
