"""`provisioner keys`: the keys that the ledger is sealed under."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from broker.cli.client import Api, Door, Server, TokenFile, ask
from broker.cli.output import Json, emit, print_json, progress, say, where
from broker.cli.times import moment

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Keys that the ledger is sealed under.")

_COLUMNS = {"key": "name", "id": "keyId", "made": "made", "state": "state"}


@app.command("show")
def show(ctx: typer.Context, *, server: Server = None, token_file: TokenFile = None, as_json: Json = False) -> None:
    """Show every key there ever was; the last one seals. An id tells keys apart and opens nothing.

    Example: provisioner keys show
    """

    async def work(api: Api) -> Any:
        return (await api.get("/v2/keys"))["key"]

    found = ask(Door(where(ctx), server, token_file), work)
    if as_json:
        print_json(found)
        return
    rows = [one | {"name": f"vault-{one['epoch']}", "made": moment(one["madeOn"])} for one in found]
    emit(rows, _COLUMNS, as_json=False)
    if [one for one in found[:-1] if one["state"] == "IN_USE"]:
        say("A rotation was interrupted: `provisioner keys rotate` goes on with it.")


@app.command("rotate")
def rotate(
    ctx: typer.Context,
    *,
    keep_old: Annotated[
        bool, typer.Option("--keep-old", help="Keep the former key: without it older backups cannot be opened.")
    ] = False,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Seal everything under a new key and destroy the former one, while devices go on claiming.

    What was interrupted is taken up. Backups made before are of no use afterwards, unless the former key is kept.

    Example: provisioner keys rotate --keep-old
    """

    async def work(api: Api) -> Any:
        passed = 0
        with progress("Sealing anew") as advance:
            while True:
                piece = await api.post("/v2/keys/rotate", {"keepFormer": keep_old})
                passed += piece["passed"]
                advance(passed, piece["rows"])
                if piece["done"]:
                    return piece | {"passed": passed}, (await api.get("/v2/keys"))["key"]

    rotated, found = ask(Door(where(ctx), server, token_file), work)
    if as_json:
        print_json(rotated)
        return
    say(f"The ledger is sealed under vault-{rotated['epoch']}.")
    for one in found:
        if one["state"] == "RETIRING":
            say(f"vault-{one['epoch']} is not needed any more: remove it where it is kept.")
        elif one["state"] == "KEPT":
            say(f"vault-{one['epoch']} is kept for older backups: `provisioner keys retire {one['epoch']}` ends that.")


@app.command("retire")
def retire(
    ctx: typer.Context,
    epoch: Annotated[int, typer.Argument(metavar="EPOCH", min=1, help="The number of the key.")],
    *,
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """Destroy a key that was kept for older backups: they cannot be opened any more.

    Example: provisioner keys retire 1
    """

    async def work(api: Api) -> Any:
        return await api.post(f"/v2/keys/{epoch}/retire")

    retired = ask(Door(where(ctx), server, token_file), work)
    destroyed = retired["state"] == "RETIRED"
    say(f"vault-{epoch} is destroyed." if destroyed else f"Remove vault-{epoch} where it is kept.")
