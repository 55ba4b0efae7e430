"""`provisioner events`: what happened, as others are told it, and what could not be told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any
from urllib.parse import quote

import typer

from broker.cli.client import Api, Door, Server, TokenFile, ask, present
from broker.cli.output import Failed, Json, emit, print_json, printable, say, where
from broker.cli.times import moment, parse_past

app = typer.Typer(no_args_is_help=True, add_completion=False, help="What happened, as others are told it.")

_PATH = "/v2/events"
_COLUMNS = {"when": "when", "event": "name", "status": "status", "request": "requestId", "id": "id"}
_DEAD = {"sink": "sink", "since": "since", "attempts": "attempts", "waiting": "waiting", "why": "problem", "id": "id"}
_SINKS = {"sink": "name", "waiting": "waiting", "dead": "dead", "last problem": "problem"}
_AGAIN = 2.0
"""Seconds before a stream that broke off is opened again."""


def _when(text: str) -> Any:
    return typer.Option(parser=parse_past, metavar="WHEN", help=text)


Type = Annotated[
    list[str] | None, typer.Option("--type", help="Only of this type, such as RecipeApplied; may be repeated.")
]
Request = Annotated[int | None, typer.Option("--request", metavar="ID", help="Only of this request.")]
Account = Annotated[str | None, typer.Option(help="Name or id: only of this account.")]
Sink = Annotated[str | None, typer.Option(help="Only of this sink: webhook or mqtt.")]


@app.command("list")
def list_events(
    ctx: typer.Context,
    *,
    type_: Type = None,
    request: Request = None,
    account: Account = None,
    since: Annotated[int | None, _when("Only what happened then or later: 2h (ago), 2027-01-31.")] = None,
    until: Annotated[int | None, _when("Only what happened then or earlier.")] = None,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Only behind this event, oldest first.")] = None,
    offset: Annotated[int, typer.Option(min=0, help="Leave out this many.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Show at most this many.")] = 50,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """List events, newest first.

    Example: provisioner events list --type RecipeFailed
    """

    async def work(api: Api) -> Any:
        filters = await _filters(api, type_, request, account)
        times = {"startDate": since, "endDate": until}
        return await api.get(_PATH, **filters, **times, after=after, offset=offset, limit=limit)

    page = ask(Door(where(ctx), server, token_file), work)
    rows = page["event"] if as_json else [_row(one["event"], one) for one in page["event"]]
    emit(rows, _COLUMNS, as_json=as_json, empty="No events yet.")
    if page["limitExceeded"]:
        say(f"There are more: --offset {offset + limit} shows them.")


@app.command("tail")
def tail(
    ctx: typer.Context,
    *,
    type_: Type = None,
    request: Request = None,
    account: Account = None,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Begin behind this event; default: now.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="End after this many.")] = None,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Show events as they happen, until Ctrl-C; with --json one a line.

    Example: provisioner events tail --type RecipeApplied
    """

    async def work(api: Api) -> None:
        filters = present(await _filters(api, type_, request, account))
        left = count
        async for event in _follow(api, filters, after):
            typer.echo(json.dumps(event, ensure_ascii=False) if as_json else _line(event))
            if left is not None and (left := left - 1) == 0:
                return

    ask(Door(where(ctx), server, token_file), work)


