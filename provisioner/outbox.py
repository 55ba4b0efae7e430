"""Delivery of domain events: each sink gets each event at least once, a request's events in order.

1. What a sink has to deliver is in the ledger: a place in commit order, and rows for what it took and has not
   delivered. A process may die between a delivery and its mark; the next one delivers that event again under the same
   id.
2. Events are delivered in commit order, `parallel` at a time. An event never leaves while an earlier one of the same
   request is undelivered: it was not taken, is being delivered, or is dead.
3. A receiver that is away (`Unavailable`) is left alone for a while, and no event is blamed for it. An event that was
   not taken is tried again later, each time after a longer while, then it is a dead letter: the later events of its
   request wait until it is redriven or discarded, all others go on.
4. A batch is bounded and so is the memory. Nothing here is on the path of a claim, whatever a sink does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from provisioner.errors import Unavailable
from provisioner.events import StoredEvent
from provisioner.model import Millis
from provisioner.ports import Entropy, EventLog, EventSink, Leased, Postponed

BATCH = 32
LEASE = 600_000
"""How long a worker has for one batch, milliseconds."""

_FIRST = 1_000
_CAP = 3_600_000
_AWAY_CAP = 60_000
_PRUNED_AT_ONCE = 500
_BETWEEN_PRUNINGS = 600_000
_DAY = 86_400_000

Report = Callable[[str, StoredEvent, str], None]
"""Told of each dead letter: sink, event, problem."""


def backoff(attempts: int, cap: Millis, entropy: Entropy) -> Millis:
    """Milliseconds until the next attempt: 1 s doubled each time, at most `cap`, of which half is jitter."""
    longest = min(cap, _FIRST << min(attempts, 20))
    return longest // 2 + longest // 2 * int.from_bytes(entropy(2), "big") // 0xFFFF


@dataclass(slots=True)
class _Batch:
    """Leased events in commit order, and what became of them so far."""

    waiting: list[Leased]
    busy: set[int] = field(default_factory=set)
    """Requests of which an event is under way, or was not taken: nothing more of them leaves in this batch."""
    delivered: list[StoredEvent] = field(default_factory=list)
    others: list[Postponed] = field(default_factory=list)
    away: Unavailable | None = None

    def next(self) -> Leased | None:
        """The first event that may leave now."""
        for place, leased in enumerate(self.waiting if self.away is None else ()):
            if leased.event.request_id not in self.busy:
                self.busy.add(leased.event.request_id)
                return self.waiting.pop(place)
        return None


class Outbox:
    """The worker of one sink, which the log knows already; `step` whenever something is due or was committed."""

    def __init__(
        self, log: EventLog, sink: EventSink, entropy: Entropy, max_attempts: int, report: Report = lambda *_: None
    ) -> None:
        self._log = log
        self._sink = sink
        self._entropy = entropy
        self._max_attempts = max_attempts
        self._report = report
        self._unsettled: _Batch | None = None
        self._away_until = 0
        self._times_away = 0

    async def step(self, now: Millis) -> Millis | None:
        """Deliver what is due; when to come back (None: when something is committed). Raises `Unavailable`."""
        if self._unsettled is not None:
            await self._settle(self._unsettled, now)
        if now < self._away_until <= now + 2 * _AWAY_CAP:
            return self._away_until
        due = await self._log.next_delivery(self._sink.name)
        if due is None or due > now:
            return due
        batch = _Batch(list(await self._log.lease(self._sink.name, now, now + LEASE, BATCH)))
        if not batch.waiting:  # what is due waits for an earlier one that is not
            return now + _FIRST
        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(min(self._sink.parallel, len(batch.waiting))):
                    workers.create_task(self._work(batch, now))
        finally:
            # Even when we are cut off, so that what was delivered is not delivered again.
            await self._settle(batch, now)
        self._note_away(batch.away, now)
        if batch.away is not None:
            raise batch.away
        return await self._log.next_delivery(self._sink.name)

    async def _work(self, batch: _Batch, now: Millis) -> None:
        while (leased := batch.next()) is not None:
            event, attempts = leased.event, leased.attempts + 1
            try:
                problem = await self._sink.deliver(event)
            except BaseException as error:
                batch.others.append(Postponed(event, leased.attempts))
                if not isinstance(error, Unavailable):
                    raise
                batch.away = error
                return
            if problem is None:
                batch.delivered.append(event)
                batch.busy.discard(event.request_id)
            else:
                batch.others.append(self._postponed(event, attempts, problem, now))

    def _postponed(self, event: StoredEvent, attempts: int, problem: str, now: Millis) -> Postponed:
        if attempts >= self._max_attempts:
            self._report(self._sink.name, event, problem)
            return Postponed(event, attempts, None, problem, is_dead=True)
        return Postponed(event, attempts, now + backoff(attempts - 1, _CAP, self._entropy), problem)

    async def _settle(self, batch: _Batch, now: Millis) -> None:
        self._unsettled = batch
        left = [Postponed(leased.event, leased.attempts) for leased in batch.waiting]
        await self._log.settle(self._sink.name, batch.delivered, [*batch.others, *left], now)
        self._unsettled = None

    def _note_away(self, away: Unavailable | None, now: Millis) -> None:
        """Until when nobody knocks, after the receiver was away."""
        if away is None:
            self._times_away = 0
            return
        wait = max(away.retry_after * 1000, backoff(self._times_away, _AWAY_CAP, self._entropy))
        self._times_away += 1
        self._away_until = now + min(wait, 2 * _AWAY_CAP)


class Retention:
    """Deletes events that every sink has delivered and that are older than `days`."""

    def __init__(self, log: EventLog, sinks: Sequence[str], days: int) -> None:
        self._log = log
        self._sinks = sinks
        self._days = days

    async def step(self, now: Millis) -> Millis | None:
        """Delete a portion; when to come back. Raises `Unavailable`."""
        deleted = await self._log.prune(now - self._days * _DAY, self._sinks, _PRUNED_AT_ONCE)
        return now + (100 if deleted == _PRUNED_AT_ONCE else _BETWEEN_PRUNINGS)
