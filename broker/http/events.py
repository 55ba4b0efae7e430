"""Routes under `/v2/events`: the domain events as a list, as a stream, and what a sink could not deliver.

1. An event is shown as every sink delivers it, in `event`; beside it stands what the envelope has no member for.
2. A stream (server-sent events) is read from the ledger page by page, as fast as its reader takes them: nothing is
   queued for it. It goes on behind `Last-Event-ID`, without one behind the newest event.
3. Its token is looked at again before every page: whoever lost it is out.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, field_validator

from broker.http.bodies import MAX_NUMBER, Body, Digits
from broker.http.calls import Asked, Call
from broker.http.entities import Entity
from provisioner import events
from provisioner.errors import ProvisionerError, Unavailable
from provisioner.events import EventType, StoredEvent
from provisioner.ports import DeadLetter, EventFilter

PATH = "/v2/events"
router = APIRouter(prefix=PATH, tags=["events"])

KEEP_ALIVE = 15.0
"""A comment keeps proxies from closing a silent stream, seconds."""

MAX_STREAMS = 64
_PAGE = 100
_GATHER = 0.05
"""What is committed within this time is read together, seconds: hundreds of commits a second would be as many reads."""
_RETRY = 2_000

_log = structlog.get_logger(__name__)

Number = Annotated[int, Field(ge=0, le=MAX_NUMBER), Digits]
EventId = Annotated[str, Field(max_length=64, description="`id` of an event")]
Limit = Annotated[int, Field(ge=1, le=1000), Digits]


class Feed:
    """Wakes the event streams of this process when something was committed, and ends them when it stops."""

    def __init__(self) -> None:
        self.streams = 0
        self.closed = False
        self._told = asyncio.Event()

    def tell(self) -> None:
        """Events were committed."""
        self._told.set()
        self._told = asyncio.Event()

    def next(self) -> asyncio.Event:
        """Set at the next `tell`; take it before looking, so that nothing comes in between."""
        return self._told

    def close(self) -> None:
        """End every stream: a server with an open stream never stops."""
        self.closed = True
        self.tell()


class EventEntity(Entity):
    """A domain event."""

    created_on: int
    request_id: int
    account_id: int
    event: dict[str, Any] = Field(description="the envelope as it is delivered")


class EventList(Entity):
    """A page of events; `limitExceeded`: there are more behind it."""

    limit_exceeded: bool
    event: list[EventEntity]


class DeadEntity(Entity):
    """An event that a sink gave up."""

    sink: str
    attempts: int
    dead_on: int
    problem: str
    waiting: int = Field(description="later events of the same request that wait behind it")
    event: dict[str, Any]


class DeadList(Entity):
    """A page of dead letters, oldest first."""

    limit_exceeded: bool
    dead: list[DeadEntity]


class SinkEntity(Entity):
    """Who gets every event, and how far it is."""

    name: str
    waiting: int
    dead: int
    problem: str | None = Field(description="what was wrong with an event that waits, or is dead")


class SinkList(Entity):
    """The sinks."""

    sink: list[SinkEntity]


class Count(Entity):
    """How many events a call was about."""

    count: int


class Filters(BaseModel):
    """Which events; filters combine."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    types: list[EventType] = Field(default=[], description="repeated, or separated by commas")
    request_id: Number | None = Field(default=None, alias="requestId")
    account_id: Number | None = Field(default=None, alias="accountId")

    @field_validator("types", mode="before")
    @classmethod
    def _split(cls, values: Any) -> Any:
        return [part for value in values for part in value.split(",") if part]

    def wanted(self) -> EventFilter:
        """The same as the ledger takes it."""
        return EventFilter(
            request_id=self.request_id,
            accounts=None if self.account_id is None else (self.account_id,),
            types=tuple(self.types) or None,
        )


class EventQuery(Filters):
    """Filters and the page."""

    after: EventId | None = Field(default=None, description="only events behind this one, oldest first")
    start_date: Number | None = Field(default=None, alias="startDate", description="made then or later")
    end_date: Number | None = Field(default=None, alias="endDate", description="made then or earlier")
    offset: Number = 0
    limit: Limit = 50

    def wanted(self) -> EventFilter:
        """The same as the ledger takes it, but for `after`."""
        return replace(super().wanted(), start=self.start_date, end=self.end_date)


class DeadQuery(BaseModel):
    """Which dead letters, and the page."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    sink: Annotated[str, Field(max_length=64)] | None = None
    offset: Number = 0
    limit: Limit = 50


class Redrive(Body):
    """Which dead letters; without `ids` all of them, without `sink` those of every sink."""

    sink: Annotated[str, Field(max_length=64)] | None = None
    ids: Annotated[list[EventId], Field(min_length=1, max_length=1000)] | None = None


class Replay(Body):
    """Which events a sink shall deliver once more; times are epoch milliseconds, `after` is an event's id."""

    sink: Annotated[str, Field(max_length=64)]
    after: EventId | None = None
    request_id: Annotated[int, Field(ge=0, le=MAX_NUMBER)] | None = None
    start_date: Annotated[int, Field(ge=0, le=MAX_NUMBER)] | None = None
    end_date: Annotated[int, Field(ge=0, le=MAX_NUMBER)] | None = None


