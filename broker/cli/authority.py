"""`provisioner ca`: the certificate authority in the data directory.

They work on the files, so they need no token: whoever may write them may do anything with them. A server that runs is
told to read them again (SIGHUP).
"""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from broker.cli.output import Failed, Json, emit, print_json, say, where
from broker.cli.times import moment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.datadir import DataDir
    from certs.authority import Authority, Issuer
    from certs.keystore import Keystore

app = typer.Typer(no_args_is_help=True, add_completion=False, help="The certificate authority.")

_COLUMNS = {"for": "purpose", "name": "name", "key id": "id", "valid until": "until", "state": "state"}


class Purpose(StrEnum):
    """What `--for` takes."""

    DEVICES = "devices"
    SERVERS = "servers"


class Algorithm(StrEnum):
    """What `--algorithm` takes."""

    P256 = "P-256"
    P384 = "P-384"
    ED25519 = "Ed25519"


For = Annotated[Purpose, typer.Option("--for", help="What it signs for.")]
Kind = Annotated[Algorithm, typer.Option("--algorithm", help="Kind of the new keys.")]


@app.command("show")
def show(ctx: typer.Context, *, as_json: Json = False) -> None:
    """Show the root and its issuers; of each purpose the newest valid one signs.

    Example: provisioner ca show
    """
    from broker.parts import now  # noqa: PLC0415  # --help does not wait for it

    with _opened(ctx) as (_, _keystore, authority):
        rows = _rows(authority, now())
    if as_json:
        print_json({"root": authority.root_pem, "issuer": rows})
        return
    emit([row | {"id": row["id"][:16], "until": moment(row["notAfter"])} for row in rows], _COLUMNS, as_json=False)


@app.command("root")
def root(ctx: typer.Context) -> None:
    """Print the root's certificate, which is what brokers and devices trust.

    Example: provisioner ca root > ca.pem
    """
    with _opened(ctx) as (_, _keystore, authority):
        typer.echo(authority.root_pem, nl=False)


@app.command("init")
def init(
    ctx: typer.Context,
    *,
    label: Annotated[str, typer.Option(help="What the authorities are called, 40 characters.")] = "MQTT Provisioner",
    algorithm: Kind = Algorithm.P256,
) -> None:
    """Make an authority before the first start, which otherwise makes one of its own.

    Example: provisioner ca init --label "Acme devices"
    """
    from broker.authority import create  # noqa: PLC0415  # --help does not wait for it
    from broker.parts import now  # noqa: PLC0415  # as above

    with _folder(ctx) as (_, keystore):
        if keystore.exists():
            raise Failed(f"There is an authority in {keystore.folder}: `provisioner ca rotate` makes its next issuer.")
        create(keystore, now(), label=label, algorithm=algorithm)
    say(f"The authority is in {keystore.folder}. Keep a copy of root.key elsewhere.")


@app.command("import")
def import_issuer(
    ctx: typer.Context,
    chain: Annotated[
        Path, typer.Argument(metavar="CHAIN", help="PEM file: the issuer's certificate first, up to the root.")
    ],
    key: Annotated[
        Path, typer.Argument(metavar="KEY", help="File with the issuer's key, PEM or a token's URI, mode 0600.")
    ],
    *,
    purpose: For = Purpose.DEVICES,
    key_passphrase_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with the passphrase of KEY, mode 0600.")
    ] = None,
) -> None:
    """Take over an issuer of your own authority; the root's key stays with you.

    Before the first start CHAIN brings its root along; afterwards it has to hang on the root that is here.

    Example: provisioner ca import devices-chain.pem devices.key --for devices
    """
    from broker.parts import now  # noqa: PLC0415  # --help does not wait for it
    from certs import profile  # noqa: PLC0415  # as above
    from certs.keystore import load_certificates, load_key, load_passphrase  # noqa: PLC0415  # as above

    with _folder(ctx) as (directory, keystore):
        certificates = load_certificates(chain)
        private = load_key(key, load_passphrase(key_passphrase_file) if key_passphrase_file else None)
        if not keystore.exists():
            keystore.import_root(certificates[-1], now())
        issuer = keystore.import_issuer(profile.Purpose(purpose.value), certificates, private, now())
    say(f"The issuer {issuer.id[:16]} signs for {purpose} until {moment(issuer.not_after)}.")
    _tell(directory)


@app.command("rotate")
def rotate(
    ctx: typer.Context,
    *,
    purpose: For = Purpose.DEVICES,
    algorithm: Kind = Algorithm.P256,
    key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File with its key, PEM or a token's URI, mode 0600; else a new key."),
    ] = None,
) -> None:
    """Make the next issuer, which signs from now on; what the former one signed counts until it ends.

    Example: provisioner ca rotate --for devices
    """
    from broker.authority import label_of  # noqa: PLC0415  # --help does not wait for it
    from broker.parts import now  # noqa: PLC0415  # as above
    from certs import profile  # noqa: PLC0415  # as above
    from certs.keystore import load_key  # noqa: PLC0415  # as above

    with _folder(ctx) as (directory, keystore):
        given = None if key is None else load_key(key)
        issuer = keystore.add_issuer(
            label_of(keystore),
            profile.Purpose(purpose.value),
            now(),
            os.urandom,
            algorithm=algorithm.value,
            key=given,
        )
    say(f"The issuer {issuer.id[:16]} signs for {purpose} until {moment(issuer.not_after)}.")
    _tell(directory)


def _rows(authority: Authority, now: int) -> list[dict[str, Any]]:
    from certs.errors import NotIssued  # noqa: PLC0415  # --help does not wait for it

    def state(issuer: Issuer) -> str:
        try:
            if authority.current(issuer.purpose, now) is issuer:
                return "signs"
        except NotIssued:
            pass
        if not issuer.is_valid(now):
            return "over" if now > issuer.not_after else "not valid yet"
        return "trusted" if issuer.key is not None else "trusted, no key"

    rows = [
        {
            "purpose": str(issuer.purpose),
            "name": issuer.certificate.subject.rfc4514_string(),
            "id": issuer.id,
            "notBefore": issuer.not_before,
            "notAfter": issuer.not_after,
            "state": state(issuer),
        }
        for issuer in authority.issuers
    ]
    return [authority.about_root(), *rows]


@contextmanager
def _folder(ctx: typer.Context) -> Iterator[tuple[DataDir, Keystore]]:
    """The folder of the authority; what is wrong with it is told in a sentence."""
    from broker import app as composition  # noqa: PLC0415  # --help does not wait for it
    from broker import wiring  # noqa: PLC0415  # as above
    from broker.authority import unusable  # noqa: PLC0415  # as above
    from broker.datadir import DataDir  # noqa: PLC0415  # as above
    from certs.errors import UnusableAuthority  # noqa: PLC0415  # as above

    place = where(ctx)
    settings = composition.load(place.config, place.data_dir).settings
    directory = DataDir(settings.data_dir)
    directory.prepare()
    try:
        yield directory, wiring.authority_choices(settings).keystore(directory.authority)
    except (UnusableAuthority, ValueError) as error:
        raise unusable(error) from None


@contextmanager
def _opened(ctx: typer.Context) -> Iterator[tuple[DataDir, Keystore, Authority]]:
    with _folder(ctx) as (directory, keystore):
        yield directory, keystore, keystore.load()


def _tell(directory: DataDir) -> None:
    """Have the server that runs read the files again."""
    running = directory.running()
    if running is None:
        return
    os.kill(running.pid, signal.SIGHUP)
    say("The server that runs has been told.")
