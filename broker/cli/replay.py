"""`provisioner device replay`: play the device's part of a transcript, and tell what the server answers differently."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from broker.cli.endpoints import At, Ca, Mqtt, PasswordFile, Speaking, Tls, User, find_login, find_site
from broker.cli.output import Failed, printable, read_secret, say, where
from broker.fleet.actions import Identity
from broker.fleet.replay import Replay
from broker.fleet.replies import Unreadable
from broker.fleet.transcript import Transcript, parse_transcript
from broker.lifetime import run

_LARGEST = 4_000_000


def replay(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A transcript, written by `device claim --record`.")],
    client_id: Annotated[
        str | None, typer.Option("--client-id", help="The device to be; default: the transcript's.")
    ] = None,
    user: User = None,
    key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with the activation key; - reads standard input.")
    ] = None,
    password_file: PasswordFile = None,
    at: At = None,
    mqtt: Speaking = Mqtt.V5,
    tls: Tls = False,
    ca: Ca = None,
    patience: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds to wait for each answer.")] = 15.0,
) -> None:
    """Play a recorded provisioning to a server, and compare its answers.

    Needs a request that is as the recorded one was. Exit code 0 only when all answers are alike: same code, reason,
    kind and members; names, times and numbers may differ.

    Example: provisioner device replay dev-1.jsonl --client-id dev-2 --key-file dev-2.key
    """
    transcript = _load(file)
    client_id = client_id or transcript.client_id
    site = find_site(where(ctx), at, mqtt=mqtt, tls=tls, ca=ca)
    key = read_secret(f"Activation key of {client_id}", key_file)
    user, password = find_login(site, user, password_file)
    identity = Identity(user, password, client_id, key)
    played = run(_play(Replay(transcript, identity, site.endpoint, root=site.root), patience))
    for difference in played.differences:
        say(printable(difference))
    if played.differences:
        count = len(played.differences)
        raise Failed(
            f"{file} differs in {count} point{'s' if count > 1 else ''}; {played.answers} answers were compared."
        )
    say(f"{file} is as recorded: {played.answers} answers were compared.")


async def _play(performance: Replay, patience: float) -> Replay:
    await performance.run(patience=patience)
    return performance


def _load(file: Path) -> Transcript:
    try:
        with file.open(encoding="utf-8") as opened:
            text = opened.read(_LARGEST)
    except UnicodeDecodeError:
        raise Failed(f"{file} is no transcript: it is not UTF-8.") from None
    except OSError as error:
        raise Failed(f"{file} cannot be read: {error.strerror}.") from None
    try:
        return parse_transcript(text)
    except Unreadable as error:
        raise Failed(f"{file} is no transcript: {printable(str(error))}.") from None
