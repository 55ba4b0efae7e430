"""Revocation lists and OCSP answers, as OpenSSL reads them: from the ledger, up to date, and whatever is sent."""

import asyncio
import base64
import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from tests.e2e.a_certificate_is_a_login import TLS, Place
from tests.e2e.program import Operator, Request, StartProgram
from tests.e2e.shelldevice import ShellDevice, ran


class Status:
    """A device with a certificate, and OpenSSL asking about it."""

    def __init__(self, place: Place, operator: Operator, request: Request, device: ShellDevice) -> None:
        self.place, self.operator, self.request, self.device = place, operator, request, device
        self.folder = place.folder
        self.base = place.program.http
        self.trusted = place.folder / "trusted.pem"
        self.chain = device.path(1, "crt")
        self.issuer = place.folder / "issuer.pem"
        leaf, end, rest = self.chain.read_text().partition("-----END CERTIFICATE-----\n")
        assert end
        assert leaf
        self.issuer.write_text(rest)

    async def fetch(self, path: str) -> bytes:
        async with httpx2.AsyncClient(base_url=self.base) as http:
            answer = await http.get(path)
            assert answer.status_code == 200, answer.text
            return answer.content

    def ocsp(self, *more: str | Path, certificate: Path | None = None) -> str:
        return ran(
            "openssl", "ocsp", "-issuer", self.issuer, "-cert", certificate or self.chain,
            "-url", f"{self.base}/ocsp", "-CAfile", self.place.trusted, *more,
        )  # fmt: skip

    async def verdict(self) -> str:
        """What `openssl verify` says with the list of the moment."""
        crl = self.folder / "crl.pem"
        crl.write_bytes(await self.fetch("/ca/crl.pem"))
        self.trusted.write_bytes(await self.fetch("/ca/devices.pem"))
        words: list[str | Path] = [
            "verify",
            "-purpose",
            "sslclient",
            "-crl_check",
            "-CRLfile",
            crl,
            "-CAfile",
            self.trusted,
            self.chain,
        ]
        return await asyncio.to_thread(ran, "openssl", *words, code=None)


@pytest.fixture
async def status(start_program: StartProgram, tmp_path: Path) -> AsyncIterator[Status]:
    place = Place(start_program(TLS), tmp_path)
    operator = Operator(place.program)
    request, device = await place.request(operator, "dev-1")
    await asyncio.to_thread(device.claim, 1, request.key)
    await asyncio.to_thread(device.works, 1)
    yield Status(place, operator, request, device)
    await operator.close()


async def test_openssl_learns_of_a_revocation(status: Status) -> None:
    assert (await status.verdict()).strip().endswith("OK")
    for nonce in ("-nonce", "-no_nonce"):
        told = await asyncio.to_thread(status.ocsp, nonce)
        assert "Response verify OK" in told
        assert ": good" in told
    numbers = [await number_of(status)]
    await status.request.tell("revoke")
    await status.request.until("STOPPED")
    assert "certificate revoked" in await status.verdict()
    told = await asyncio.to_thread(status.ocsp)
    assert ": revoked" in told
    numbers.append(await number_of(status))
    assert numbers[0] < numbers[1]


async def number_of(status: Status) -> int:
    """The number of the issuer's list, fetched as its distribution point would be."""
    serial = await asyncio.to_thread(
        ran, "openssl", "x509", "-in", status.issuer, "-noout", "-ext", "subjectKeyIdentifier"
    )
    issuer = serial.split("\n")[1].strip().replace(":", "").lower()
    der = status.folder / "one.crl"
    der.write_bytes(await status.fetch(f"/ca/{issuer}.crl"))
    told = ran("openssl", "crl", "-in", der, "-inform", "DER", "-noout", "-crlnumber", "-CAfile", status.trusted)
    assert "verify OK" in told
    return int(told.split("crlNumber=")[1].split()[0], 16)


async def test_a_get_is_answered_like_a_post_and_may_be_kept(status: Status) -> None:
    request = status.folder / "request.der"
    ran("openssl", "ocsp", "-issuer", status.issuer, "-cert", status.chain, "-no_nonce", "-reqout", request)
    encoded = base64.b64encode(request.read_bytes()).decode()
    async with httpx2.AsyncClient(base_url=status.base) as http:
        answer = await http.get(f"/ocsp/{encoded.replace('+', '%2B').replace('/', '%2F').replace('=', '%3D')}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/ocsp-response")
    assert answer.headers["cache-control"].startswith("max-age=900,")
    kept = status.folder / "answer.der"
    kept.write_bytes(answer.content)
    told = ran(
        "openssl",
        "ocsp",
        "-respin",
        kept,
        "-issuer",
        status.issuer,
        "-cert",
        status.chain,
        "-CAfile",
        status.place.trusted,
    )
    assert ": good" in told


async def test_our_own_listeners_and_strangers_have_a_status_too(status: Status) -> None:
    own = status.place.program.data / "server.pem"
    issuer = status.folder / "servers.pem"
    *_, last = own.read_text().split("-----BEGIN CERTIFICATE-----")
    issuer.write_text(f"-----BEGIN CERTIFICATE-----{last}")
    asked: list[str | Path] = ["ocsp", "-issuer", issuer]
    at: list[str | Path] = ["-url", f"{status.base}/ocsp", "-CAfile", status.place.trusted]
    assert ": good" in await asyncio.to_thread(ran, "openssl", *asked, "-cert", own, *at)
    lists = status.folder / "lists.pem"
    lists.write_bytes(await status.fetch("/ca/crl.pem"))
    verify: list[str | Path] = ["verify", "-crl_check", "-CRLfile", lists, "-CAfile", status.place.trusted]
    assert "OK" in await asyncio.to_thread(ran, "openssl", *verify, "-untrusted", own, own)
    unknown = await asyncio.to_thread(ran, "openssl", *asked, "-serial", "0x01" + "ab" * 16, *at)
    assert ": unknown" in unknown
    foreign = status.folder / "foreign.pem"
    make = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=other -keyout"
    await asyncio.to_thread(ran, "openssl", *make.split(), os.devnull, "-out", foreign)
    told = await asyncio.to_thread(ran, "openssl", "ocsp", "-issuer", foreign, "-serial", "0x01", *at, code=None)
    assert "unauthorized" in told


async def test_an_unchanged_list_is_not_sent_twice(status: Status) -> None:
    async with httpx2.AsyncClient(base_url=status.base) as http:
        first = await http.get("/ca/crl.pem")
        again = await http.get("/ca/crl.pem", headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert (await http.get("/ca/root.pem")).content == status.place.trusted.read_bytes()
        for path, wanted in (
            ("/ca/", 404),
            ("/ca/root.key", 404),
            ("/ca/../admin-token", 404),
            ("/ca/" + "0" * 40 + ".crl", 404),
        ):
            answer = await http.get(path)
            assert answer.status_code in (wanted, 401), path
        assert (await http.post("/ca/root.pem")).status_code == 405
