"""Activation e-mails through a real SMTP server: what was promised is sent, once a server takes it."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult

from broker.http.manners import PROVISION_ENTITIES as DOOR
from broker.mail import Server, SmtpPostman
from provisioner.mails import Letter, Mails, Undeliverable
from tests.broker.http.world import PATH, World
from tests.broker.mqtt.serving import contexts

LETTER = Letter("ann@example.com", "Hall", "dev-1", "factory", "K" * 32)
ROW: dict[str, Any] = {
    "Email": "ann@example.com",
    "UserGroup": "",
    "CompanyName": "acme",
    "DeviceId": "00000000-0000-0000-0000-000000000000",
    "DeviceName": "Hall",
    "PolicyName": "line",
    "CurrentStorageGB": 1,
    "SendActivationEmail": True,
}


class Mailbox:
    """What a server took; `answer` is what it says to each letter instead, where that is set."""

    def __init__(self) -> None:
        self.letters: list[EmailMessage] = []
        self.answer = "250 OK"
        self.logins: list[tuple[bytes, bytes]] = []

    async def handle_RCPT(  # noqa: N802  # aiosmtpd's name
        self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any
    ) -> str:
        envelope.rcpt_tos.append(address)
        return self.answer

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802  # as above
        letter = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(letter, EmailMessage)
        self.letters.append(letter)
        return "250 OK"

    def authenticate(self, _server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
        self.logins.append((data.login, data.password))
        return AuthResult(success=data.password == b"secret", handled=False)


@asynccontextmanager
async def serving(mailbox: Mailbox, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    def make() -> SMTP:
        return SMTP(
            mailbox,
            hostname="mail.example",
            tls_context=tls,
            require_starttls=tls is not None,
            auth_required=tls is not None,
            authenticator=mailbox.authenticate,
        )

    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


def postman(port: int) -> SmtpPostman:
    return SmtpPostman(Server("127.0.0.1", port, "none", "provisioner@example.com", 10.0))


async def promised(world: World) -> dict[str, Any]:
    """A device whose activation code was promised by e-mail."""
    admin = await world.operator()
    rules = {"name": "line", "provisionUserUsername": "factory"}
    await admin.ask(201, "POST", "/v2/policies", rules)
    said = await admin.ask(200, "POST", DOOR, {"ProvisionElements": [ROW]})
    (element,) = said["Element"]
    assert isinstance(element, dict)
    return element


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = await World.on(tmp_path)
    yield world
    await world.close()


def mails(world: World, port: int) -> Mails:
    return Mails(world.store.devices, world.store, world.vault, postman(port))


async def told(world: World) -> list[str]:
    """What the journal says of the mail of the only request."""
    admin = await world.operator()
    (request,) = (await admin.get(PATH))["provisionRequest"]
    log = (await admin.get(f"{PATH}/{request['id']}/log"))["entry"]
    return [entry["cause"] for entry in log if entry["action"] == "mail"]


async def test_the_code_is_mailed_as_promised(world: World) -> None:
    mailbox = Mailbox()
    async with serving(mailbox) as port:
        element = await promised(world)
        assert await mails(world, port).step(world.now) == world.now + 30_000
        await mails(world, port).step(world.now)  # nothing more
    (letter,) = mailbox.letters
    assert (letter["To"], letter["From"]) == ("ann@example.com", "provisioner@example.com")
    assert letter["Subject"] == "Activation code for Hall"
    body = letter.get_content()
    assert element["ActivationCode"] in body
    assert element["ClientId"] in body
    assert await told(world) == ["sent"]


async def test_a_server_that_is_away_or_busy_gets_it_later(world: World) -> None:
    mailbox = Mailbox()
    async with serving(mailbox) as port:
        await promised(world)
        mailbox.answer = "451 try later"
        assert await mails(world, port).step(world.now) == world.now + 30_000
        assert await mails(world, 1).step(world.now + 30_000) == world.now + 60_000  # again in a minute
        mailbox.answer = "250 OK"
        await mails(world, port).step(world.now + 80_000)
        assert mailbox.letters == []
        await mails(world, port).step(world.now + 90_000)
    assert len(mailbox.letters) == 1
    assert await told(world) == ["sent"]


async def test_a_refusal_is_told_and_not_repeated(world: World) -> None:
    mailbox = Mailbox()
    mailbox.answer = "550 no such user"
    async with serving(mailbox) as port:
        await promised(world)
        for _ in range(2):
            await mails(world, port).step(world.now)
    assert await told(world) == ["refused: 550"]


async def test_a_device_that_has_its_credential_needs_no_code(world: World) -> None:
    mailbox = Mailbox()
    element = await promised(world)
    unit = {
        "provisionUserUsername": "factory",
        "clientId": element["ClientId"],
        "activationKey": element["ActivationCode"],
    }
    await world.claim(unit)
    await world.confirm(unit)
    async with serving(mailbox) as port:
        await mails(world, port).step(world.now)
    assert mailbox.letters == []


async def test_nobody_can_be_promised_a_mail_that_cannot_be_sent(world: World) -> None:
    world.doors.bulk._mails = False
    element = await promised(world)
    assert (element["Status"], element["Info"]) == (
        "Invalid",
        "E-mail is not set up here (mail.server); set SendActivationEmail to false.",
    )


async def test_a_login_goes_over_tls_or_not_at_all(tmp_path: Path) -> None:
    server_tls, client_tls, _ = contexts(tmp_path)
    mailbox = Mailbox()
    async with serving(mailbox, server_tls) as port:
        server = Server("127.0.0.1", port, "starttls", "p@example.com", 10.0, ("relay", "secret"), client_tls)
        await SmtpPostman(server).send(LETTER)
        wrong = Server("127.0.0.1", port, "starttls", "p@example.com", 10.0, ("relay", "other"), client_tls)
        with pytest.raises(OSError, match="SMTP 535"):  # ours to mend, so it is tried again
            await SmtpPostman(wrong).send(LETTER)
    assert (mailbox.logins[0], set(mailbox.logins[1:])) == ((b"relay", b"secret"), {(b"relay", b"other")})
    assert len(mailbox.letters) == 1
    async with serving(Mailbox()) as port:  # no STARTTLS there
        server = Server("127.0.0.1", port, "starttls", "p@example.com", 10.0, ("relay", "secret"), client_tls)
        with pytest.raises(OSError, match="SMTP"):
            await SmtpPostman(server).send(LETTER)


async def test_a_refused_letter_says_so() -> None:
    mailbox = Mailbox()
    mailbox.answer = "553 no"
    async with serving(mailbox) as port:
        with pytest.raises(Undeliverable, match="553"):
            await postman(port).send(LETTER)
