"""`provisioner token`: what operators and programs identify themselves with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from broker.cli.client import Api, Door, SecretFile, Server, TokenFile, ask
from broker.cli.output import Failed, Json, emit, print_json, say, where

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Bearer tokens of operators.")

_COLUMNS = {"id": "id", "name": "name", "role": "role", "account": "account"}


@app.command("create")
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who or what it is for.")],
    *,
    role: Annotated[str, typer.Option(help="viewer, preparer, installer or admin.")] = "viewer",
    account: Annotated[
        str | None, typer.Option(help="Name or id of the account it sees, with those below; default: as yours.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="Write the token here, mode 0600, instead of printing it.")] = None,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Create a token; it is shown once.

    Example: provisioner token create line-3 --role preparer --account acme --file line-3.token
    """

    async def work(api: Api) -> Any:
        account_id = await api.account_id(account) if account else None
        created = await api.post("/v2/tokens", {"name": name, "role": role, "accountId": account_id})
        return (await api.with_names([created]))[0]

    with SecretFile(file) as secret:
        created = ask(Door(where(ctx), server, token_file), work)
        if secret.wanted:
            secret.write(created.pop("token"))
    if as_json:
        print_json(created)
        return
    emit(created, _COLUMNS | ({} if secret.wanted else {"token": "token"}), as_json=False)
    say(f"The token is in {file}." if secret.wanted else "The token is shown this once.")


@app.command("list")
def list_tokens(
    ctx: typer.Context, *, server: Server = None, token_file: TokenFile = None, as_json: Json = False
) -> None:
    """List tokens, without what opens anything.

    Example: provisioner token list
    """

    async def work(api: Api) -> Any:
        return await api.with_names((await api.get("/v2/tokens"))["token"])

    emit(ask(Door(where(ctx), server, token_file), work), _COLUMNS, as_json=as_json, empty="No tokens yet.")


@app.command("delete")
def delete(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name or id of the token.")],
    *,
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """Delete a token: whoever holds it is out at once.

    Example: provisioner token delete line-3
    """

    async def work(api: Api) -> None:
        tokens = (await api.get("/v2/tokens"))["token"]
        token = next((token for token in tokens if name in (token["name"], str(token["id"]))), None)
        if token is None:
            raise Failed(f"There is no token {name}: `provisioner token list` shows those there are.")
        await api.delete(f"/v2/tokens/{token['id']}")

    ask(Door(where(ctx), server, token_file), work)
    say(f"Token {name} is deleted.")
