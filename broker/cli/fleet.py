"""`provisioner fleet`: be many devices at once, and tell how it went."""

from __future__ import annotations

import asyncio
import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from broker.cli import swarmview
from broker.cli.client import Api, Door, Server, TokenFile, ask
from broker.cli.endpoints import (
    At,
    Ca,
    Cbor,
    How,
    Mqtt,
    PasswordFile,
    Speaking,
    Tls,
    User,
    encoding,
    find_login,
    find_site,
)
from broker.cli.output import Failed, Json, where
from broker.fleet.actions import Identity, Mode, Options
from broker.fleet.swarm import Swarm
from broker.lifetime import raise_file_limit, run

app = typer.Typer(no_args_is_help=True, help="Be many devices.")

_AT_ONCE = 8


@app.callback()
def _fleet() -> None:
    """Be many devices."""


@app.command("run")
def run_fleet(
    ctx: typer.Context,
    count: Annotated[int, typer.Option(min=1, help="How many devices.")] = 100,
    concurrency: Annotated[int, typer.Option(min=1, help="At most this many at a time.")] = 200,
    spread: Annotated[float, typer.Option(min=0, help="They arrive over so many seconds; 0: all at once.")] = 0.0,
    account: Annotated[str, typer.Option(help="Name or id of the account that will own them.")] = "default",
    strict: Annotated[
        bool, typer.Option("--strict/--loose", help="May only its client id use a credential, or any of the account?")
    ] = True,
    prefix: Annotated[str, typer.Option(help="Their client ids begin with this.")] = "fleet",
    keys: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="CSV of client id and activation key: their requests exist already."),
    ] = None,
    user: User = None,
    password_file: PasswordFile = None,
    at: At = None,
    mode: How = Mode.PROOF,
    mqtt: Speaking = Mqtt.V5,
    cbor: Cbor = False,
    tls: Tls = False,
    ca: Ca = None,
    patience: Annotated[
        float, typer.Option("--timeout", min=0.1, help="A device gives up after so many seconds.")
    ] = 60,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Let many devices claim, log in at the device broker and confirm; exit code 1 if any of them is not confirmed.

    Their requests are made first, in ACCOUNT; with --keys they exist already.

    Example: provisioner fleet run --count 1000 --concurrency 200
    """
    site = find_site(where(ctx), at, mqtt=mqtt, tls=tls, ca=ca)
    login = find_login(site, user, password_file)
    if keys is not None:
        listed = load_keys(keys)
    else:
        batch = Batch(account, login[0], prefix, count, "STRICT" if strict else "LOOSE")
        door = Door(where(ctx), server, token_file)
        with swarmview.Bar("making requests", count, quiet=as_json) as bar:
            listed = ask(door, lambda api: create_requests(api, batch, bar))
    raise_file_limit()
    identities = [Identity(*login, client_id, key) for client_id, key in listed]
    swarm = Swarm(site.endpoint, Options(mode, encoding(cbor), root=site.root), concurrency, spread, patience)
    tally = run(swarmview.watch(swarm, identities, quiet=as_json))
    swarmview.print_tally(tally, as_json=as_json)
    if tally.confirmed < len(identities):
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests to be made: `count` of them in `account`, client ids beginning with `prefix`."""

    account: str
    user: str
    prefix: str
    count: int
    coupling: str = "STRICT"


async def create_requests(api: Api, batch: Batch, bar: swarmview.Bar) -> list[tuple[str, str]]:
    """Make the requests; returns client ids and activation keys."""
    account_id = await api.account_id(batch.account)
    numbers = iter(range(batch.count))
    made: list[tuple[str, str]] = []
    run_id = swarmview.run_id()

    async def work() -> None:
        for number in numbers:
            body: dict[str, Any] = {
                "accountId": account_id,
                "clientId": f"{batch.prefix}-{run_id}-{number:05}",
                "provisionUserUsername": batch.user,
                "deviceCredentialsTight": batch.coupling,
            }
            answer = await api.post("/v2/provisionRequests", body)
            made.append((answer["clientId"], answer["activationKey"]))
            bar.advance()

    async with asyncio.TaskGroup() as group:
        for _ in range(_AT_ONCE):
            group.create_task(work())
    return made


def load_keys(file: Path) -> list[tuple[str, str]]:
    """Read a CSV of client id and activation key; a heading `clientId,…` is skipped. Raises `Failed`."""
    try:
        if str(file) == "-":
            return list(_rows(sys.stdin.readlines(), file))
        with file.open(encoding="utf-8", newline="") as stream:
            return list(_rows(stream.readlines(), file))
    except OSError as error:
        raise Failed(f"{file} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise Failed(f"{file} cannot be read: it is not UTF-8 text.") from None


def _rows(lines: Sequence[str], file: Path) -> Iterator[tuple[str, str]]:
    found = False
    for number, row in enumerate(csv.reader(lines), 1):
        if not row or (number == 1 and row[0].strip().lower() == "clientid"):
            continue
        if len(row) != 2 or not all(cell.strip() for cell in row):
            raise Failed(f"{file}, line {number}: write a client id, a comma and its activation key.")
        found = True
        yield row[0].strip(), row[1].strip()
    if not found:
        raise Failed(f"{file} lists no devices: write a client id, a comma and its activation key on each line.")
