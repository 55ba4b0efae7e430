"""Every kind of device broker as a test sees it: the port, the real broker behind it, and devices at its door."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from broker.devicebrokers.dynsec_control import DynsecControl
from broker.devicebrokers.embedded import EmbeddedDevices
from broker.devicebrokers.mosquitto_dynsec import MosquittoDynsec
from broker.devicebrokers.mosquitto_files import Files, MosquittoFiles
from broker.devicebrokers.rabbitmq import RabbitMq
from broker.devicebrokers.rabbitmq_api import Management
from broker.devicebrokers.watch import Beside
from broker.devicebrokers.webhook import Webhook
from broker.fleet.link import Link, Login, Lost, Refused
from broker.fleet.replies import Address
from broker.http.server import HttpServer
from broker.http.webhooks import Asking, WebhookApp
from broker.mqtt.embedded import EmbeddedBroker
from broker.mqtt.grant import Grant
from broker.mqtt.packets import V311
from provisioner.lifecycle import State
from provisioner.model import BrokerAddress, Coupling, Credential, DeviceRights, Millis, Secret, topic_rights
from provisioner.ports import Install, Revoke, ToInstall
from tests.broker.devicebrokers.rabbit import ADMIN, SECRET, Rabbit
from tests.mosquitto import DYNSEC_ADMIN, Mosquitto, dynsec_lines, password_line

PATIENCE = 15.0
FOREIGN = ("somebody-else", "their-password")
"""A user of the broker that is none of ours."""


def credential(
    client_id: str = "dev-1",
    generation: int = 1,
    *,
    broker: str = "plant",
    account: str = "acme",
    coupling: Coupling = Coupling.LOOSE,
) -> Credential:
    """As it is minted."""
    return Credential(
        device_broker=broker,
        client_id=client_id,
        generation=generation,
        request_id=1,
        account_name=account,
        username=f"p.{account}.{client_id}.g{generation}",
        coupling=coupling,
        identity="password",
        secret_sealed="s",
        secret_hash="h",
        state=State.MINTED,
        minted_on=0,
        confirm_before=1,
        due_on=1,
    )


def to_install(client_id: str = "dev-1", generation: int = 1, **more: object) -> ToInstall:
    """A credential and its password, the same one for the same generation."""
    made = credential(client_id, generation, **more)  # type: ignore[arg-type]  # a test's keywords
    return ToInstall(made, Secret(f"secret-of-{made.username}"))


@dataclass
class World:
    """A device broker at work; `restart` kills it first."""

    broker: Beside
    port: int
    kill: Callable[[], Awaitable[None]]
    stop: Callable[[], Awaitable[None]]
    restart: Callable[[], Awaitable[None]]
    folder: Path
    links: list[Link] = field(default_factory=list)

    async def enter(
        self,
        item: ToInstall,
        client_id: str | None = None,
        *,
        password: str | None = None,
        version: int = V311,
    ) -> Link:
        """Log in with a credential. Raises `Refused`."""
        given = item.password.reveal() if password is None else password
        login = Login(item.credential.client_id if client_id is None else client_id, item.credential.username, given)
        return await self.login(login, version)

    def door(self, item: ToInstall) -> tuple[int, ssl.SSLContext | None]:  # it is the same for all
        """The port where this credential is used, and how."""
        return self.port, None

    async def login(self, login: Login, version: int = V311) -> Link:
        """Log in. Raises `Refused`."""
        link = await Link.open(Address("127.0.0.1", self.port), login, version=version, seconds=PATIENCE)
        self.links.append(link)
        return link

    async def admits(self, item: ToInstall, client_id: str | None = None, password: str | None = None) -> bool:
        """Whether the broker lets that in."""
        try:
            link = await self.enter(item, client_id, password=password)
        except Refused:
            return False
        await link.close()
        return True

    async def admits_foreign(self) -> bool:
        """Whether somebody else's user is still admitted."""
        try:
            link = await self.login(Login("foreign-1", *FOREIGN))
        except Refused:
            return False
        await link.close()
        return True


