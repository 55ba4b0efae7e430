"""`provisioner request`: permissions for one device each.

A request is named by its client id, which means its newest request, or by its id.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from broker.cli.accounts import coupling
from broker.cli.client import Api, Door, SecretFile, Server, TokenFile, ask, present
from broker.cli.nextsteps import claim_commands, first_user
from broker.cli.output import Failed, Json, emit, load_object, print_json, read_secret, say, where
from broker.cli.oversight import show_entries
from broker.cli.policies import find as find_policy
from broker.cli.requestview import COLUMNS, print_request, rows
from broker.cli.times import parse_moment

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Permissions for one device each.")

_PATH = "/v2/provisionRequests"
_VERBS = {
    "enable": "Let the device claim.",
    "disable": "Refuse its claims until enabled again; what it has stays.",
    "stop": "End the hand-over under way.",
    "revoke": "Take its credential away and close its session, or say that its broker cannot.",
    "rotate": "Give it a new credential with its next claim, and say what becomes of its session.",
}


class Kind(StrEnum):
    """What `--kind` takes."""

    PASSWORD = "password"  # noqa: S105 - a kind of credential
    X509 = "x509"


class Proof(StrEnum):
    """What `--confirm` takes."""

    LOGIN = "login"
    ACK = "ack"
    EITHER = "either"


Name = Annotated[str, typer.Argument(metavar="REQUEST", help="Client id (its newest request) or id of the request.")]
KeyFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write the activation key here, mode 0600, instead of printing it.")
]


def _when(text: str) -> Any:
    return typer.Option(parser=parse_moment, metavar="WHEN", help=text)


@app.command("create")
def create(
    ctx: typer.Context,
    client_id: Annotated[
        str | None,
        typer.Argument(
            metavar="CLIENT-ID", help="The device's MQTT client id; default: serial number, else MAC address."
        ),
    ] = None,
    *,
    account: Annotated[str, typer.Option(help="Name or id of the account that will own the device.")],
    user: Annotated[str | None, typer.Option(help="Provision user it starts with; default: the first one.")] = None,
    user_password_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Password of a user to be made; - reads standard input.")
    ] = None,
    strict: Annotated[
        bool | None,
        typer.Option("--strict/--loose", help="May only this client id use the credential, or any of the account?"),
    ] = None,
    activates: Annotated[int | None, _when("Its window opens: 2h, 2027-01-31; default: now.")] = None,
    expires: Annotated[int | None, _when("Its window closes: 24h, 2027-01-31T08:00; default: never.")] = None,
    attempts: Annotated[int | None, typer.Option(min=1, help="Attempts it has.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what the client id has.")] = False,
    kind: Annotated[
        Kind | None, typer.Option(help="A password, or with x509 a certificate on the device's own key.")
    ] = None,
    secure_url: Annotated[bool, typer.Option("--secure-url", help="Tell it the broker's TLS address.")] = False,
    confirm: Annotated[Proof | None, typer.Option(help="What proves that it holds the credential.")] = None,
    configuration: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON object that it gets with its credential.")
    ] = None,
    serial_number: Annotated[
        str | None, typer.Option(help="Must agree with what it reports, as the next four.")
    ] = None,
    mac_address: Annotated[str | None, typer.Option()] = None,
    vendor: Annotated[str | None, typer.Option()] = None,
    brand: Annotated[str | None, typer.Option()] = None,
    model: Annotated[str | None, typer.Option()] = None,
    device_name: Annotated[str | None, typer.Option(help="How people call it.")] = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="UID", help="Tag it; may be repeated.")] = None,
    location: Annotated[str | None, typer.Option(metavar="UID", help="Where it is.")] = None,
    policy: Annotated[str | None, typer.Option(help="Name or uid of the policy it is made by.")] = None,
    bundle: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="File that it gets with its credential; up to nine.")
    ] = None,
    attach_configuration: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The same for a configuration that is no JSON object.")
    ] = None,
    forget: Annotated[bool, typer.Option("--forget", help="Tell it to forget the provisioning login.")] = False,
    given_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Take the activation key from here; - reads standard input.")
    ] = None,
    key_file: KeyFile = None,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Create a request and its activation key, which is shown once.

    Example: provisioner request create dev-1 --account default --expires 24h
    """
    door = Door(where(ctx), server, token_file)
    fields: dict[str, object] = {
        "clientId": client_id,
        "provisionUserUsername": user or (None if policy else first_user(door)),
        "provisionUserPassword": read_secret("User password", user_password_file) if user_password_file else None,
        "deviceCredentialsTight": coupling(strict),
        "activatesOn": activates,
        "expiresOn": expires,
        "retryMaxAttempts": attempts,
        "overwriteIfDuplicate": overwrite or None,
        "credentialKind": kind,
        "provisionSecureURL": secure_url or None,
        "confirm": confirm,
        "configuration": load_object(configuration) if configuration else None,
        "serialNumber": serial_number,
        "macAddress": mac_address,
        "vendor": vendor,
        "brand": brand,
        "model": model,
        "deviceName": device_name,
        "tagUids": tag,
        "locationUid": location,
        "forget": forget or None,
    }
    if given_key:
        fields |= {"generateActivationKey": False, "activationKey": read_secret("Activation key", given_key)}

    async def work(api: Api) -> Any:
        ruled = {"policyUid": (await find_policy(api, policy))["uid"]} if policy else {}
        owner = {"accountId": await api.account_id(account)}
        named = [("BUNDLE", one) for one in bundle or ()]
        named += [("CONFIGURATION", attach_configuration)] if attach_configuration else []
        kept = [
            {"type": kind, "id": (await api.upload("/v2/attachments", one.read_bytes(), name=one.name, **owner))["id"]}
            for kind, one in named
        ]
        return await api.post(_PATH, present(fields) | ruled | owner | {"provisionAttachments": kept})

    _hand_out(door, work, key_file, as_json=as_json)


