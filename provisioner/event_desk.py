"""What operators may do with domain events: read and follow them, and look after those that could not be delivered.

1. An operator sees the events of the accounts it sees, and no others exist for it.
2. Any role reads. What makes a sink deliver, or never deliver, needs an admin.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from provisioner.errors import NotFound
from provisioner.events import StoredEvent, parse_event_id
from provisioner.policy import Actor, check_role
from provisioner.ports import DeadFilter, DeadLetter, EventFilter, EventLog, SinkState

Visible = Callable[[Actor], Awaitable[frozenset[int] | None]]
"""Ids of the accounts an operator sees; None: all."""

MAX_REPLAY = 100_000
"""Events that one call gives back to a sink, at most."""


class EventDesk:
    """The operator's use cases around domain events; `wake` is called when a sink has to look at once."""

    def __init__(self, log: EventLog, visible: Visible, wake: Callable[[], None] = lambda: None) -> None:
        self._log = log
        self._visible = visible
        self._wake = wake

    # -- reading -------------------------------------------------------------------------------------------------------

    async def list_events(
        self, actor: Actor, wanted: EventFilter, limit: int, offset: int = 0, *, newest_first: bool = False
    ) -> tuple[Sequence[StoredEvent], bool]:
        """A page of what the operator may see, and whether there are more behind it."""
        wanted = await self._allowed(actor, wanted)
        found = await self._log.list_events(wanted, limit + 1, offset=offset, newest_first=newest_first)
        return found[:limit], len(found) > limit

    async def place(self, actor: Actor, event_id: str) -> int:
        """Place in commit order of an event the operator may see. Raises `Invalid`, `NotFound`."""
        seq, nonce = parse_event_id(event_id)
        event = await self._log.find(seq)
        visible = await self._visible(actor)
        if event is None or event.nonce != nonce or (visible is not None and event.account_id not in visible):
            raise NotFound("no-such-event", "there is no such event, or it is not kept any more")
        return seq

    async def newest(self) -> int:
        """Place of the newest event, whoever may see it."""
        return await self._log.newest()

    async def follow(self, actor: Actor, wanted: EventFilter, limit: int) -> tuple[Sequence[StoredEvent], int]:
        """The events behind `wanted.after` in commit order, and the place to go on from."""
        newest = await self._log.newest()
        found, more = await self.list_events(actor, replace(wanted, upto=newest), limit)
        return found, found[-1].seq if more else max(newest, wanted.after)

    async def _allowed(self, actor: Actor, wanted: EventFilter) -> EventFilter:
        visible = await self._visible(actor)
        if visible is None:
            return wanted
        asked = visible if wanted.accounts is None else [one for one in wanted.accounts if one in visible]
        return replace(wanted, accounts=tuple(asked))

    # -- sinks and dead letters ----------------------------------------------------------------------------------------

    async def list_sinks(self, actor: Actor) -> Sequence[SinkState]:
        """How far each sink is; for whoever sees the whole installation."""
        return await self._log.list_sinks() if await self._visible(actor) is None else []

    async def list_dead(
        self, actor: Actor, sink: str | None, limit: int, offset: int = 0
    ) -> tuple[Sequence[DeadLetter], bool]:
        """A page of dead letters, oldest first, and whether there are more."""
        found = await self._log.list_dead(await self._dead(actor, sink), limit + 1, offset)
        return found[:limit], len(found) > limit

    async def redrive(self, actor: Actor, sink: str | None, ids: Sequence[str] | None) -> int:
        """Let dead letters be delivered after all, all of them or those named; how many."""
        check_role(actor)
        count = await self._log.redrive(await self._dead(actor, sink, ids))
        self._wake()
        return count

    async def discard(self, actor: Actor, sink: str | None, ids: Sequence[str]) -> int:
        """Give the named dead letters up for good: what waits behind them is delivered; how many."""
        check_role(actor)
        count = await self._log.discard(await self._dead(actor, sink, ids))
        self._wake()
        return count

    async def replay(self, actor: Actor, sink: str, wanted: EventFilter) -> int:
        """Let a sink deliver events once more, under their ids, at most `MAX_REPLAY`; how many. Raises `NotFound`."""
        check_role(actor)
        if sink not in {state.name for state in await self._log.list_sinks()}:
            raise NotFound("no-such-sink", f"there is no sink {sink}; GET /v2/events/sinks lists those there are")
        count = await self._log.replay(sink, await self._allowed(actor, wanted), MAX_REPLAY)
        self._wake()
        return count

    async def _dead(self, actor: Actor, sink: str | None, ids: Sequence[str] | None = None) -> DeadFilter:
        visible = await self._visible(actor)
        return DeadFilter(
            sink=sink,
            seqs=None if ids is None else tuple(parse_event_id(one)[0] for one in ids),
            accounts=None if visible is None else tuple(visible),
        )
