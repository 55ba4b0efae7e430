"""`provisioner user`: the logins that devices start with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from broker.cli.client import Api, Door, Server, TokenFile, ask
from broker.cli.output import Failed, Json, emit, print_json, read_secret, say, where

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Logins that devices start with.")

PasswordFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Its first line is the password; - reads standard input.")
]
Prompt = Annotated[bool, typer.Option("--prompt", help="Ask for the password.")]

_COLUMNS = {"id": "id", "user name": "username", "account": "account"}


@app.command("create")
def create(
    ctx: typer.Context,
    username: Annotated[str, typer.Argument(metavar="USER", help="The user name.")],
    *,
    account: Annotated[str | None, typer.Option(help="Name or id of its provision account.")] = None,
    password_file: PasswordFile = None,
    prompt: Prompt = False,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Create a provision user; without a password of yours one is generated and shown once.

    Example: provisioner user create factory
    """
    password = _password(password_file, prompt)

    async def work(api: Api) -> Any:
        account_id = await api.account_id(account) if account else None
        created = await api.post("/v2/users", {"username": username, "password": password, "accountId": account_id})
        return (await api.with_names([created]))[0]

    created = ask(Door(where(ctx), server, token_file), work)
    _show(created, as_json=as_json)


@app.command("list")
def list_users(
    ctx: typer.Context, *, server: Server = None, token_file: TokenFile = None, as_json: Json = False
) -> None:
    """List the provision users you may see.

    Example: provisioner user list
    """

    async def work(api: Api) -> Any:
        return await api.with_names((await api.get("/v2/users"))["user"])

    emit(ask(Door(where(ctx), server, token_file), work), _COLUMNS, as_json=as_json, empty="No users yet.")


@app.command("password")
def password(
    ctx: typer.Context,
    username: Annotated[str, typer.Argument(metavar="USER", help="The user name.")],
    *,
    password_file: PasswordFile = None,
    prompt: Prompt = False,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Replace a user's password; without one of yours a new one is generated and shown once.

    Example: provisioner user password factory --prompt
    """
    given = _password(password_file, prompt)

    async def work(api: Api) -> Any:
        users = (await api.get("/v2/users"))["user"]
        user = next((user for user in users if user["username"] == username), None)
        if user is None:
            raise Failed(f"There is no user {username}: `provisioner user list` shows those there are.")
        renewed = user | await api.post(f"/v2/users/{user['id']}/password", {"password": given})
        return (await api.with_names([renewed]))[0]

    _show(ask(Door(where(ctx), server, token_file), work), as_json=as_json)


def _password(file: Path | None, prompt: bool) -> str | None:
    if file is None and not prompt:
        return None
    return read_secret("Password", file, repeat=True)


def _show(user: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(user)
        return
    generated = {"password": "password"} if user.get("password") else {}
    emit(user, _COLUMNS | generated, as_json=False)
    if generated:
        say("The password is shown this once.")