@app.command("replay")
def replay(
    ctx: typer.Context,
    *,
    sink: Annotated[str, typer.Option(help="Who shall get them: webhook or mqtt.")],
    request: Request = None,
    since: Annotated[int | None, _when("What happened then or later.")] = None,
    until: Annotated[int | None, _when("What happened then or earlier.")] = None,
    after: Annotated[str | None, typer.Option(metavar="ID", help="What happened behind this event.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything that is kept.")] = False,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Deliver events once more, under the ids they had.

    Example: provisioner events replay --sink webhook --since 2027-01-31T08:00
    """
    fields = present({"requestId": request, "startDate": since, "endDate": until, "after": after})
    if not fields and not everything:
        raise Failed("Say which: --request, --since, --until, --after, or --all for everything that is kept.", code=2)

    async def work(api: Api) -> Any:
        return await api.post(f"{_PATH}/replay", {"sink": sink, **fields})

    _tell_count(ask(Door(where(ctx), server, token_file), work), f"go to {sink} once more", as_json=as_json)


@app.command("sinks")
def sinks(ctx: typer.Context, *, server: Server = None, token_file: TokenFile = None, as_json: Json = False) -> None:
    """Show who gets every event, and how far it is.

    Example: provisioner events sinks
    """

    async def work(api: Api) -> Any:
        return (await api.get(f"{_PATH}/sinks"))["sink"]

    empty = "No sinks: the settings events.webhook_url and events.mqtt_url name them."
    emit(ask(Door(where(ctx), server, token_file), work), _SINKS, as_json=as_json, empty=empty)


@app.command("dead")
def dead(
    ctx: typer.Context,
    *,
    sink: Sink = None,
    offset: Annotated[int, typer.Option(min=0, help="Leave out this many.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Show at most this many.")] = 50,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """List dead letters: events that were not taken after all attempts.

    Example: provisioner events dead
    """

    async def work(api: Api) -> Any:
        return await api.get(f"{_PATH}/dead", sink=sink, offset=offset, limit=limit)

    page = ask(Door(where(ctx), server, token_file), work)
    rows = page["dead"] if as_json else [_row(one["event"], one) for one in page["dead"]]
    emit(rows, {"event": "name"} | _DEAD, as_json=as_json, empty="No dead letters.")
    if page["limitExceeded"]:
        say(f"There are more: --offset {offset + limit} shows them.")


@app.command("redrive")
def redrive(
    ctx: typer.Context,
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Which; default: all.")] = None,
    *,
    sink: Sink = None,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Deliver dead letters after all.

    Example: provisioner events redrive --sink webhook
    """

    async def work(api: Api) -> Any:
        return await api.post(f"{_PATH}/dead/redrive", present({"sink": sink, "ids": ids or None}))

    _tell_count(ask(Door(where(ctx), server, token_file), work), "are delivered after all", as_json=as_json)


@app.command("discard")
def discard(
    ctx: typer.Context,
    event_id: Annotated[str, typer.Argument(metavar="ID", help="Which.")],
    *,
    sink: Annotated[str, typer.Option(help="Of which sink: webhook or mqtt.")],
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Give a dead letter up: what waits behind it is delivered.

    Example: provisioner events discard 00000000000000070c1d6f2b8e3a4f59 --sink webhook
    """

    async def work(api: Api) -> Any:
        return await api.delete(f"{_PATH}/dead/{quote(sink, safe='')}/{quote(event_id, safe='')}")

    _tell_count(ask(Door(where(ctx), server, token_file), work), "are given up", as_json=as_json)


async def _follow(api: Api, filters: dict[str, Any], after: str | None) -> AsyncIterator[dict[str, Any]]:
    """Envelopes as they come; a stream that breaks off is opened again where it ended."""
    import httpx2  # noqa: PLC0415  # --help does not wait for it

    place = after or next((one["event"]["id"] for one in (await api.get(_PATH, limit=1))["event"]), None)
    while True:
        try:
            async with aclosing(api.follow(f"{_PATH}/stream", place, **filters)) as events:
                async for event in events:
                    place = event["id"]
                    yield event
        except httpx2.TransportError as error:
            say(f"The stream broke off ({str(error) or type(error).__name__}); trying again.")
        await asyncio.sleep(_AGAIN)


async def _filters(api: Api, types: list[str] | None, request: int | None, account: str | None) -> dict[str, Any]:
    named = [one if "." in one else _full(one) for one in types or ()]
    account_id = await api.account_id(account) if account else None
    return {"types": ",".join(named) or None, "requestId": request, "accountId": account_id}


def _full(name: str) -> str:
    """`RecipeApplied` is short for `Device.ProvisioningRecipeApplied`."""
    return f"Device.Provisioning{name}" if name.startswith("Recipe") else f"Device.{name}"


def _row(event: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    return more | {
        "id": event["id"],
        "name": event["type"].removeprefix("Device."),
        "status": event["payload"]["status"],
        "when": moment(more.get("createdOn")),
        "since": moment(more.get("deadOn")),
    }


def _line(event: dict[str, Any]) -> str:
    told = event["payload"]
    named = (told.get("deviceName"), told.get("serialNumber"), told.get("macAddress"), told.get("clientId"))
    who = next((one for one in named if one), str(int(told["uid"], 16)))
    why = told.get("errorMessage") or told.get("detail") or ""
    return printable(
        f"{event['id']}  {event['type'].removeprefix('Device.'):<28} {told['status']:<8} {who}  {why}"
    ).rstrip()


def _tell_count(said: dict[str, int], what: str, *, as_json: bool) -> None:
    if as_json:
        print_json(said)
    else:
        say(f"{said['count']} events {what}." if said["count"] != 1 else f"1 event: {what}.")
