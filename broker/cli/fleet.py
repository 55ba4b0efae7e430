"""`provisioner fleet`: be many devices at once, and tell how it went."""

from __future__ import annotations

import asyncio
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from broker.cli import fleetreport, swarmview
from broker.cli.client import Api, Door, Server, TokenFile, ask
from broker.cli.endpoints import (
    At,
    Ca,
    Cbor,
    Mqtt,
    PasswordFile,
    Site,
    Tls,
    User,
    find_login,
    find_site,
)
from broker.cli.fleetreport import Run
from broker.cli.output import Failed, Json, Where, claim_files, emit, print_json, print_table, where
from broker.cli.temporary import provision_login, temporary_provisioner
from broker.fleet import scenario as scenarios
from broker.fleet.actions import Identity, Mode
from broker.fleet.arrivals import Curve
from broker.fleet.replies import Encoding
from broker.fleet.roads import Roads
from broker.fleet.scenario import NotAScenario, Scenario
from broker.fleet.swarm import Swarm, Tally
from broker.lifetime import most_memory, raise_file_limit, run, settle_memory
from broker.reports.junit import junit as write_junit
from broker.reports.verdict import is_good

app = typer.Typer(no_args_is_help=True, help="Be many devices.")

_AT_ONCE = 8
_PLAIN = {"devices": {"count": 100, "at_once": 200, "patience": 60.0}}
"""What is run where no scenario is named."""


@app.callback()
def _fleet() -> None:
    """Be many devices."""


@app.command("scenarios")
def list_scenarios(as_json: Json = False) -> None:
    """List the scenarios that come with the program; `fleet scenario NAME` prints one.

    Example: provisioner fleet scenarios
    """
    shipped = [(name, scenarios.load(name)) for name in scenarios.SHIPPED]
    listed = [
        {"name": name, "devices": one.devices.count, "arrival": one.arrival.curve, "title": one.title}
        for name, one in shipped
    ]
    emit(listed, {name: name for name in ("name", "devices", "arrival", "title")}, as_json=as_json)


@app.command("scenario")
def print_scenario(name: Annotated[str, typer.Argument(help="One of `fleet scenarios`.")]) -> None:
    """Print a scenario that comes with the program, to begin one of your own with.

    Example: provisioner fleet scenario smoke > ours.toml
    """
    if name not in scenarios.SHIPPED:
        raise Failed(f"{name} is none of the shipped scenarios: {', '.join(scenarios.SHIPPED)}.", code=2)
    sys.stdout.write(scenarios.text_of(name))


@app.command("run")
def run_fleet(
    ctx: typer.Context,
    scenario: Annotated[
        str | None, typer.Argument(metavar="[SCENARIO]", help="A shipped scenario or a TOML file; none: 100 devices.")
    ] = None,
    temporary: Annotated[
        bool, typer.Option("--temporary", help="Against a provisioner of its own that is gone afterwards.")
    ] = False,
    count: Annotated[int | None, typer.Option(min=1, help="How many devices.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=0, help="At most this many at a time; 0: all.")] = None,
    spread: Annotated[
        float | None, typer.Option(min=0, help="They arrive over so many seconds; 0: all at once.")
    ] = None,
    patience: Annotated[
        float | None, typer.Option("--timeout", min=0.1, help="A device gives up after so many seconds.")
    ] = None,
    mode: Annotated[
        Mode | None, typer.Option(help="How the key is shown and the offer sealed; plain sends the key itself.")
    ] = None,
    mqtt: Annotated[Mqtt | None, typer.Option(help="MQTT 3.1.1 or 5.")] = None,
    cbor: Cbor = False,
    csr: Annotated[
        bool, typer.Option("--csr", help="All make keys of their own and claim certificates on them.")
    ] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed, the same misfortunes.")] = None,
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
    root_topic: Annotated[
        str | None, typer.Option(metavar="TOPIC", help="Root of the topics; default: the setting endpoint.root_topic.")
    ] = None,
    tls: Tls = False,
    ca: Ca = None,
    server: Server = None,
    token_file: TokenFile = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with plots.")] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the checks as JUnit XML.")] = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all figures as JSON.")] = None,
    as_json: Json = False,
) -> None:
    """Let many devices claim, log in at the device broker and confirm; exit code 1 if a threshold is missed.

    Their requests are made first, in ACCOUNT; with --keys they exist already. Options change what the scenario says.

    Example: provisioner fleet run bad-network --temporary --count 500 --html report.html
    """
    plan = _scenario(scenario)
    plan = _changed(plan, "arrival", curve=None if spread is None else Curve.TRICKLE, seconds=spread)
    plan = _changed(plan, "", seed=seed)
    changes = {
        "count": count,
        "at_once": concurrency,
        "patience": patience,
        "modes": mode and (mode,),
        "mqtt": mqtt and ("5" if mqtt is Mqtt.V5 else "3.1.1",),
        "encodings": (Encoding.CBOR,) if cbor else None,
        "kinds": ("x509",) if csr else None,
    }
    order = _Order(account, prefix, "STRICT" if strict else "LOOSE", keys, quiet=as_json)
    claim_files(html, junit, report)
    raise_file_limit()
    if temporary:
        if at or server or ca or keys:
            raise Failed(
                "--temporary brings a server of its own: leave --endpoint, --server, --ca, --keys out.", code=2
            )
        everybody = {"PROVISIONER_ENDPOINT__MAX_CONNECTIONS_PER_SOURCE": "10000", "PROVISIONER_LOG__LEVEL": "warning"}
        everybody["PROVISIONER_DEVICE_BROKER__TLS_LISTEN"] = everybody["PROVISIONER_ENDPOINT__TLS_LISTEN"] = (
            "127.0.0.1:0"
        )
        with temporary_provisioner(everybody) as (data_dir, ready):
            place = Where(data_dir)
            there = ready["endpointTls" if tls else "endpoint"]
            site = find_site(place, there, mqtt=Mqtt.V5, tls=tls, ca=data_dir / "ca" / "root.pem")
            done = _run(scenario or "-", plan, changes, order, Door(place, None, None), site, provision_login(data_dir))
    else:
        site = find_site(where(ctx), at, mqtt=Mqtt.V5, tls=tls, ca=ca)
        site = replace(site, root=root_topic or site.root)
        login = find_login(site, user, password_file)
        done = _run(scenario or "-", plan, changes, order, Door(where(ctx), server, token_file), site, login)
    _tell(done, html, junit, report, as_json=as_json)


