"""`provisioner broker`: the broker somebody already runs, and what it has to be told."""

from __future__ import annotations

import os
import secrets
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from broker.beside.setup import BRIDGE_USER, File, Kind, Login, plan
from broker.cli.client import Api, Door, Server, TokenFile, ask
from broker.cli.output import Failed, Json, emit, print_json, say, where
from broker.cli.oversight import drift

app = typer.Typer(no_args_is_help=True, help="The broker you already run.")

_LOGIN = "bridge-login"


@app.callback()
def _broker() -> None:
    """The broker you already run."""


@app.command()
def setup(
    ctx: typer.Context,
    kind: Annotated[Kind, typer.Argument(help="Which broker it is.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder that gets the files.")] = Path("broker-setup"),
    folder: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where the broker keeps its settings; default: as packaged.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write what that broker has to be told so that devices may claim through it, and say which commands use it.

    The files hold the provision account's login (its password hashed) and one for the bridge, made anew unless the
    folder has one already. Nothing is changed anywhere else.

    Example: provisioner broker setup mosquitto --out broker-setup
    """
    from broker import app as root  # noqa: PLC0415  # --help does not wait for it

    place = where(ctx)
    settings = root.load(place.config, place.data_dir).settings
    bridge, devices = _bridge_login(out), _provision_login(settings.data_dir)
    told = plan(kind, settings.endpoint.root_topic, bridge, devices, os.urandom, folder=folder)
    own = File(_LOGIN, f"{bridge.user}\n{bridge.password}\n", is_secret=True)
    for file in (*told.files, own):
        _write(out / file.name, file)
    variables = {
        "PROVISIONER_BRIDGE__KIND": kind.value,
        "PROVISIONER_BRIDGE__LOGIN_FILE": str((out / _LOGIN).resolve()),
    }
    if as_json:
        names = [str(out / file.name) for file in (*told.files, own)]
        print_json({"files": names, "commands": told.commands, "notes": told.notes, "environment": variables})
        return
    exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    say("\n".join(f"{out / file.name}" for file in (*told.files, own)))
    say("\n" + "\n".join(f"Note: {note}" for note in told.notes))
    say("\nNext, at the broker:\n")
    print_commands((f"cd {shlex.quote(str(out))}", *told.commands))
    say("\nThen here:\n")
    print_commands(
        (f"export PROVISIONER_BRIDGE__URL=mqtt://127.0.0.1:1883 {exports}", "provisioner doctor", "provisioner serve")
    )


_FLAGS = {"bindsClientId": "tight", "kicksLive": "kicks", "persists": "persists", "prehashed": "hashed"}


@app.command("list")
def list_brokers(
    ctx: typer.Context, *, server: Server = None, token_file: TokenFile = None, as_json: Json = False
) -> None:
    """Show the device brokers, what each can do and how it is.

    Exits non-zero where one cannot be asked or has to be cured.

    Example: provisioner broker list
    """
    found = ask(Door(where(ctx), server, token_file), lambda api: api.get("/v2/deviceBrokers"))["deviceBroker"]
    columns = {"name": "name", "kind": "kind", "version": "version", "can": "can", "is": "is"}
    rows = [
        one
        | {
            "can": ", ".join(word for flag, word in _FLAGS.items() if one[flag]),
            "is": one["trouble"] or " ".join(one["problems"]) or "well",
        }
        for one in found
    ]
    if as_json:
        print_json(found)
    else:
        emit(rows, columns, as_json=False)
    if any(one["trouble"] or one["problems"] for one in found):
        raise typer.Exit(1)


@app.command("plan")
def plan_changes(
    ctx: typer.Context, *, server: Server = None, token_file: TokenFile = None, as_json: Json = False
) -> None:
    """Show what apply would write at each device broker, and what that costs there. Changes nothing.

    Example: provisioner broker plan
    """
    found = ask(Door(where(ctx), server, token_file), lambda api: api.get("/v2/deviceBrokers/plan"))
    _print_plan(found, as_json=as_json)
    if found["unreachable"]:
        raise typer.Exit(1)


@app.command("apply")
def apply_plan(
    ctx: typer.Context,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Also where sessions of devices drop.")] = False,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Bring the device brokers back to the ledger: what plan shows.

    Example: provisioner broker apply --yes
    """

    async def work(api: Api) -> Any:
        planned = await api.get("/v2/deviceBrokers/plan")
        drops = sum(one["cost"]["sessions"] for one in planned["plan"])
        if drops and not yes:
            raise Failed(f"Up to {drops} sessions would drop: look at provisioner broker plan, then give --yes.")
        return planned | {"applied": await api.post("/v2/drift/apply")}

    found = ask(Door(where(ctx), server, token_file), work)
    _print_plan(found, as_json=as_json)
    if found["unreachable"] or found["applied"]["unreachable"]:
        raise typer.Exit(1)


app.command("drift")(drift)


def _print_plan(found: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    columns = {
        "device broker": "deviceBroker",
        "in": "in",
        "out": "out",
        "renew": "renew",
        "sessions that drop": "drop",
        "stall": "stall",
        "rewrites": "rewrites",
        "time": "time",
        "each new device": "each",
    }
    rows = [
        one
        | {"in": len(one["install"]), "out": len(one["revoke"]), "renew": len(one["rotate"])}
        | {
            "drop": _drops(one),
            "stall": f"{one['cost']['stall']:g} s",
            "rewrites": one["cost"]["rewrites"],
            "time": f"{one['cost']['duration']:g} s",
            "each": f"{one['eachInstall']['stall']:g} s stall, {one['eachInstall']['rewrites']} rewrites",
        }
        for one in found["plan"]
    ]
    emit(rows, columns, as_json=False, empty="There is no device broker that could be asked.")
    for name in found["unreachable"]:
        say(f"The device broker {name} could not be asked.")


def _drops(one: Mapping[str, Any]) -> str:
    if one["revoke"] and not one["kicksLive"]:
        return "none: open sessions stay until they connect anew"
    return f"at most {one['cost']['sessions']}"


def print_commands(commands: tuple[str, ...]) -> None:
    """What to type, on standard error like all advice."""
    say("\n".join(f"  {command}" for command in commands))


def _provision_login(data_dir: Path) -> Login:
    from broker.datadir import DataDir  # noqa: PLC0415  # as above

    text = DataDir(data_dir).load_secret("provision-login")
    if text is None:
        raise Failed(f"{data_dir} has no provision-login: run provisioner init first.")
    user, _, password = text.partition("\n")
    return Login(user, password.strip())


def _bridge_login(out: Path) -> Login:
    file = out / _LOGIN
    if file.exists():
        user, _, password = file.read_text(encoding="utf-8").partition("\n")
        return Login(user, password.strip())
    return Login(BRIDGE_USER, secrets.token_urlsafe(24))


def _write(path: Path, file: File) -> None:
    """Whole or not at all; a secret is never readable by others, not even for a moment."""
    fresh = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if file.is_secret else 0o644)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(file.text)
        fresh.replace(path)
    except OSError as error:
        raise Failed(f"{path} cannot be written: {error.strerror}.") from None
