"""Questions that arrive together are answered together.

1. What comes while a batch is out makes the next batch; who comes alone never waits.
2. Under load a batch is followed by a rest, so that the next is worth its hop to another thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

_MOST = 256
_REST = 0.01
"""Seconds between two batches while questions come faster than one at a time."""

A = TypeVar("A")
B = TypeVar("B")


class Gatherer(Generic[A, B]):
    """Questions that come while a batch is out make the next batch; an answer may be the error of that one question."""

    def __init__(self, answer: Callable[[list[A]], Awaitable[Sequence[B | Exception]]]) -> None:
        self._answer = answer
        # Asked for once: on Python 3.11 every `get_running_loop` is a getpid system call.
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[A, asyncio.Future[B]]] = []
        self._task: asyncio.Task[None] | None = None

    def ask(self, question: A) -> asyncio.Future[B]:
        """A future of the answer."""
        future: asyncio.Future[B] = self._loop.create_future()
        self._waiting.append((question, future))
        if self._task is None:
            self._task = self._loop.create_task(self._run())
        return future

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
                try:
                    answers = await self._answer([question for question, _ in batch])
                except Exception as error:  # noqa: BLE001 - whatever it is, those who wait have to hear of it
                    for _, future in batch:
                        if not future.done():
                            future.set_exception(error)
                    continue
                for (_, future), answer in zip(batch, answers, strict=True):
                    if future.done():
                        continue
                    if isinstance(answer, Exception):
                        future.set_exception(answer)
                    else:
                        future.set_result(answer)
                if len(batch) > 1:
                    await asyncio.sleep(_REST)
        finally:
            self._task = None

    async def drain(self) -> None:
        """Return when nothing is out or waiting."""
        while self._task is not None:
            await asyncio.wait([self._task])
