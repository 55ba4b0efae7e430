"""The EST door (RFC 7030): any path, login and body of somebody whose device has a request, and knows its key.

1. Every answer is below 500 and no refusal changes the ledger's certificates.
2. What is handed out is one certificate, on the key of the CSR that was sent, as OpenSSL's PKCS#7 reader sees it.
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import shutil
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, pkcs7
from starlette.datastructures import Headers
from starlette.responses import Response

from broker.http import est
from broker.http.pki import Call
from broker.mqtt.responder import Responder
from broker.parts import Parts, assembled, now
from broker.wiring import choices
from certs.est import parse_body
from certs.keys import ED25519, P256, digest_for, generate
from config.sources import load
from provisioner.creation import NewRequest
from provisioner.model import BrokerAddress, Kind, Role, Secret
from provisioner.policy import Actor
from provisioner.ports import Listing

KEY = "0123456789ABCDEFGHIJKLMNOPQRSTUV"


def _csr(algorithm: str) -> bytes:
    key = generate(algorithm)
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .sign(key, digest_for(key))
        .public_bytes(Encoding.DER)
    )


_CSRS = {client_id: base64.encodebytes(_csr(kind)) for client_id, kind in (("dev-1", P256), ("dev-2", ED25519))}


def _basic(client_id: str) -> bytes:
    return b"Basic " + base64.b64encode(f"{client_id}:{KEY}".encode())


def _call(path: str, body: bytes, login: bytes, kind: str = "application/pkcs10") -> bytes:
    """Method, path, login and type of the body, a line each, and the body."""
    return b"\n".join((b"POST" if body else b"GET", path.encode(), login, kind.encode(), body))


SEEDS = [
    _call("cacerts", b"", b""),
    *(
        _call(path, csr, _basic(client_id))
        for client_id, csr in _CSRS.items()
        for path in ("simpleenroll", "factory/simpleenroll")
    ),
    _call("simplereenroll", _CSRS["dev-1"], b""),
    _call("simpleenroll", _CSRS["dev-1"], _basic("dev-3")),
    _call("simpleenroll", _CSRS["dev-1"], _basic("dev-1"), "application/pkcs10; charset=utf-8"),
]
TOKENS = [
    b"POST\n", b"GET\n", b"simpleenroll\n", b"simplereenroll\n", b"cacerts\n", b"factory/", b"%2F", b"Basic ",
    _basic("dev-1"), b"Bearer ", b"application/pkcs10\n", b"-----BEGIN CERTIFICATE REQUEST-----\n", b"MII", b"==",
    b"\r\n", b"\xff",
]  # fmt: skip


class _Site:
    """One installation for all inputs."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        folder = Path(tempfile.mkdtemp(prefix="est-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        self.parts = self.runner.run(self._begin(folder / "data"))
        responder = Responder(self.parts.provisioner, now, self.parts.entropy)
        self.door = self.parts.pki(responder.claim, lambda _serial: False)[est.PREFIX]

    async def _begin(self, folder: Path) -> Parts:
        settings = load(None, {}, {"data_dir": str(folder)}).settings
        parts = await self.stack.enter_async_context(assembled(settings.data_dir, choices(settings)))
        parts.devices.secure = BrokerAddress("mqtts://broker.example:8883")
        for client_id in _CSRS:
            new = NewRequest("default", client_id, "factory", activation_key=Secret(KEY), kind=Kind.X509)
            await parts.administration.create_request(Actor(0, Role.ADMIN), new, now())
        return parts

    async def ask(self, call: Call) -> tuple[Response, bool]:
        """The answer, and whether anything was minted for it."""
        before = await self._generations()
        return await self.door(call), await self._generations() != before

    async def _generations(self) -> list[int]:
        listed, _ = await self.parts.store.list_requests(Listing())
        return [request.generation for request in listed]

    def close(self) -> None:
        """End the ledger's threads."""
        self.runner.run(self.stack.aclose())
        self.runner.close()


_sites: list[_Site] = []


def try_one(data: bytes) -> None:
    """Four lines and the body, as `_call` writes them."""
    if not _sites:
        est._GRID = 1e-6  # who proves nothing is answered at once, or a search would be waiting
        _sites.append(_Site())
    method, path, login, kind, body = (data.split(b"\n", 4) + [b""] * 4)[:5]
    raw = [(b"content-type", kind)] + [(b"authorization", login)] * bool(login)
    call = Call(
        method.decode("latin-1"), path.decode("utf-8", "replace"), Headers(raw=raw), body, "127.0.0.1", tls=True
    )
    with structlog.testing.capture_logs() as lines:
        response, has_minted = _sites[0].runner.run(_sites[0].ask(call))
    assert not [line for line in lines if line["log_level"] in ("error", "critical")], lines
    assert response.status_code < 500, response.body
    assert not has_minted or response.status_code == 200
    if response.status_code == 200:
        _check(path, body, bytes(response.body))


def _check(path: bytes, body: bytes, answer: bytes) -> None:
    certificates = pkcs7.load_der_pkcs7_certificates(base64.b64decode(answer))
    if path.endswith(b"cacerts"):
        assert len(certificates) > 1
        return
    (certificate,) = certificates
    asked, given = (
        one.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        for one in (x509.load_der_x509_csr(parse_body(body)), certificate)
    )
    assert asked == given
    certificate.verify_directly_issued_by(_sites[0].parts.authority.in_force().issuers[0].certificate)


def close() -> None:
    """End what was started."""
    while _sites:
        _sites.pop().close()
