"""`provisioner device`: be a device, once.

The steps go to standard error, the credential to standard output; its password only into a file or where it was asked
for. Nothing here knows the server: what works here works for any firmware that follows the wire contract.
"""

from __future__ import annotations

import json
import secrets
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from broker.cli import fleet, replay
from broker.cli.client import SecretFile
from broker.cli.endpoints import (
    At,
    Ca,
    Cbor,
    How,
    Mqtt,
    PasswordFile,
    Site,
    Speaking,
    Tls,
    User,
    encoding,
    find_login,
    find_site,
)
from broker.cli.output import Failed, Json, emit, printable, read_secret, say, where
from broker.cli.times import moment
from broker.fleet.actions import Identity, Mode, Options, Step
from broker.fleet.device import Device
from broker.fleet.flash import MemoryFlash
from broker.fleet.replies import Credential, Reply
from broker.fleet.transcript import Recorder
from broker.fleet.unit import Outcome, Unit
from broker.lifetime import run

app = typer.Typer(no_args_is_help=True, help="Be a device: claim a credential, log in with it.")
fleet_app = fleet.app

_COLUMNS = {
    "client id": "clientId",
    "user name": "username",
    "password": "password",
    "valid until": "validUntil",
    "generation": "generation",
    "coupling": "coupling",
    "account": "account",
    "device broker": "url",
    "may publish to": "publish",
    "may subscribe to": "subscribe",
}
_LABELS = {
    "connect": "connected",
    "subscribe": "subscribed",
    "claim": "claim sent",
    "offer-opened": "offer opened",
    "stored": "stored",
    "logged-in": "logged in",
    "login-refused": "login refused",
    "login-unreachable": "no login",
    "ack": "ack sent",
    "refused": "answer",
    "pause": "pause",
    "lost": "lost",
    "confirmed": "confirmed",
}
_ADVICE = {
    "denied": "check client id, user and activation key, and that `provisioner request show {id}` knows it.",
    "disabled": "`provisioner request enable {id}` lets it claim.",
    "not-active": "its window opens in {seconds} seconds: claim again then.",
    "already-provisioned": "it has its credential; `provisioner request rotate {id}` or `reopen {id}` gives another.",
    "superseded": "its credential was retired meanwhile: claim again.",
    "expired": "`provisioner request reopen {id}` with a new window lets it claim.",
    "abandoned": "`provisioner request reopen {id}` gives it new attempts.",
    "unsupported": "another way is wanted; try {supported}.",
    "bad-csr": "its key cannot be certified: see the server's log.",
    "too-large": "the request's configuration makes an offer larger than the endpoint sends: shorten it.",
    "wait": "claim again in {seconds} seconds.",
    "slow-down": "claim again in {seconds} seconds.",
    "unavailable": "claim again in {seconds} seconds; the server's log tells what is away.",
    "bad-request": "the provisioner does not understand this claim: do both follow the same contract?",
}
_OTHER_WAYS: dict[tuple[str, ...], str] = {
    ("proof",): "--mode proof",
    ("x509",): "--csr",
    ("password",): "it without --csr",
}


app.command("replay")(replay.replay)


@app.callback()
def _device() -> None:
    """Be a device: claim a credential, log in with it."""


@app.command("claim")
def claim(
    ctx: typer.Context,
    client_id: Annotated[str, typer.Argument(help="The MQTT client id of the device to be.")],
    user: User = None,
    key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with the activation key; - reads standard input.")
    ] = None,
    password_file: PasswordFile = None,
    at: At = None,
    mode: How = Mode.PROOF,
    mqtt: Speaking = Mqtt.V5,
    csr: Annotated[
        bool, typer.Option("--csr", help="Make a key and claim a certificate on it; its request has --kind x509.")
    ] = False,
    cbor: Cbor = False,
    tls: Tls = False,
    ca: Ca = None,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the credential with its password or key here, mode 0600.")
    ] = None,
    show_password: Annotated[bool, typer.Option("--show-password", help="Print the password or key too.")] = False,
    record: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write every step here, without secrets, for `device replay` or a report."),
    ] = None,
    patience: Annotated[float, typer.Option("--timeout", min=0.1, help="Give up after so many seconds.")] = 60.0,
    as_json: Json = False,
) -> None:
    """Claim the credential of one device, log in at the device broker with it, and confirm it.

    Asks for the activation key, and for the user's password where the data directory does not have it. Exit code 0
    only when the credential is confirmed.

    Example: provisioner device claim dev-1 --key-file dev-1.key --save dev-1.json --record dev-1.jsonl
    """
    site = find_site(where(ctx), at, mqtt=mqtt, tls=tls, ca=ca)
    key = read_secret(f"Activation key of {client_id}", key_file)
    user, password = find_login(site, user, password_file)
    identity = Identity(user, password, client_id, key)
    options = Options(mode, encoding(cbor), csr=csr, root=site.root)
    with SecretFile(save) as file, SecretFile(record) as transcript:
        device = Device(identity, options, MemoryFlash(), secrets.token_bytes)
        recorder = Recorder(user, client_id, options.encoding, device.peek, f"{mode} mode")
        try:
            outcome = run(_claim(device, site, patience, user, recorder, quiet=as_json))
        finally:
            transcript.write(recorder.text())
        if outcome.credential is None or not outcome.is_confirmed:
            raise Failed(explain(outcome, site))
        file.write(json.dumps(_fields(outcome.credential, with_secret=True), indent=2))
    _show(_fields(outcome.credential, with_secret=show_password), as_json=as_json)
    secret = "key" if csr else "password"
    if save is not None:
        say(f"Credential with its {secret}: {save}")
    elif not show_password:
        say(f"The {secret} is nowhere now: --save FILE keeps it, --show-password prints it.")


