"""`provisioner tag` and `provisioner location`: labels that requests carry."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from broker.cli.client import Api, Door, Server, TokenFile, ask
from broker.cli.output import Json, emit, say, where

_COLUMNS = {"uid": "uid", "name": "name", "account": "accountId"}


def _commands(word: str, path: str, text: str) -> typer.Typer:
    app = typer.Typer(no_args_is_help=True, add_completion=False, help=text)

    @app.command("create", help=f"Create a {word}.\n\nExample: provisioner {word} create north --account acme")
    def create(
        ctx: typer.Context,
        name: Annotated[str, typer.Argument(metavar="NAME")],
        *,
        account: Annotated[
            str | None, typer.Option(help="Name or id: whose it is, with all below; default: what your token sees.")
        ] = None,
        server: Server = None,
        token_file: TokenFile = None,
        as_json: Json = False,
    ) -> None:
        async def work(api: Api) -> object:
            return await api.post(path, {"name": name, "accountId": await api.account_id(account) if account else None})

        emit(ask(Door(where(ctx), server, token_file), work), _COLUMNS, as_json=as_json)

    @app.command("list", help=f"List every {word} you may use.\n\nExample: provisioner {word} list")
    def list_all(
        ctx: typer.Context, *, server: Server = None, token_file: TokenFile = None, as_json: Json = False
    ) -> None:
        answer = ask(Door(where(ctx), server, token_file), lambda api: api.get(path))
        emit(answer[word], _COLUMNS, as_json=as_json, empty=f"There is no {word} yet.")

    @app.command("delete", help=f"Delete a {word}; requests keep it.\n\nExample: provisioner {word} delete UID")
    def delete(
        ctx: typer.Context,
        uid: Annotated[str, typer.Argument(metavar="UID")],
        *,
        server: Server = None,
        token_file: TokenFile = None,
    ) -> None:
        ask(Door(where(ctx), server, token_file), lambda api: api.delete(f"{path}/{quote(uid, safe='')}"))
        say(f"The {word} {uid} is deleted.")

    return app


tags = _commands("tag", "/v2/tags", "Tags: what devices are for.")
locations = _commands("location", "/v2/locations", "Locations: where devices are.")