@app.command("list")
def list_requests(
    ctx: typer.Context,
    *,
    account: Annotated[str | None, typer.Option(help="Name or id: only of this account.")] = None,
    client_id: Annotated[list[str] | None, typer.Option(help="Only of this client id; may be repeated.")] = None,
    status: Annotated[list[str] | None, typer.Option(help="Only in this job status; may be repeated.")] = None,
    since: Annotated[int | None, _when("Only windows that end after this.")] = None,
    until: Annotated[int | None, _when("Only windows that start before this.")] = None,
    offset: Annotated[int, typer.Option(min=0, help="Leave out this many.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Show at most this many.")] = 50,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """List requests, newest first; filters combine.

    Example: provisioner request list --account acme --status CREATED
    """

    async def work(api: Api) -> Any:
        page = await api.get(
            _PATH,
            accountId=await api.account_id(account) if account else None,
            clientIDs=client_id or None,
            statuses=[one.upper() for one in status or ()] or None,
            startDate=since,
            endDate=until,
            offset=offset,
            limit=limit,
        )
        found = page["provisionRequest"]
        return page["limitExceeded"], found if as_json else await rows(api, found)

    more, found = ask(Door(where(ctx), server, token_file), work)
    emit(found, COLUMNS, as_json=as_json, empty="No such requests.")
    if more:
        say(f"There are more: --offset {offset + limit}")


@app.command("show")
def show(
    ctx: typer.Context, name: Name, *, server: Server = None, token_file: TokenFile = None, as_json: Json = False
) -> None:
    """Show one request and how far it is.

    Example: provisioner request show dev-1
    """

    async def work(api: Api) -> Any:
        found = await _find(api, name)
        return found if as_json else (await rows(api, [found]))[0]

    found = ask(Door(where(ctx), server, token_file), work)
    if as_json:
        print_json(found)
    else:
        print_request(found)


def _add_verb(verb: str, text: str) -> None:
    @app.command(verb, help=f"{text}\n\nExample: provisioner request {verb} dev-1")
    def command(
        ctx: typer.Context, name: Name, *, server: Server = None, token_file: TokenFile = None, as_json: Json = False
    ) -> None:
        async def work(api: Api) -> Any:
            changed = await api.post(f"{await _path(api, name)}/{verb}")
            return changed if as_json else (await rows(api, [changed]))[0]

        changed = ask(Door(where(ctx), server, token_file), work)
        if as_json:
            print_json(changed)
        else:
            print_request(changed, COLUMNS)
            if "liveSession" in changed:
                say(changed["liveSession"]["detail"])


for _verb, _text in _VERBS.items():
    _add_verb(_verb, _text)


@app.command("log")
def log(
    ctx: typer.Context, name: Name, *, server: Server = None, token_file: TokenFile = None, as_json: Json = False
) -> None:
    """Show what was decided about one request: each attempt, each refusal.

    Example: provisioner request log dev-1
    """

    async def work(api: Api) -> Any:
        return (await api.get(f"{await _path(api, name)}/log", limit=1000))["entry"]

    show_entries(ask(Door(where(ctx), server, token_file), work), as_json=as_json)


@app.command("reopen")
def reopen(
    ctx: typer.Context,
    name: Name,
    *,
    new_key: Annotated[bool, typer.Option("--new-key", help="Make a new activation key; the old one is void.")] = False,
    activates: Annotated[int | None, _when("Its window opens; default: as before.")] = None,
    expires: Annotated[int | None, _when("Its window closes; default: as before.")] = None,
    never_expires: Annotated[bool, typer.Option("--never-expires", help="Its window never closes.")] = False,
    key_file: KeyFile = None,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Let a device start again, with all its attempts.

    Example: provisioner request reopen dev-1 --expires 24h
    """
    if never_expires and expires is not None:
        raise typer.BadParameter("give one of the two", param_hint="--expires, --never-expires")
    body = present({"generateActivationKey": new_key or None, "activatesOn": activates, "expiresOn": expires})
    if never_expires:
        body["expiresOn"] = None

    async def work(api: Api) -> Any:
        return await api.post(f"{await _path(api, name)}/reopen", body)

    _hand_out(Door(where(ctx), server, token_file), work, key_file, as_json=as_json)


@app.command("delete")
def delete(ctx: typer.Context, name: Name, *, server: Server = None, token_file: TokenFile = None) -> None:
    """Delete a request that has nothing live; revoke it first where it has.

    Example: provisioner request delete dev-1
    """

    async def work(api: Api) -> None:
        await api.delete(await _path(api, name))

    ask(Door(where(ctx), server, token_file), work)
    say(f"Request {name} is deleted.")


@app.command("key")
def key(
    ctx: typer.Context,
    name: Name,
    *,
    key_file: KeyFile = None,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Reveal the activation key of a request, where your role may see it.

    Example: provisioner request key dev-1 --key-file dev-1.key
    """

    async def work(api: Api) -> Any:
        return await api.get(f"{await _path(api, name)}/activationKey")

    with SecretFile(key_file) as file:
        revealed = ask(Door(where(ctx), server, token_file), work)
        if file.wanted:
            file.write(revealed.pop("activationKey"))
    if not file.wanted:
        emit(revealed, {"activation key": "activationKey"}, as_json=as_json)


def _hand_out(door: Door, work: Callable[[Api], Awaitable[Any]], key_file: Path | None, *, as_json: bool) -> None:
    """Do `work`, then show the request, its key if there is a new one, and what to do with it."""
    shown: list[dict[str, Any]] = []

    async def and_show(api: Api) -> dict[str, Any]:
        made: dict[str, Any] = await work(api)
        if not as_json:
            shown.extend(await rows(api, [made]))
        return made

    with SecretFile(key_file) as file:
        made = ask(door, and_show)
        new_key = made.get("activationKey")
        if file.wanted and new_key:
            file.write(made.pop("activationKey"))
    if as_json:
        print_json(made)
        return
    print_request(shown[0] | {"activationKey": made.get("activationKey")})
    if new_key:
        say(f"The activation key is in {key_file}." if file.wanted else "The activation key is shown this once.")
        say(claim_commands(door, made, key_file if file.wanted else None))


async def _find(api: Api, name: str) -> Any:
    """The request with this client id (the newest) or id."""
    found = (await api.get(_PATH, clientIDs=name, limit=1))["provisionRequest"]
    if found and found[0]["clientId"] == name:  # a comma in `name` would ask for two
        return found[0]
    if name.isdecimal():
        return await api.get(f"{_PATH}/{name}")
    raise Failed(f"There is no request for {name}: `provisioner request list` shows those there are.")


async def _path(api: Api, name: str) -> str:
    return f"{_PATH}/{(await _find(api, name))['id']}"