async def is_closed(link: Link) -> bool:
    """Whether the broker closes this connection within the patience of a test."""
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                await link.receive()
    except Lost:
        return True
    except TimeoutError:
        return False


async def is_open(link: Link, topic: str) -> bool:
    """Whether a device on this connection still hears what it publishes to a topic of its own."""
    try:
        await link.subscribe(topic)
        link.publish(topic, b"still here")
        async with asyncio.timeout(PATIENCE):
            while await link.receive() != b"still here":
                pass
    except Lost:
        return False
    return True


def beside(real: Mosquitto, broker: Beside) -> World:
    """A Mosquitto at work."""
    kill, stop, restart = (partial(asyncio.to_thread, act) for act in (real.kill, real.stop, real.restart))
    return World(broker, real.port, kill, stop, restart, real.folder)


@asynccontextmanager
async def mosquitto_files(folder: Path) -> AsyncIterator[World]:
    """Mosquitto with a password file and an ACL file that have a user of somebody else."""
    passwords, rights = folder / "passwords", folder / "rights"
    passwords.write_text("# the operator's own\n" + password_line(*FOREIGN))
    passwords.chmod(0o600)
    rights.write_text(f"# the operator's own\nuser {FOREIGN[0]}\ntopic readwrite theirs/#\n")
    rights.chmod(0o600)
    real = Mosquitto(folder, f"password_file {passwords}", f"acl_file {rights}")
    await asyncio.to_thread(real.start)
    url = BrokerAddress(f"mqtt://127.0.0.1:{real.port}")
    broker = MosquittoFiles(
        "plant",
        Files(passwords, rights, real.pid_file),
        Address("127.0.0.1", real.port),
        None,
        os.urandom,
        plain=url,
        secure=None,
    )
    world = beside(real, broker)
    try:
        yield world
    finally:
        await left(world)
        await asyncio.to_thread(real.kill)


@asynccontextmanager
async def mosquitto_dynsec(folder: Path) -> AsyncIterator[World]:
    """Mosquitto with the dynamic security plug-in and a client of somebody else."""
    real = Mosquitto(folder, *dynsec_lines(folder))
    await asyncio.to_thread(real.start)
    url = BrokerAddress(f"mqtt://127.0.0.1:{real.port}")
    control = DynsecControl(Address("127.0.0.1", real.port), DYNSEC_ADMIN, None)
    broker = MosquittoDynsec("plant", control, plain=url, secure=None)
    world = beside(real, broker)
    try:
        username, password = FOREIGN
        await control.run([{"command": "createClient", "username": username, "password": password}])
        yield world
    finally:
        await left(world)
        await asyncio.to_thread(real.kill)


async def left(world: World) -> None:
    """Close what a test left open."""
    for link in world.links:
        with contextlib.suppress(Lost, OSError):
            await link.close()
    await world.broker.close()


@asynccontextmanager
async def rabbitmq(folder: Path, real: Rabbit) -> AsyncIterator[World]:
    """RabbitMQ with users of its own, one of whom is somebody else's."""
    management = Management(real.api, ADMIN, None)
    url = BrokerAddress(f"mqtt://127.0.0.1:{real.port}")
    broker = RabbitMq("plant", management, os.urandom, plain=url, secure=None)
    world = World(broker, real.port, real.kill, real.stop, real.restart, folder)
    try:
        await somebody_else(management)
        yield world
    finally:
        if not real.is_alive:
            await real.start()
        await broker.revoke(await broker.list())
        await left(world)


async def somebody_else(management: Management) -> None:
    """A user that the operator of RabbitMQ made."""
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    await management.merge(
        {
            "users": [{"name": FOREIGN[0], "password": FOREIGN[1], "tags": ""}],
            "permissions": [{"user": FOREIGN[0], "vhost": "/", **everything}],
        }
    )


