"""`provisioner learn` and `provisioner lock`: from loose credentials to tight ones."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from broker.cli.client import Door, Server, TokenFile, ask
from broker.cli.output import Json, emit, say, where
from broker.cli.times import moment

learn_app = typer.Typer(add_completion=False)
lock_app = typer.Typer(add_completion=False)

_PATH = "/v2/learning"
_FINDINGS = {"user name": "username", "verdict": "verdict", "client id": "clientId", "seen with": "seenWith"}
_BOUND = {"user name": "username", "client id": "clientId"}
_LOCKS = {"batch": "id", "locked": "locked", "undone": "undone", "credentials": "count"}


@learn_app.command()
def learn(ctx: typer.Context, *, server: Server = None, token_file: TokenFile = None, as_json: Json = False) -> None:
    """Show which client ids use each loose credential, and the bindings that `lock` would make.

    Example: provisioner learn
    """
    found = ask(Door(where(ctx), server, token_file), lambda api: api.get(_PATH))["finding"]
    if not as_json:
        found = [one | {"seenWith": " ".join(seen["clientId"] for seen in one["seen"])} for one in found]
    emit(found, _FINDINGS, as_json=as_json, empty="No loose credential is in use, or each is bound already.")


@lock_app.command()
def lock(
    ctx: typer.Context,
    usernames: Annotated[
        list[str] | None, typer.Argument(metavar="[USERNAME]...", help="Only these; default: all that may be bound.")
    ] = None,
    *,
    undo: Annotated[
        int | None, typer.Option(metavar="BATCH", help="Let the credentials of a batch be loose again.")
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="Show the batches.")] = False,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Bind each loose credential to the one client id that uses it.

    Example: provisioner lock
    """
    door = Door(where(ctx), server, token_file)
    if show:
        found = ask(door, lambda api: api.get(f"{_PATH}/locks"))["lock"]
        emit(found if as_json else [_row(one) for one in found], _LOCKS, as_json=as_json, empty="Nothing was locked.")
        return
    if undo is not None:
        path, body = f"{_PATH}/locks/{undo}/undo", None
    else:
        path, body = f"{_PATH}/locks", {"usernames": usernames or None}
    done = ask(door, lambda api: api.post(path, body))
    emit(done if as_json else done["bound"], _BOUND, as_json=as_json)
    if undo is not None:
        say("These are loose again.")
    else:
        say(f"To let them be loose again: provisioner lock --undo {done['id']}")


def _row(lock: dict[str, Any]) -> dict[str, Any]:
    return lock | {
        "locked": moment(lock["lockedOn"]),
        "undone": moment(lock.get("undoneOn")),
        "count": len(lock["bound"]),
    }
