"""EST (RFC 7030) as curl and openssl speak it: enrol, wait, renew, be refused."""

import asyncio
import base64
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.a_certificate_is_a_login import TLS, Place
from tests.e2e.program import Operator, Request, StartProgram
from tests.e2e.shelldevice import ShellDevice, ran

Arguments = list[str | Path]


@dataclass
class Answer:
    """What curl got."""

    status: int
    headers: dict[str, str]
    body: Path

    def certificates(self) -> str:
        """The certificates of an answer, in PEM, as openssl reads them."""
        assert self.headers["content-type"].startswith("application/pkcs7-mime")
        assert self.headers["content-transfer-encoding"] == "base64"
        der = self.body.with_suffix(".p7")
        ran("openssl", "base64", "-d", "-in", self.body, "-out", der)
        return ran("openssl", "pkcs7", "-inform", "DER", "-in", der, "-print_certs")


class EstClient:
    """A device that knows EST and has curl and openssl."""

    def __init__(self, place: Place, request: Request, device: ShellDevice) -> None:
        self.place, self.request, self.device = place, request, device
        self.base = f"https://{place.program.ready['https']}/.well-known/est"

        self._numbers = itertools.count()

    def call(
        self, operation: str, *more: str | Path, body: bytes | None = None, media_type: str = "application/pkcs10"
    ) -> Answer:
        """Do one operation."""
        got, head = self.place.folder / f"got-{next(self._numbers)}", self.place.folder / "head"
        words: Arguments = ["-sS", "--cacert", self.place.trusted, "-o", got, "-D", head, "-w", "%{http_code}"]
        if body is not None:
            sent = self.place.folder / "sent"
            sent.write_bytes(body)
            words += ["--data-binary", f"@{sent}", "-H", f"Content-Type: {media_type}"]
            words += ["-H", "Content-Transfer-Encoding: base64"]
        got.write_bytes(b"")
        status = ran("curl", *words, *more, f"{self.base}/{operation}")
        lines = [line.split(": ", 1) for line in head.read_text().strip().splitlines()[1:]]
        return Answer(int(status), {name.lower(): value for name, value in lines}, got)

    def csr(self, number: int) -> bytes:
        """A CSR as EST wants it: DER in base64, in lines."""
        der = self.device.path(number, "der")
        ran("openssl", "req", "-in", self.device.path(number, "csr"), "-outform", "DER", "-out", der)
        return base64.encodebytes(der.read_bytes())

    def login(self, key: str | None = None) -> Arguments:
        """Basic authentication."""
        return ["-u", f"{self.device.client_id}:{key or self.request.key}"]

    def shown(self, number: int) -> Arguments:
        """A certificate instead."""
        return ["--cert", self.device.path(number, "crt"), "--key", self.device.path(number, "key")]

    def keep(self, number: int, answer: Answer) -> None:
        """Store a certificate, with its issuer from `cacerts` behind it for servers that do not know that one."""
        issuers = self.call("cacerts").certificates()
        self.device.path(number, "crt").write_text(answer.certificates() + issuers)


@pytest.fixture
async def operator(start_program: StartProgram, tmp_path: Path) -> AsyncIterator[tuple[Place, Operator]]:
    place = Place(start_program(TLS), tmp_path)
    somebody = Operator(place.program)
    yield place, somebody
    await somebody.close()


async def client(at: tuple[Place, Operator], client_id: str, **fields: Any) -> EstClient:
    return EstClient(at[0], *await at[0].request(at[1], client_id, **fields))


async def test_curl_enrols_works_and_renews(operator: tuple[Place, Operator]) -> None:
    device = await client(operator, "00:1A:2B:3C:4D:5E")
    await asyncio.to_thread(enrol_and_renew, device)
    await device.request.until("CONFIRMED")
    assert not await asyncio.to_thread(device.device.works, 1)
    assert await asyncio.to_thread(device.device.works, 2)
    again = await asyncio.to_thread(lambda: device.call("simpleenroll", *device.login(), body=device.csr(1)))
    assert again.status == 409