async def _claim(device: Device, site: Site, patience: float, user: str, recorder: Recorder, *, quiet: bool) -> Outcome:
    started = time.monotonic()
    recorder.start(time.monotonic)
    login = f"{site.words}, MQTT {'5' if site.endpoint.version == 5 else '3.1.1'}, as {user}"

    def tell(step: Step) -> None:
        if step.name in _LABELS and not quiet:
            told = login if step.name == "connect" else _told(step)
            say(f"{time.monotonic() - started:7.3f} s  {_LABELS[step.name]:<14} {told}".rstrip())

    return await Unit(device, site.endpoint, patience=patience, observe=tell, tap=recorder.tap).run()


def _told(step: Step) -> str:
    if step.reply is not None:
        return _answer(step.reply)
    if step.name == "pause":
        return f"next try in {step.seconds:.1f} s"
    return printable(step.text)


def _answer(reply: Reply) -> str:
    """Code, reason, detail and trace of a reply, on one line."""
    detail = f": {reply.detail}" if reply.detail else ""
    trace = f" (trace {reply.trace})" if reply.trace else ""
    return printable(f"{reply.code} {reply.reason}{detail}{trace}")


def explain(outcome: Outcome, site: Site) -> str:
    """Say in one sentence why a device has no confirmed credential, and what to do."""
    reply, client_id = outcome.reply, outcome.client_id
    if reply is not None:
        advice = _ADVICE.get(reply.reason, "see the server's log.")
        supported = _OTHER_WAYS.get(reply.supported, "--mode plain, proof, ctr or hpke")
        said = advice.format(id=client_id, seconds=reply.retry_after or "a few", supported=supported)
        return f"{client_id} is refused, {_answer(reply)}: {said}"
    if outcome.reason == "refused":
        return f"{site.words} refuses {client_id}, {printable(outcome.text)}: check user, password and client id."
    if outcome.reason == "lost":
        return f"{printable(outcome.text)}: is the server running (`provisioner serve`), and is this its endpoint?"
    last = f" ({printable(outcome.text)})" if outcome.text else ""
    return (
        f"{client_id} is not confirmed after {outcome.seconds:.0f} seconds{last}: "
        "is this the provisioner's endpoint, and can its device broker be reached from here?"
    )


def _show(fields: dict[str, Any], *, as_json: bool) -> None:
    if not as_json:
        fields |= {name: ", ".join(fields[name]) for name in ("publish", "subscribe")}
        if "notAfter" in fields:
            fields["validUntil"] = moment(fields["notAfter"])
    emit(fields, {heading: name for heading, name in _COLUMNS.items() if name in fields}, as_json=as_json)


def _fields(credential: Credential, *, with_secret: bool) -> dict[str, Any]:
    """What there is to know; a user name and a password, or a certificate and its key."""
    login: dict[str, Any] = {"username": credential.username, "password": credential.password}
    if credential.certificate is not None:
        login = {"certificate": credential.certificate, "privateKey": credential.private_key}
        login["notAfter"] = credential.not_after
    fields: dict[str, Any] = {
        "clientId": credential.client_id,
        **login,
        "generation": credential.generation,
        "coupling": credential.coupling,
        "account": credential.account,
        "url": credential.url,
        "ca": credential.ca,
        "publish": list(credential.publish),
        "subscribe": list(credential.subscribe),
    }
    hidden = () if with_secret else ("password", "privateKey")
    return {name: value for name, value in fields.items() if name not in hidden}