@dataclass(frozen=True, slots=True)
class _Order:
    """Whose requests are made, or where the keys are."""

    account: str
    prefix: str
    coupling: str
    keys: Path | None
    quiet: bool


def _scenario(name: str | None) -> Scenario:
    try:
        return scenarios.load(name) if name is not None else Scenario.model_validate(_PLAIN)
    except NotAScenario as error:
        raise Failed("\n".join(f"{name}: {problem}." for problem in error.problems), code=2) from None


def _changed(plan: Scenario, table: str, **values: Any) -> Scenario:
    given = {name: value for name, value in values.items() if value is not None}
    if not given:
        return plan
    try:
        return plan.changed(table, **given)
    except NotAScenario as error:
        raise Failed("\n".join(f"{problem}." for problem in error.problems), code=2) from None


def _run(
    name: str,
    plan: Scenario,
    changes: dict[str, Any],
    order: _Order,
    door: Door,
    site: Site,
    login: tuple[str, str],
) -> Run:
    """Make the requests and let the fleet loose."""
    plan = _changed(plan, "devices", **changes)
    if order.keys is not None:
        listed = load_keys(order.keys)
        plan = _changed(plan, "devices", count=len(listed))
    else:
        devices = plan.devices
        batch = Batch(order.account, login[0], order.prefix, devices.count, order.coupling, devices.kinds)
        with swarmview.Bar("making requests", batch.count, quiet=order.quiet) as bar:
            listed = ask(door, lambda api: create_requests(api, batch, bar))
    identities = [Identity(*login, client_id, key) for client_id, key in listed]
    return run(_let_loose(name, plan, identities, site, quiet=order.quiet))


async def _let_loose(name: str, plan: Scenario, identities: Sequence[Identity], site: Site, *, quiet: bool) -> Run:
    settle_memory()
    devices, tally = plan.devices, Tally()
    swarm = Swarm(
        site.endpoint,
        concurrency=devices.at_once or 2 * len(identities),
        patience=devices.patience,
        blackout=plan.trouble.blackout or None,
    )
    async with Roads(plan.network.weather(plan.seed), to_device_broker=plan.network.device_broker) as roads:
        try:
            await roads.to_provisioner(site.endpoint.address)
        except ValueError as error:
            raise Failed(f"The scenario does not go with --tls: {error}.", code=2) from None
        with swarmview.watched("claiming", tally, len(identities), quiet=quiet):
            await swarm.live(plan.lots(identities, site.root), roads, tally)
        return Run(name, plan, tally, roads.toll, site.words, most_memory())


def _tell(done: Run, html: Path | None, junit: Path | None, report: Path | None, *, as_json: bool) -> None:
    judged = fleetreport.verdicts(done)
    if html is not None:
        html.write_text(fleetreport.html(done), encoding="utf-8")
    if junit is not None:
        junit.write_bytes(write_junit(f"fleet {done.name}", judged, done.tally.seconds))
    if report is not None:
        report.write_text(json.dumps(fleetreport.told(done), indent=2) + "\n", encoding="utf-8")
    if as_json:
        print_json(fleetreport.told(done))
    else:
        print_table(("devices", f"{done.tally.done}"), fleetreport.rows(done))
        sys.stdout.write("\n")
        print_table(("check", "result", "seen"), [(one.name, one.result, one.said) for one in judged])
    if not is_good(judged):
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests to be made: `count` of them in `account`, client ids beginning with `prefix`, `kinds` dealt in turn."""

    account: str
    user: str
    prefix: str
    count: int
    coupling: str = "STRICT"
    kinds: Sequence[str] = ("password",)


async def create_requests(api: Api, batch: Batch, bar: swarmview.Bar) -> list[tuple[str, str]]:
    """Make the requests; returns client ids and activation keys, in their order."""
    account_id = await api.account_id(batch.account)
    numbers = iter(range(batch.count))
    made: dict[int, tuple[str, str]] = {}
    run_id = swarmview.run_id()

    async def work() -> None:
        for number in numbers:
            body: dict[str, Any] = {
                "accountId": account_id,
                "clientId": f"{batch.prefix}-{run_id}-{number:05}",
                "provisionUserUsername": batch.user,
                "deviceCredentialsTight": batch.coupling,
            }
            if (kind := batch.kinds[number % len(batch.kinds)]) == "x509":
                body |= {"credentialKind": kind, "provisionSecureURL": True}
            answer = await api.post("/v2/provisionRequests", body)
            made[number] = answer["clientId"], answer["activationKey"]
            bar.advance()

    async with asyncio.TaskGroup() as group:
        for _ in range(_AT_ONCE):
            group.create_task(work())
    return [made[number] for number in range(batch.count)]


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
