"""The EST door (RFC 7030): devices that speak it enrol with what they have, by the same hand-over as over MQTT.

1. TLS alone. `simpleenroll` is a claim: basic authentication with the client id and the activation key, and a CSR. A
   client id may hold colons, so the key begins behind the last one; a key with a colon in it cannot be used here.
2. `simplereenroll`, and `simpleenroll` without a login, is authenticated by the certificate of the connection, which it
   replaces: a claim of a session that logged in with it. The former certificate ends when the new one was proved.
3. There is no ack in EST. The first call with the new certificate confirms it, as does the first login at a device
   broker that sees logins: a device that wants to be sure asks for `cacerts` with it.
4. `wait` is 202 with Retry-After; every other reason is the HTTP status that is its code in the wire contract.
5. A refusal that proves nothing leaves at the next multiple of 100 ms, as over MQTT.
6. A label in the path (`/.well-known/est/{user}/simpleenroll`) names the provision user; without one the newest request
   of the client id counts.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import time
from collections.abc import Callable

import structlog
from starlette.responses import Response

from broker.http.pki import Call, refusal
from certs.errors import BadCsr
from certs.est import authorities, enrolled, parse_body
from provisioner.enrolment import CALL, Enrolment
from provisioner.errors import ProvisionerError, Reason, Rejected, Unavailable
from provisioner.model import CertificateSession, DeviceCertificate, Millis, Origin, Secret
from provisioner.policy import is_activation_key, is_identifier
from provisioner.ports import Clock

PREFIX = "/.well-known/est/"

_PATH = re.compile(r"(?:(?P<user>[^/]+)/)?(?P<operation>cacerts|simpleenroll|simplereenroll)")
_GRID = 0.1
_UNPROVED = (Reason.DENIED, Reason.SLOW_DOWN)
_CHALLENGE = {"www-authenticate": 'Basic realm="client id and activation key"'}

_log = structlog.get_logger(__name__)


class Est:
    """`trusted` gives the authorities in PEM."""

    def __init__(self, enrolment: Enrolment, trusted: Callable[[Millis], str], clock: Clock) -> None:
        self._enrolment = enrolment
        self._trusted = trusted
        self._clock = clock

    async def __call__(self, call: Call) -> Response:
        """Answer one call; `call.path` begins behind `PREFIX`."""
        found = _PATH.fullmatch(call.path)
        if found is None:
            return refusal(404, "there is no such EST operation here: cacerts, simpleenroll and simplereenroll are")
        operation, user = found["operation"], found["user"]
        method = "GET" if operation == "cacerts" else "POST"
        if call.method != method:
            return refusal(405, f"{operation} takes {method}", {"allow": method})
        if not call.tls:
            return refusal(403, "EST is spoken over TLS alone: use https, and the port of http.tls_listen")
        began = time.monotonic()
        try:
            return await self._answer(operation, user, call, self._clock())
        except ProvisionerError as error:
            if isinstance(error, Rejected) and error.conversation is None and error.reason in _UNPROVED:
                await asyncio.sleep(_GRID - (time.monotonic() - began) % _GRID)
            return _told(operation, error)

    async def _answer(self, operation: str, user: str | None, call: Call, now: Millis) -> Response:
        session = await self._enrolment.seen(call.certificate, call.source, now) if call.certificate else None
        if operation == "cacerts":
            return _pkcs7(authorities(self._trusted(now)), "application/pkcs7-mime")
        login = _login(call) if operation == "simpleenroll" else None
        certificate = await self._enrol(user, call, login or session, now)
        _log.info("answered", action=operation, reason="offer", source=call.source)
        return _pkcs7(enrolled(certificate.pem), "application/pkcs7-mime; smime-type=certs-only")

    async def _enrol(
        self, user: str | None, call: Call, who: tuple[str, Secret] | CertificateSession | None, now: Millis
    ) -> DeviceCertificate:
        if who is None:
            raise Rejected(Reason.DENIED, step="authenticate")
        csr = _csr(call)
        if isinstance(who, CertificateSession):
            origin = Origin(call.source, CALL, secure=True, tls=True, certificate=who.serial)
            return await self._enrolment.by_certificate(who, csr, origin, now)
        client_id, key = who
        origin = Origin(call.source, CALL, secure=True, tls=True)
        return await self._enrolment.by_key(user, client_id, key, csr, origin, now)


def _login(call: Call) -> tuple[str, Secret] | None:
    """Client id and activation key; None: there is no login. Raises `denied` for one outside the grammars."""
    sent = call.headers.getlist("authorization")
    if not sent:
        return None
    scheme, _, encoded = sent[0].partition(" ")
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        text = ""
    client_id, _, key = text.rpartition(":")
    if len(sent) > 1 or scheme.lower() != "basic" or not (is_identifier(client_id) and is_activation_key(key)):
        raise Rejected(Reason.DENIED, step="authenticate")
    return client_id, Secret(key)


def _csr(call: Call) -> bytes:
    media_type = call.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/pkcs10":
        raise Rejected(Reason.UNSUPPORTED, "send the CSR as application/pkcs10", step="parse")
    try:
        return parse_body(call.body)
    except BadCsr as error:
        raise Rejected(Reason.BAD_CSR, error.detail, step="parse") from None


def _pkcs7(body: bytes, media_type: str) -> Response:
    return Response(body, 200, {"content-transfer-encoding": "base64", "cache-control": "no-store"}, media_type)


def _told(operation: str, error: ProvisionerError) -> Response:
    """A refusal; why in detail only where the key was proved, or nothing had to be."""
    if not isinstance(error, Rejected):
        _log.warning("unavailable", action=operation, detail=str(error))
        again = error.retry_after if isinstance(error, Unavailable) else 30
        return refusal(503, "not available now: try again later", {"retry-after": str(again)})
    _log.info("answered", action=operation, reason=error.reason.value, step=error.step or None)
    headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
    if error.reason is Reason.DENIED:
        return refusal(401, "log in with the client id and its activation key, or with a certificate", _CHALLENGE)
    return refusal(error.reason.code, f"{error.reason}: {error.detail}" if error.detail else error.reason, headers)