class LedgerInMemory:
    """Who is in force: what `Provisioner` decides from the ledger, without one."""

    def __init__(self) -> None:
        self.live: dict[str, ToInstall] = {}
        self.sources: list[str] = []

    async def device_login(
        self, device_broker: str, username: str, password: bytes, client_id: str, now: Millis, source: str = ""
    ) -> DeviceRights | None:
        self.sources.append(source)
        item = self.live.get(username)
        if item is None or item.password.reveal().encode() != password:
            return None
        return await self.device_rights(device_broker, username, client_id)

    async def device_rights(self, device_broker: str, username: str, client_id: str) -> DeviceRights | None:
        item = self.live.get(username)
        if item is None or client_id != item.credential.client_id:
            return None
        account = item.credential.account_name
        return DeviceRights(account, username, client_id, topic_rights(account, client_id))


class Asked(Webhook):
    """A webhook whose ledger a test fills through the port, as the hand-over fills the real one."""

    ledger: LedgerInMemory

    async def install(self, items: Sequence[ToInstall]) -> Sequence[Install]:
        self.ledger.live |= {item.credential.username: item for item in items}
        return await super().install(items)

    async def revoke(self, usernames: Sequence[str], *, kick: bool = True) -> Sequence[Revoke]:
        for username in usernames:
            self.ledger.live.pop(username, None)
        return await super().revoke(usernames, kick=kick)


@asynccontextmanager
async def webhook(folder: Path, real: Rabbit) -> AsyncIterator[World]:
    """RabbitMQ that asks us first and its own database then."""
    management = Management(real.api, ADMIN, None)
    url = BrokerAddress(f"mqtt://127.0.0.1:{real.port}")
    broker = Asked("plant", "rabbitmq", plain=url, secure=None, kicks=management)
    broker.ledger = LedgerInMemory()
    server = HttpServer(WebhookApp([Asking(broker, SECRET)], broker.ledger, lambda: 0, certificates_count=False))
    await server.start("127.0.0.1", real.webhook_port)
    world = World(broker, real.port, real.kill, real.stop, real.restart, folder)
    try:
        await somebody_else(management)
        yield world
    finally:
        await left(world)
        await server.stop()


class Embedded(EmbeddedDevices):
    """The embedded device broker, whose ledger a test fills through the port, as the hand-over fills the real one."""

    ledger: LedgerInMemory

    async def install(self, items: Sequence[ToInstall]) -> Sequence[Install]:
        self.ledger.live |= {item.credential.username: item for item in items}
        return await super().install(items)

    async def revoke(self, usernames: Sequence[str], *, kick: bool = True) -> Sequence[Revoke]:
        for username in usernames:
            self.ledger.live.pop(username, None)
        return await super().revoke(usernames, kick=kick)

    async def pulse(self) -> object:
        return None


@asynccontextmanager
async def embedded(folder: Path) -> AsyncIterator[World]:
    """Our guard with amqtt behind it, in this process; it is never away."""
    ledger = LedgerInMemory()

    async def authenticate(username: str, password: bytes, client_id: str, _source: str) -> Grant | None:
        if (username, password.decode("utf-8", "replace")) == FOREIGN:
            return Grant("theirs", username, client_id, ("theirs/#",), ("theirs/#",))
        rights = await ledger.device_login("embedded", username, password, client_id, 0)
        if rights is None:
            return None
        return Grant(rights.account, username, client_id, rights.grant.publish, rights.grant.subscribe)

    async def never() -> None:
        raise AssertionError("the embedded device broker is a part of this process")

    real = EmbeddedBroker(authenticate)
    port = await real.start("127.0.0.1", 0)
    broker = Embedded(real.kick, lambda: [grant.username for grant in real.connected()])
    broker.ledger = ledger
    world = World(broker, port, never, never, never, folder)
    try:
        yield world
    finally:
        await left(world)
        await real.close()


Made = Callable[[Path], AbstractAsyncContextManager[World]]
QUICK: dict[str, Made] = {
    "embedded": embedded,
    "mosquitto-dynsec": mosquitto_dynsec,
    "mosquitto-files": mosquitto_files,
}
RABBIT = {"rabbitmq": rabbitmq, "webhook": webhook}
