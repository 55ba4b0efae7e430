"""`provisioner why`: what a device would be answered now, test by test, and what to do about it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from broker.cli.client import Api, Door, Server, TokenFile, ask
from broker.cli.output import Json, print_json, print_table, say, where
from broker.cli.times import moment

app = typer.Typer(add_completion=False)


@app.command()
def why(
    ctx: typer.Context,
    client_id: Annotated[str, typer.Argument(metavar="CLIENT-ID", help="The device's MQTT client id.")],
    *,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Say why a device does not get its credential: each test of a claim, the cure, and the last refusals."""

    async def work(api: Api) -> Any:
        return await api.get("/v2/why", clientId=client_id)

    said = ask(Door(where(ctx), server, token_file), work)
    if as_json:
        print_json(said)
        return
    print_table(
        ("test", "verdict", "because"),
        ((one["name"], "passed" if one["passed"] else "FAILED", one["detail"]) for one in said["test"]),
    )
    say(f"A right claim of {client_id} is answered {said['code']} {said['reason']} now.")
    for one in said["test"]:
        if one["cure"]:
            say(f"What helps: {one['cure']}")
    if said["refusal"]:
        say("Refused lately:")
        rows = ((moment(one["at"]), one["action"], one["source"], one["cause"]) for one in said["refusal"])
        print_table(("when", "what", "from", "because"), rows)
