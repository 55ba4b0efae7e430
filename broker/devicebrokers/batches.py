"""Changes that arrive together are written together.

1. A broker's list is changed by one task, in the order in which changes were asked for: each `write` takes all that
   wait, at most `most`, and begins when the last one says that it may. Whoever asked is answered when its change is in
   effect.
2. A name that was revoked is not installed again: generations are never reused (wire contract, section 9, rule 5), so
   such an install is late. The last `_REMEMBERED` names are known; older ones the reconciler finds.
3. `delay` is told from what writing a change took so far.
4. Trouble of the broker is LATER for whoever waited; `write` raises `Unavailable` for it, and nothing else.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import structlog

from provisioner.errors import Unavailable
from provisioner.ports import Install, Revoke, ToInstall

_REMEMBERED = 100_000
_SMOOTHING = 0.3

_log = structlog.get_logger(__name__)


@dataclass(eq=False, slots=True)
class Change:
    """One name that goes in (`item`) or out (`item` None); `write` sets `outcome`, else it is done."""

    username: str
    item: ToInstall | None = None
    kick: bool = True
    outcome: Install | Revoke | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)


class Batches:
    """One writer of one broker's list; `write` makes changes effective and raises `Unavailable`."""

    def __init__(
        self,
        name: str,
        write: Callable[[Sequence[Change]], Awaitable[None]],
        most: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.most = most
        self._name = name
        self._write = write
        self._clock = clock
        self._waiting: deque[Change] = deque()
        self._revoked: dict[str, None] = {}
        self._task: asyncio.Task[None] | None = None
        self._busy = 0
        self._began = 0.0
        self.each = 0.0
        """Seconds a change took lately."""
        self.not_before = 0.0
        """When the next write may begin at the earliest, on the steady clock; `write` sets it."""

    async def install(self, items: Sequence[ToInstall]) -> Sequence[Install]:
        """See `DeviceBroker`."""
        changes = [Change(item.credential.username, item) for item in items]
        await self._put(changes)
        return [one.outcome if isinstance(one.outcome, Install) else Install.LATER for one in changes]

    async def revoke(self, usernames: Sequence[str], *, kick: bool) -> Sequence[Revoke]:
        """See `DeviceBroker`."""
        for username in usernames:
            self._revoked[username] = None
        while len(self._revoked) > _REMEMBERED:
            del self._revoked[next(iter(self._revoked))]
        changes = [Change(username, kick=kick) for username in usernames]
        await self._put(changes)
        return [one.outcome if isinstance(one.outcome, Revoke) else Revoke.LATER for one in changes]

    def delay(self, username: str) -> float:
        """See `DeviceBroker`."""
        place = next((place for place, change in enumerate(self._waiting, 1) if change.username == username), 0)
        under_way = max(0.0, self._busy * self.each - (self._clock() - self._began)) if self._busy else 0.0
        return under_way + place * self.each

    async def close(self) -> None:
        """Whoever waits is told LATER."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        for change in self._waiting:
            change.done.set()
        self._waiting.clear()

    async def _put(self, changes: Sequence[Change]) -> None:
        self._waiting += changes
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name=f"device broker {self._name}")
        for change in changes:
            await change.done.wait()

    async def _run(self) -> None:
        while self._waiting:
            await asyncio.sleep(max(0.0, self.not_before - self._clock()))
            batch = [self._waiting.popleft() for _ in range(min(self.most, len(self._waiting)))]
            try:
                await self._settle(batch)
            finally:
                self._busy = 0
                for change in batch:
                    change.done.set()

    async def _settle(self, batch: Sequence[Change]) -> None:
        wanted = []
        for change in batch:
            if change.item is not None and change.username in self._revoked:
                change.outcome = Install.NEVER
            else:
                wanted.append(change)
        if not wanted:
            return
        self._busy, self._began = len(wanted), self._clock()
        try:
            await self._write(wanted)
        except Unavailable as error:
            _log.warning("device broker away", device_broker=self._name, detail=error.detail)
            for change in wanted:
                change.outcome = Revoke.LATER if change.item is None else Install.LATER
            return
        each = (max(self._clock(), self.not_before) - self._began) / len(wanted)
        self.each = each if not self.each else self.each + _SMOOTHING * (each - self.each)
        for change in wanted:
            if change.outcome is None:
                change.outcome = Revoke.CLOSED if change.item is None else Install.DONE
