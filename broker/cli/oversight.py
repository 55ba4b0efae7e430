"""`provisioner audit` and `provisioner drift`: is all as it was written, and as it should be."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from broker.cli.client import Api, Door, Server, TokenFile, ask
from broker.cli.output import Failed, Json, emit, print_json, say, where
from broker.cli.times import moment

audit = typer.Typer(no_args_is_help=True, add_completion=False, help="The audit journal: every decision, chained.")

drift_app = typer.Typer(add_completion=False)

_PAGE = 1000
_COLUMNS = {
    "seq": "seq",
    "at": "when",
    "action": "action",
    "by": "by",
    "client": "clientId",
    "gen": "generation",
    "phase": "phase",
    "cause": "cause",
}


@audit.command("list")
def list_journal(
    ctx: typer.Context,
    *,
    after: Annotated[int, typer.Option(min=0, help="Only what comes behind this number.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=_PAGE, help="How many at the most.")] = 100,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Show decisions, oldest first.

    Example: provisioner audit list --after 1200
    """

    async def work(api: Api) -> Any:
        return (await api.get("/v2/journal", after=after, limit=limit))["entry"]

    show_entries(ask(Door(where(ctx), server, token_file), work), as_json=as_json)


@audit.command("export")
def export(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file: one JSON line an entry.")],
    *,
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """Write the whole journal to a file that `audit verify --file` checks anywhere.

    Example: provisioner audit export journal.jsonl
    """

    async def work(api: Api) -> int:
        count = 0
        with os.fdopen(_new(file), "w", encoding="ascii") as stream:
            async for entry in _all(api):
                stream.write(json.dumps(entry) + "\n")
                count += 1
        return count

    say(f"{ask(Door(where(ctx), server, token_file), work)} entries are in {file}.")


@audit.command("verify")
def verify(
    ctx: typer.Context,
    *,
    head: Annotated[
        str | None, typer.Option(metavar="DIGEST", help="A digest noted earlier, which has to be in the journal.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="An exported journal; default: the one in use.")] = None,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Check that nothing in the journal was changed, left out or put in another order.

    Note the digest it prints: with --head a later check also finds out whether lines were cut off the end.

    Example: provisioner audit verify --head 8e05…
    """

    async def work(api: Api) -> list[dict[str, Any]]:
        return [entry async for entry in _all(api)]

    entries = _load(file) if file is not None else ask(Door(where(ctx), server, token_file), work)
    last = _verified(entries, head)
    told = {"entries": 0 if last is None else last.seq, "head": None if last is None else last.digest.hex()}
    if as_json:
        print_json(told)
    elif last is None:
        say("The journal is empty.")
    else:
        say(f"{last.seq} entries, each as it was written.")
        emit(told, {"entries": "entries", "head": "head"}, as_json=False)


@drift_app.command("drift")
def drift(
    ctx: typer.Context,
    *,
    apply: Annotated[bool, typer.Option("--apply", help="Mend what was found.")] = False,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Show who is at a device broker that the ledger does not know, and the reverse. Exit code 1 if anything differs.

    With --apply unknown names of ours are taken out, missing credentials put back, and devices whose credential is
    lost get a new one with their next claim. Names that are not ours are never touched.

    Example: provisioner drift --apply
    """

    async def work(api: Api) -> Any:
        return await (api.post("/v2/drift/apply") if apply else api.get("/v2/drift"))

    found = ask(Door(where(ctx), server, token_file), work)
    if as_json:
        print_json(found)
    else:
        columns = {"device broker": "deviceBroker", "user name": "username", "is": "kind", "client": "clientId"}
        emit(found["difference"], columns, as_json=False, empty="Device brokers hold what the ledger says.")
        for name in found["unreachable"]:
            say(f"The device broker {name} could not be asked.")
    if found["unreachable"] or (found["difference"] and not apply):
        raise typer.Exit(1)


def show_entries(entries: Iterable[dict[str, Any]], *, as_json: bool) -> None:
    """Print entries of the journal."""
    if as_json:
        print_json(list(entries))
        return
    rows = [
        one
        | {
            "when": moment(one["at"]),
            "by": f"token {one['actor']}" if one["actor"] is not None else one["source"] or "provisioner",
        }
        for one in entries
    ]
    emit(rows, _COLUMNS, as_json=False)


async def _all(api: Api) -> AsyncIterator[dict[str, Any]]:
    after, more = 0, True
    while more:
        page = await api.get("/v2/journal", after=after, limit=_PAGE)
        for entry in page["entry"]:
            yield entry
            after = entry["seq"]
        more = page["limitExceeded"]


def _new(file: Path) -> int:
    try:
        return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise Failed(f"{file} cannot be written: {(error.strerror or str(error)).lower()}.") from None


def _load(file: Path) -> list[dict[str, Any]]:
    try:
        with file.open(encoding="utf-8") as stream:
            return [json.loads(line) for line in stream]
    except OSError as error:
        raise Failed(f"{file} cannot be read: {(error.strerror or str(error)).lower()}.") from None
    except ValueError:
        raise Failed(f"{file} is not an exported journal: it has a line that is not JSON.") from None


def _verified(told: Iterable[dict[str, Any]], head: str | None) -> Any:
    from provisioner import journal  # noqa: PLC0415  # most commands need none of it
    from provisioner.model import Entry, Line  # noqa: PLC0415  # as above

    try:
        wanted = None if head is None else bytes.fromhex(head)
        entries = (
            Entry(
                one["seq"],
                Line(
                    one["at"],
                    one["action"],
                    one["actor"],
                    one["source"],
                    one["requestId"],
                    one["clientId"],
                    one["generation"],
                    one["before"],
                    one["phase"],
                    one["cause"],
                ),
                bytes.fromhex(one["digest"]),
            )
            for one in told
        )
        return journal.verify(entries, wanted)
    except journal.Broken as broken:
        raise Failed(f"The journal was tampered with or damaged: {broken}.") from None
    except (KeyError, TypeError, ValueError):
        raise Failed("This is no journal, or --head is not a digest of 64 hex digits.") from None