@router.get("", summary="List events, newest first")
async def list_events(call: Asked, query: Annotated[EventQuery, Query()]) -> EventList:
    """With `after`: oldest first behind that event, which is how to poll."""
    wanted = query.wanted()
    if query.after is not None:
        wanted = replace(wanted, after=await call.events.place(call.actor, query.after))
    found, more = await call.events.list_events(
        call.actor, wanted, query.limit, query.offset, newest_first=query.after is None
    )
    return EventList(limit_exceeded=more, event=[_entity(event) for event in found])


@router.get(
    "/stream",
    summary="Follow events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}, "description": "server-sent events, one an event"}},
)
async def stream_events(
    call: Asked,
    request: Request,
    query: Annotated[Filters, Query()],
    last_event_id: Annotated[str | None, Header(max_length=64)] = None,
) -> StreamingResponse:
    """`id` is the event's, `data` its envelope. Send the last `id` as `Last-Event-ID` to miss nothing in between."""
    feed: Feed = request.app.state.feed
    if feed.closed or feed.streams >= MAX_STREAMS:
        raise Unavailable("there are too many event streams already")
    after = await (call.events.place(call.actor, last_event_id) if last_event_id else call.events.newest())
    told = _told(call, feed, replace(query.wanted(), after=after), request.headers["authorization"].partition(" ")[2])
    return StreamingResponse(told, media_type="text/event-stream")


async def _told(call: Call, feed: Feed, wanted: EventFilter, token: str) -> AsyncIterator[bytes]:
    feed.streams += 1
    try:
        yield f"retry: {_RETRY}\n\n".encode()
        while not feed.closed:
            fresh = feed.next()
            actor = await call.administration.authenticate(token.strip())
            found, after = await call.events.follow(actor, wanted, _PAGE)
            wanted = replace(wanted, after=after)
            if found:
                yield b"".join(b"id: %b\ndata: %b\n\n" % (one.id.encode(), events.body(one)) for one in found)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(KEEP_ALIVE):
                    await fresh.wait()
                await asyncio.sleep(_GATHER)
                continue
            yield b": nothing new\n\n"
    except ProvisionerError as error:
        _log.info("event stream ends", token_id=call.actor.token_id, detail=str(error))
    finally:
        feed.streams -= 1


@router.get("/sinks", summary="Who gets every event")
async def list_sinks(call: Asked) -> SinkList:
    """How many events wait for each sink; shown to tokens of the whole installation."""
    states = await call.events.list_sinks(call.actor)
    return SinkList(
        sink=[SinkEntity(name=one.name, waiting=one.waiting, dead=one.dead, problem=one.problem) for one in states]
    )


@router.get("/dead", summary="List dead letters, oldest first")
async def list_dead(call: Asked, query: Annotated[DeadQuery, Query()]) -> DeadList:
    """Events that a sink gave up after all its attempts."""
    found, more = await call.events.list_dead(call.actor, query.sink, query.limit, query.offset)
    return DeadList(limit_exceeded=more, dead=[_dead_entity(letter) for letter in found])


@router.post("/dead/redrive", summary="Deliver dead letters after all")
async def redrive(call: Asked, body: Redrive | None = None) -> Count:
    """They have all their attempts again, and keep their ids."""
    body = body or Redrive()
    return Count(count=await call.events.redrive(call.actor, body.sink, body.ids))


@router.delete("/dead/{sink}/{event_id}", summary="Give a dead letter up")
async def discard(call: Asked, sink: Annotated[str, Path(max_length=64)], event_id: EventId) -> Count:
    """What waits behind it is delivered."""
    return Count(count=await call.events.discard(call.actor, sink, [event_id]))


@router.post("/replay", summary="Deliver events once more")
async def replay(call: Asked, body: Replay) -> Count:
    """Oldest first, under the ids they had."""
    after = 0 if body.after is None else await call.events.place(call.actor, body.after)
    wanted = EventFilter(after, request_id=body.request_id, start=body.start_date, end=body.end_date)
    return Count(count=await call.events.replay(call.actor, body.sink, wanted))


def _entity(event: StoredEvent) -> EventEntity:
    return EventEntity(
        created_on=event.made_on,
        request_id=event.request_id,
        account_id=event.account_id,
        event=events.envelope(event),
    )


def _dead_entity(letter: DeadLetter) -> DeadEntity:
    return DeadEntity(
        sink=letter.sink,
        attempts=letter.attempts,
        dead_on=letter.dead_on,
        problem=letter.problem,
        waiting=letter.waiting,
        event=events.envelope(letter.event),
    )
