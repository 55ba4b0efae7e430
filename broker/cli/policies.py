"""`provisioner policy`: named sets of rules that requests are made by.

A policy is named by its name or its uid. Its rules are a JSON object, in the words of the API.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from broker.cli.client import Api, Door, Server, TokenFile, ask, present
from broker.cli.output import Failed, Json, emit, load_object, print_json, say, where

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Named sets of rules that requests are made by.")

PATH = "/v2/policies"
_COLUMNS = {"uid": "uid", "name": "name", "version": "optlock", "account": "accountId"}
_SHOWN = _COLUMNS | {"rules": "rules"}
_APART = ("uid", "name", "optlock", "accountId", "createdOn", "createdBy")

Name = Annotated[str, typer.Argument(metavar="POLICY", help="Its name or uid.")]
Rules = Annotated[Path, typer.Option("--rules", metavar="FILE", help="JSON object with its rules.")]


@app.command("create")
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    *,
    rules: Rules,
    account: Annotated[
        str | None, typer.Option(help="Name or id: whose it is, with all below; default: what your token sees.")
    ] = None,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Create a policy.

    Example: provisioner policy create line-3 --rules line-3.json
    """
    body = load_object(rules) | {"name": name}

    async def work(api: Api) -> Any:
        return await api.post(PATH, body | present({"accountId": await api.account_id(account) if account else None}))

    _show(ask(Door(where(ctx), server, token_file), work), as_json=as_json)


@app.command("change")
def change(
    ctx: typer.Context,
    name: Name,
    *,
    rules: Rules,
    rename: Annotated[str | None, typer.Option(metavar="NAME", help="A new name.")] = None,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Make the next version of a policy; requests that are there keep theirs.

    Example: provisioner policy change line-3 --rules line-3.json
    """
    body = load_object(rules)

    async def work(api: Api) -> Any:
        found = await find(api, name)
        return await api.put(
            f"{PATH}/{found['uid']}", body | {"name": rename or found["name"], "optlock": found["optlock"]}
        )

    _show(ask(Door(where(ctx), server, token_file), work), as_json=as_json)


@app.command("list")
def list_policies(
    ctx: typer.Context, *, server: Server = None, token_file: TokenFile = None, as_json: Json = False
) -> None:
    """List the policies you may use.

    Example: provisioner policy list
    """
    answer = ask(Door(where(ctx), server, token_file), lambda api: api.get(PATH))
    emit(answer["policy"], _COLUMNS, as_json=as_json, empty="There is no policy yet.")


@app.command("show")
def show(
    ctx: typer.Context,
    name: Name,
    *,
    version: Annotated[int | None, typer.Option(min=1, help="That version instead of the one in force.")] = None,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Show a policy and its rules.

    Example: provisioner policy show line-3 --version 1
    """

    async def work(api: Api) -> Any:
        found = await find(api, name)
        return found if version is None else await api.get(f"{PATH}/{found['uid']}/versions/{version}")

    _show(ask(Door(where(ctx), server, token_file), work), as_json=as_json)


@app.command("delete")
def delete(ctx: typer.Context, name: Name, *, server: Server = None, token_file: TokenFile = None) -> None:
    """Delete a policy; requests that are there keep their version.

    Example: provisioner policy delete line-3
    """

    async def work(api: Api) -> None:
        await api.delete(f"{PATH}/{(await find(api, name))['uid']}")

    ask(Door(where(ctx), server, token_file), work)
    say(f"The policy {name} is deleted.")


async def find(api: Api, name: str) -> dict[str, Any]:
    """The policy of this uid or name; `Failed` where there is none, or more than one."""
    found = [one for one in (await api.get(PATH))["policy"] if name in (one["uid"], one["name"])]
    if len(found) == 1:
        return dict(found[0])
    if found:
        raise Failed(f"There are {len(found)} policies of the name {name}: give the uid of one of them.")
    raise Failed(f"There is no policy {name}: `provisioner policy list` shows those there are.")


def _show(policy: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(policy)
        return
    rules = {name: value for name, value in policy.items() if name not in _APART}
    emit(policy | {"rules": json.dumps(rules, ensure_ascii=False)}, _SHOWN, as_json=False)
