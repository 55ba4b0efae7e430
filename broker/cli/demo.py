"""`provisioner demo`: the whole of it in half a minute, and nothing left behind.

A provisioner of its own starts in a temporary folder on free loopback ports, as `provisioner serve` would; simulated
devices claim, store, log in at the device broker and confirm. Then two of the credentials are tried under a client id
that is not theirs: the tight one must be refused, the loose one must not.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from broker.cli import swarmview
from broker.cli.client import Api, Door, ask
from broker.cli.endpoints import parse_endpoint
from broker.cli.fleet import Batch, create_requests
from broker.cli.output import Json, Where, print_json, print_table, say
from broker.cli.temporary import provision_login, temporary_provisioner
from broker.fleet.actions import Identity
from broker.fleet.link import Link, Login, Refused
from broker.fleet.lot import Lot
from broker.fleet.replies import Credential, parse_url
from broker.fleet.roads import Roads
from broker.fleet.swarm import Swarm, Tally
from broker.fleet.unit import Endpoint, Outcome
from broker.lifetime import raise_file_limit, run

app = typer.Typer()

_STRANGER = "somebody-else"


@dataclass(frozen=True, slots=True)
class Trial:
    """A credential tried under a client id that is not its own."""

    coupling: str
    username: str
    admitted: bool
    answer: str

    @property
    def is_right(self) -> bool:
        """A tight credential is refused, a loose one admitted."""
        return self.admitted == (self.coupling == "LOOSE")


@app.command()
def demo(
    count: Annotated[int, typer.Option(min=2, help="How many devices.")] = 200,
    concurrency: Annotated[int, typer.Option(min=1, help="At most this many at a time.")] = 50,
    as_json: Json = False,
) -> None:
    """Start a provisioner in a temporary folder and give simulated devices their credentials.

    Example: provisioner demo
    """
    raise_file_limit()
    with temporary_provisioner() as (data_dir, ready):
        _tell(f"A provisioner runs in {data_dir}, for devices at {ready['endpoint']}.", as_json)
        login = provision_login(data_dir)
        listed = _prepare(data_dir, login[0], count, as_json=as_json)
        _tell(f"{count} requests are made; now as many devices claim over MQTT.", as_json)
        swarm = Swarm(Endpoint(parse_endpoint(ready["endpoint"], tls=False)), concurrency=concurrency)
        identities = [Identity(*login, client_id, key) for client_id, key in listed]
        outcomes: list[Outcome] = []
        tally = run(_claim(swarm, identities, outcomes, quiet=as_json))
        trials = run(_try_elsewhere(outcomes))
    _report(tally, trials, as_json=as_json)
    if tally.confirmed < count or len(trials) < 2 or not all(trial.is_right for trial in trials):
        raise typer.Exit(1)


def _prepare(data_dir: Path, user: str, count: int, *, as_json: bool) -> list[tuple[str, str]]:
    """Make the requests, every second of them loose."""
    loose = count // 2
    with swarmview.Bar("making requests", count, quiet=as_json) as bar:

        async def work(api: Api) -> list[tuple[str, str]]:
            tight = Batch("default", user, "tight", count - loose)
            return await create_requests(api, tight, bar) + await create_requests(
                api, Batch("default", user, "loose", loose, "LOOSE"), bar
            )

        return ask(Door(Where(data_dir), None, None), work)


async def _claim(swarm: Swarm, identities: list[Identity], outcomes: list[Outcome], *, quiet: bool) -> Tally:
    tally = Tally()
    with swarmview.watched("claiming", tally, len(identities), quiet=quiet):
        async with Roads() as roads:
            lots = (Lot(identity) for identity in identities)
            return await swarm.live(lots, roads, tally, lambda outcome, _: outcomes.append(outcome))


async def _try_elsewhere(outcomes: list[Outcome]) -> list[Trial]:
    """Try one credential of each coupling under a client id that nobody has."""
    found = {
        outcome.credential.coupling: outcome.credential
        for outcome in outcomes
        if outcome.is_confirmed and outcome.credential is not None
    }
    return [await _try(found[coupling]) for coupling in ("STRICT", "LOOSE") if coupling in found]


async def _try(credential: Credential) -> Trial:
    login = Login(_STRANGER, credential.username, credential.password)
    try:
        link = await Link.open(parse_url(credential.url), login)
    except Refused as error:
        return Trial(
            credential.coupling, credential.username, admitted=False, answer=f"refused (CONNACK 0x{error.code:02X})"
        )
    await link.close()
    return Trial(credential.coupling, credential.username, admitted=True, answer="admitted")


def _report(tally: Tally, trials: list[Trial], *, as_json: bool) -> None:
    if as_json:
        tried = [
            {"coupling": trial.coupling, "admitted": trial.admitted, "asExpected": trial.is_right} for trial in trials
        ]
        print_json(swarmview.told(tally) | {"underAnotherClientId": tried})
        return
    swarmview.print_tally(tally)
    sys.stdout.write(f"\nThe same credentials under the client id {_STRANGER}:\n\n")
    print_table(
        ("coupling", "user name", "device broker says", "as it should"),
        ((trial.coupling, trial.username, trial.answer, trial.is_right) for trial in trials),
    )


def _tell(sentence: str, quiet: bool) -> None:
    if not quiet:
        say(sentence)
