"""`provisioner account`: the tenants."""

from __future__ import annotations

from typing import Annotated

import typer

from broker.cli.client import Api, Door, Server, TokenFile, ask
from broker.cli.output import Json, emit, where

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Provision accounts and target accounts.")

_COLUMNS = {
    "id": "id",
    "name": "name",
    "kind": "kind",
    "display name": "displayName",
    "parent": "parentId",
    "coupling": "coupling",
    "device broker": "deviceBroker",
    "quota": "quota",
}


@app.command("create")
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name; the first level of its devices' topics.")],
    *,
    kind: Annotated[str, typer.Option(help="target: owns devices; provision: devices start here.")] = "target",
    display_name: Annotated[str | None, typer.Option(help="How people call it.")] = None,
    parent: Annotated[str | None, typer.Option(metavar="ACCOUNT", help="Name or id of the account above it.")] = None,
    strict: Annotated[
        bool | None,
        typer.Option("--strict/--loose", help="May only its client id use a credential, or any of the account?"),
    ] = None,
    quota: Annotated[int | None, typer.Option(min=0, help="Open requests it may have at a time.")] = None,
    device_broker: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where its devices work; default: the one of [device_broker].")
    ] = None,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Create an account.

    Example: provisioner account create acme --display-name "Acme Ltd"
    """

    async def work(api: Api) -> object:
        body = {
            "name": name,
            "kind": kind.upper(),
            "displayName": display_name,
            "parentId": await api.account_id(parent) if parent else None,
            "coupling": coupling(strict),
            "quota": quota,
            "deviceBroker": device_broker,
        }
        return await api.post("/v2/accounts", body)

    emit(ask(Door(where(ctx), server, token_file), work), _COLUMNS, as_json=as_json)


@app.command("move")
def move(
    ctx: typer.Context,
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="Its name or id.")],
    device_broker: Annotated[str, typer.Argument(metavar="NAME", help="Where devices of future requests work.")],
    *,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Give an account another device broker, for requests made from now on.

    Example: provisioner account move acme plant
    """

    async def work(api: Api) -> object:
        return await api.post(f"/v2/accounts/{await api.account_id(account)}/move", {"deviceBroker": device_broker})

    emit(ask(Door(where(ctx), server, token_file), work), _COLUMNS, as_json=as_json)


@app.command("list")
def list_accounts(
    ctx: typer.Context, *, server: Server = None, token_file: TokenFile = None, as_json: Json = False
) -> None:
    """List the accounts you may see.

    Example: provisioner account list --json
    """
    answer = ask(Door(where(ctx), server, token_file), lambda api: api.get("/v2/accounts"))
    emit(answer["account"], _COLUMNS, as_json=as_json, empty="No accounts yet.")


def coupling(strict: bool | None) -> str | None:
    """The API's word for `--strict` and `--loose`; None: the default."""
    return None if strict is None else "STRICT" if strict else "LOOSE"
