"""Where devices claim and which login they start with: what `device` and `fleet` share.

1. `--endpoint` names the server; otherwise the data directory does: the server that runs on it, else its settings.
2. The provisioning password comes from `--password-file`, else from the data directory's own `provision-login` if that
   is the same user's, else from a prompt or standard input.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from broker.cli.output import Failed, Where, read_secret
from broker.datadir import DataDir
from broker.fleet.actions import Mode
from broker.fleet.replies import Address, Encoding
from broker.fleet.unit import Endpoint

_LOGIN = "provision-login"
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104  # addresses nobody can connect to


class Mqtt(StrEnum):
    """What `--mqtt` takes."""

    V3 = "3"
    V5 = "5"


At = Annotated[
    str | None,
    typer.Option("--endpoint", metavar="HOST:PORT", help="Where to claim; default: the server of the data directory."),
]
How = Annotated[Mode, typer.Option(help="How the key is shown and the offer sealed; plain sends the key itself.")]
Speaking = Annotated[Mqtt, typer.Option(help="MQTT 3.1.1 or 5.")]
Tls = Annotated[bool, typer.Option("--tls", help="Connect with TLS.")]
Ca = Annotated[
    Path | None, typer.Option(metavar="FILE", help="PEM file that vouches for the server; default: the system's.")
]
Cbor = Annotated[bool, typer.Option("--cbor", help="Write messages in CBOR instead of JSON.")]
User = Annotated[
    str | None, typer.Option(help="Provision user to start with; default: the data directory's, else factory.")
]
PasswordFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="File with the user's password; - reads standard input.")
]


@dataclass(frozen=True, slots=True)
class Site:
    """An endpoint, the root of its topics, and the provisioning login of its data directory, if there is one."""

    endpoint: Endpoint
    root: str
    login: tuple[str, str] | None = None

    @property
    def words(self) -> str:
        """The endpoint for people."""
        address = self.endpoint.address
        return f"{address.host}:{address.port}{' with TLS' if address.tls else ''}"


def find_site(place: Where, at: str | None, *, mqtt: Mqtt, tls: bool, ca: Path | None) -> Site:
    """The endpoint that the options name. Raises `Failed`."""
    from broker import app as root  # noqa: PLC0415  # --help does not wait for it

    settings = root.load(place.config, place.data_dir).settings
    directory = DataDir(settings.data_dir)
    if at is None:
        running = directory.running()
        listen = settings.endpoint.tls_listen if tls else settings.endpoint.listen
        at = (running.endpoint_tls if tls else running.endpoint) if running else str(listen or "")
        if not at:
            missing = "tls_listen" if tls else "listen"
            raise Failed(f"There is no such listener (setting endpoint.{missing}): name one with --endpoint HOST:PORT.")
    lines = (directory.load_secret(_LOGIN) or "").splitlines()
    login = (lines[0], lines[1]) if len(lines) == 2 else None
    endpoint = Endpoint(parse_endpoint(at, tls=tls), 5 if mqtt is Mqtt.V5 else 4, _trust(ca) if tls else None)
    return Site(endpoint, settings.endpoint.root_topic, login)


def parse_endpoint(text: str, *, tls: bool) -> Address:
    """Read HOST:PORT or HOST; the ports default to 1884 and 8884. Raises `Failed`."""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, "8884" if tls else "1884"
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise Failed(f"{text} is no endpoint: write it as HOST:PORT.", code=2)
    host = host.removeprefix("[").removesuffix("]")
    return Address(_ANYWHERE.get(host, host), int(port), tls)


def find_login(site: Site, user: str | None, password_file: Path | None) -> tuple[str, str]:
    """User and password of the provisioning login. Raises `Failed`."""
    own = site.login
    user = user or (own[0] if own else "factory")
    if password_file is None and own is not None and own[0] == user:
        return own
    return user, read_secret(f"Password of {user}", password_file)


def encoding(cbor: bool) -> Encoding:
    """What `--cbor` means."""
    return Encoding.CBOR if cbor else Encoding.JSON


def _trust(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except ssl.SSLError:
        raise Failed(f"{ca} holds no PEM certificate.") from None
    except OSError as error:
        raise Failed(f"{ca} cannot be read: {error.strerror}.") from None