def enrol_and_renew(device: EstClient) -> None:
    authorities = device.call("cacerts").certificates()
    assert authorities.count("BEGIN CERTIFICATE") == 3  # the root, and an issuer each for servers and devices
    first = device.call("simpleenroll", *device.login(), body=device.csr(1))
    assert first.status == 200
    assert first.headers["content-type"] == "application/pkcs7-mime; smime-type=certs-only"
    assert first.certificates().count("BEGIN CERTIFICATE") == 1
    certificate = first.certificates()
    assert device.call("simpleenroll", *device.login(), body=device.csr(1)).certificates() == certificate
    device.keep(1, first)
    assert device.device.works(1)
    device.device.make_key(2)
    renewed = device.call("simplereenroll", *device.shown(1), body=device.csr(2))
    assert renewed.status == 200
    assert renewed.certificates() != certificate
    device.keep(2, renewed)
    assert device.device.works(1)  # until the new one is proved
    assert device.device.works(2)


async def test_the_first_call_with_the_new_certificate_confirms(operator: tuple[Place, Operator]) -> None:
    device = await client(operator, "dev-1", confirm="ack")
    await asyncio.to_thread(lambda: device.keep(1, device.call("simpleenroll", *device.login(), body=device.csr(1))))
    assert await device.request.phase() == "OFFERED"
    assert (await asyncio.to_thread(lambda: device.call("cacerts", *device.shown(1)))).status == 200
    assert await device.request.phase() == "CONFIRMED"


async def test_who_must_wait_is_told_when_to_come_back(operator: tuple[Place, Operator]) -> None:
    device = await client(operator, "dev-1", confirmTime=3600)
    await asyncio.to_thread(lambda: device.keep(1, device.call("simpleenroll", *device.login(), body=device.csr(1))))
    await asyncio.to_thread(device.device.make_key, 2)
    # Another key: the former certificate is taken out first, and meanwhile the answer is 202.
    waits = await asyncio.to_thread(lambda: device.call("simpleenroll", *device.login(), body=device.csr(2)))
    assert (waits.status, int(waits.headers["retry-after"]) > 0) == (202, True)
    await device.request.until("PENDING")
    taken = await asyncio.to_thread(lambda: device.call("simpleenroll", *device.login(), body=device.csr(2)))
    assert taken.status == 200
    late = await client(operator, "dev-2", activatesOn=4_000_000_000_000)
    early = await asyncio.to_thread(lambda: late.call("simpleenroll", *late.login(), body=late.csr(1)))
    assert (early.status, early.headers["retry-after"]) == (403, "86400")


async def test_refusals_are_http_statuses_with_a_sentence(operator: tuple[Place, Operator]) -> None:
    device = await client(operator, "dev-1")
    await asyncio.to_thread(refused, device)
    assert await device.request.phase() == "OFFERED"  # the last call was right
    assert (await device.request.read())["provisionJob"]["retryCount"] == 1


def refused(device: EstClient) -> None:
    csr = device.csr(1)
    wrong = "x" * 32
    for who in ((), device.login(wrong), ["-u", f"nobody:{wrong}"], ["-u", "dev-1:short"], ["-u", "::"]):
        answer = device.call("simpleenroll", *who, body=csr)
        assert answer.status == 401, who
        assert answer.headers["www-authenticate"].startswith("Basic ")
    assert device.call("simplereenroll", *device.login(), body=csr).status == 401  # needs the certificate
    assert device.call("simpleenroll", *device.login(), body=b"garbage").status == 422
    assert device.call("simpleenroll", *device.login(), body=b"a" * 5000).status == 422
    assert device.call("simpleenroll", *device.login(), body=b"a" * 9000).status == 413
    assert device.call("simpleenroll", *device.login(), body=csr, media_type="text/plain").status == 415
    assert device.call("simpleenroll", *device.login()).status == 405  # a GET
    assert device.call("serverkeygen", *device.login(), body=csr).status == 404
    assert device.call("nobody/simpleenroll", *device.login(), body=csr).status == 401  # another provision user
    assert device.call("factory/simpleenroll", *device.login(), body=csr).status == 200
    device.base = f"http://{device.place.program.ready['http']}/.well-known/est"
    plain = device.call("cacerts")
    assert (plain.status, plain.body.read_text()[:3]) == (403, "EST")
