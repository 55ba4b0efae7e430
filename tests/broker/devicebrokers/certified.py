"""The world of `mosquitto-certificates`: what is a password elsewhere is a certificate of an authority of the test.

Nothing is installed there: an item's certificate counts from the moment it is issued. A wrong password is a certificate
in the same names by an authority that Mosquitto does not know.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from broker.devicebrokers.mosquitto_certificates import MosquittoCertificates
from broker.devicebrokers.mosquitto_process import MosquittoProcess
from broker.fleet.link import Link, Login, Lost, Refused
from broker.fleet.replies import Address
from broker.mqtt.packets import V311
from certs.crl import Revoked, create_crl, pem_of
from certs.hierarchy import Signer
from certs.profile import Purpose
from provisioner.model import BrokerAddress, Credential
from provisioner.ports import Install, Revoke, ToInstall
from tests.broker.devicebrokers.worlds import FOREIGN, PATIENCE, World, left
from tests.mosquitto import Mosquitto, free_port, password_line
from tests.pki import Held, Pki

CONTROL = ("provisioner", "a-password-for-control")
_DAY = 86_400_000


class Ledger:
    """Whose certificates there are and which are revoked: what the hand-over keeps, without one."""

    def __init__(self, folder: Path) -> None:
        for name in ("ours", "theirs"):
            (folder / name).mkdir()
        self.pki, self.strangers = Pki(folder / "ours"), Pki(folder / "theirs")
        self.file = folder / "crl.pem"
        self.issued: dict[str, tuple[Credential, Held]] = {}
        self._revoked: dict[str, Revoked] = {}
        self._publish()

    def issue(self, credential: Credential) -> Install:
        if credential.username in self._revoked:
            return Install.NEVER
        if credential.username not in self.issued:
            held = self.pki.device(credential.account_name, credential.client_id)
            self.issued[credential.username] = credential, held
        return Install.DONE

    def revoke(self, username: str) -> None:
        _, held = self.issued.get(username, (None, None))
        if held is not None and username not in self._revoked:
            self._revoked[username] = Revoked(held.serial, self.pki.now)
            self._publish()

    def _publish(self) -> None:
        issuer = self.pki.authority.current(Purpose.DEVICES, self.pki.now)
        assert issuer.key is not None
        signer = Signer(issuer.certificate, issuer.key)
        number = len(self._revoked) + 1
        made = create_crl(signer, self._revoked.values(), number, self.pki.now, self.pki.now + _DAY)
        self.file.write_text(pem_of(made))

    async def lists(self) -> str:
        return self.file.read_text()

    async def holder(self, _device_broker: str, username: str) -> str | None:
        """See `MosquittoCertificates`."""
        client_id = username.split(".")[2]
        live = (name for name, (one, _) in self.issued.items() if one.client_id == client_id)
        return None if any(name not in self._revoked and name != username for name in live) else client_id

    def shown(self, item: ToInstall, *, forged: bool) -> ssl.SSLContext:
        credential = item.credential
        found = self.issued.get(credential.username)
        if forged or found is None:
            return self.pki.client(self.strangers.device(credential.account_name, credential.client_id))
        return self.pki.client(found[1])


class Certified(MosquittoCertificates):
    """Mosquitto by certificates, whose ledger a test fills through the port, as the hand-over fills the real one."""

    ledger: Ledger

    async def install(self, items: Sequence[ToInstall]) -> Sequence[Install]:
        return [self.ledger.issue(item.credential) for item in items]

    async def revoke(self, usernames: Sequence[str], *, kick: bool = True) -> Sequence[Revoke]:
        for username in usernames:
            self.ledger.revoke(username)
        return await super().revoke(usernames, kick=kick)


@dataclass
class CertifiedWorld(World):
    """Devices come to `tls_port` with certificates, others to `port` with passwords."""

    tls_port: int = 0
    ledger: Ledger = field(kw_only=True)

    async def enter(
        self, item: ToInstall, client_id: str | None = None, *, password: str | None = None, version: int = V311
    ) -> Link:
        """With the item's certificate; with a password that is not the item's, with a forged one."""
        forged = password not in (None, item.password.reveal())
        login = Login(item.credential.client_id if client_id is None else client_id, "", "")
        address, tls = Address("127.0.0.1", self.tls_port, tls=True), self.ledger.shown(item, forged=forged)
        try:
            link = await Link.open(address, login, version=version, tls=tls, seconds=PATIENCE)
        except Lost as error:  # TLS refuses by closing
            raise Refused(str(error), 5, for_good=False) from None
        self.links.append(link)
        return link

    def door(self, item: ToInstall) -> tuple[int, ssl.SSLContext | None]:
        return self.tls_port, self.ledger.shown(item, forged=False)


@asynccontextmanager
async def mosquitto_certificates(folder: Path) -> AsyncIterator[World]:
    """Mosquitto with a listener for certificates, and one with passwords, for control and somebody else."""
    ledger = Ledger(folder)
    server = ledger.pki.server()
    passwords, rights = folder / "passwords", folder / "rights"
    passwords.write_text(password_line(*CONTROL) + password_line(*FOREIGN))
    passwords.chmod(0o600)
    rights.write_text(f"user {FOREIGN[0]}\ntopic readwrite theirs/#\npattern readwrite acme/%u/#\n")
    rights.chmod(0o600)
    tls_port = free_port()
    real = Mosquitto(
        folder, f"password_file {passwords}", f"acl_file {rights}", f"listener {tls_port} 127.0.0.1",
        "allow_anonymous false", f"cafile {ledger.pki.trusted}", f"certfile {server.chain}", f"keyfile {server.key}",
        f"crlfile {ledger.file}", f"acl_file {rights}", "require_certificate true", "use_identity_as_username true",
        "use_username_as_clientid true", top="per_listener_settings true",
    )  # fmt: skip
    await asyncio.to_thread(real.start)
    control = (Address("127.0.0.1", real.port), CONTROL, None)
    secure = BrokerAddress(f"mqtts://127.0.0.1:{tls_port}")
    broker = Certified("plant", ledger.file, MosquittoProcess(real.pid_file), control, None, secure)
    broker.ledger, broker.lists, broker.holder = ledger, ledger.lists, ledger.holder
    kill, stop, restart = (partial(asyncio.to_thread, act) for act in (real.kill, real.stop, real.restart))
    world = CertifiedWorld(broker, real.port, kill, stop, restart, folder, tls_port=tls_port, ledger=ledger)
    try:
        yield world
    finally:
        await left(world)
        await asyncio.to_thread(real.kill)
