"""`provisioner demo`: the whole of it in half a minute, and nothing left behind.

A provisioner of its own starts in a temporary folder on free loopback ports, as `provisioner serve` would; simulated
devices claim, store, log in at the device broker and confirm. Then two of the credentials are tried under a client id
that is not theirs: the tight one must be refused, the loose one must not.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from broker.cli import swarmview
from broker.cli.client import Api, Door, ask
from broker.cli.endpoints import parse_endpoint
from broker.cli.fleet import Batch, create_requests
from broker.cli.output import Failed, Json, Where, print_json, print_table, say
from broker.datadir import DataDir
from broker.fleet.actions import Identity
from broker.fleet.link import Link, Login, Refused
from broker.fleet.replies import Credential, parse_url
from broker.fleet.swarm import Swarm, Tally
from broker.fleet.unit import Endpoint, Outcome
from broker.lifetime import raise_file_limit, run

app = typer.Typer()

_START_TIME = 30.0
_STOP_TIME = 15.0
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
    with TemporaryDirectory(prefix="provisioner-demo-") as folder, _program(Path(folder)) as (data_dir, ready):
        _tell(f"A provisioner runs in {data_dir}, for devices at {ready['endpoint']}.", as_json)
        login = _login(data_dir)
        listed = _prepare(data_dir, login[0], count, as_json=as_json)
        _tell(f"{count} requests are made; now as many devices claim over MQTT.", as_json)
        swarm = Swarm(Endpoint(parse_endpoint(ready["endpoint"], tls=False)), concurrency=concurrency)
        identities = [Identity(*login, client_id, key) for client_id, key in listed]
        outcomes: list[Outcome] = []
        tally = run(swarmview.watch(swarm, identities, outcomes, quiet=as_json))
        trials = run(_try_elsewhere(outcomes))
    _report(tally, trials, as_json=as_json)
    if tally.confirmed < count or len(trials) < 2 or not all(trial.is_right for trial in trials):
        raise typer.Exit(1)


@contextmanager
def _program(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A provisioner as a process of its own; ended by its id."""
    data_dir = folder / "data"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PROVISIONER_")}
    environment |= {
        "PROVISIONER_DATA_DIR": str(data_dir),
        "PROVISIONER_ENDPOINT__LISTEN": "127.0.0.1:0",
        "PROVISIONER_DEVICE_BROKER__LISTEN": "127.0.0.1:0",
        "PROVISIONER_HTTP__LISTEN": "127.0.0.1:0",
    }
    log = folder / "log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "broker", "serve"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        try:
            yield data_dir, _ready(process, log)
        finally:
            _end(process)


def _ready(process: subprocess.Popen[bytes], log: Path) -> dict[str, Any]:
    """Wait for the ready line."""
    output = process.stdout
    limit = time.monotonic() + _START_TIME
    while output is not None and select.select([output], [], [], max(0.0, limit - time.monotonic()))[0]:
        line = output.readline()
        if not line:
            break
        said = json.loads(line)
        if isinstance(said, dict) and said.get("event") == "ready":
            return said
    last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
    raise Failed(f"The provisioner does not start: {last[0] if last else 'it says nothing'}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_TIME)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _login(data_dir: Path) -> tuple[str, str]:
    user, password = (DataDir(data_dir).load_secret("provision-login") or "\n").split("\n")[:2]
    return user, password


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
