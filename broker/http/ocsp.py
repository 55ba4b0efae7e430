"""The OCSP responder over HTTP (RFC 6960, appendix A; RFC 5019): the ledger's own word on each certificate.

1. POST with the request as the body, or GET with it as base64 in the path. At most 2 KiB are looked at.
2. An answer is made for each question and signed by the certificate's issuer, so it is as new as its delivery.
   `nextUpdate` is a quarter of an hour ahead: no cache on the way hides a revocation for longer.
3. A serial that neither the ledger knows nor our own listeners have is `unknown`. No answer is an error of HTTP; a
   client that gets one of those has not reached a responder.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable
from urllib.parse import unquote

from starlette.responses import Response

from broker.http.pki import Call, refusal
from certs.authority import Authority, Issuer
from certs.crl import Revocation, Revoked
from certs.hierarchy import Signer
from certs.ocsp import NoAnswer, Status, parse_request, respond
from provisioner.model import Certificate, Credential, Millis
from provisioner.ports import Clock

PREFIX = "/ocsp"

VALIDITY: Millis = 15 * 60 * 1000

Find = Callable[[str], Awaitable[tuple[Certificate, Credential] | None]]


class Ocsp:
    """`find` looks a serial up in the ledger, `is_ours` tells whether it is our own listeners' certificate."""

    def __init__(
        self, authority: Callable[[], Authority], find: Find, is_ours: Callable[[str], bool], clock: Clock
    ) -> None:
        self._authority = authority
        self._find = find
        self._is_ours = is_ours
        self._clock = clock

    async def __call__(self, call: Call) -> Response:
        """Answer one call; `call.path` begins behind `PREFIX`."""
        if call.method not in ("GET", "POST"):
            return refusal(405, "ask with GET or POST", {"allow": "GET, POST"})
        if call.method == "POST" and call.headers.get("content-type", "").lower() != "application/ocsp-request":
            return refusal(415, "send the request as application/ocsp-request")
        signing = {issuer.certificate: issuer for issuer in self._authority().issuers if issuer.key is not None}
        try:
            question = parse_request(_request(call), signing)
        except NoAnswer as error:
            return _response(error.response)
        issuer, now = signing[question.issuer], self._clock()
        status = await self._status(issuer, question.serial)
        answer = respond(question, status, _signer(issuer), now, now + VALIDITY)
        headers = {}
        if call.method == "GET" and question.nonce is None:
            headers = {"cache-control": f"max-age={VALIDITY // 1000}, public, no-transform, must-revalidate"}
        return _response(answer, headers)

    async def _status(self, issuer: Issuer, serial: int) -> Status | Revoked:
        text = f"{serial:034x}"
        found = await self._find(text)
        if found is None or found[0].issuer != issuer.id:
            return Status.GOOD if found is None and self._is_ours(text) else Status.UNKNOWN
        certificate, _ = found
        if certificate.revoked_on is None:
            return Status.GOOD
        return Revoked(serial, certificate.revoked_on, Revocation(certificate.reason or Revocation.UNSPECIFIED))


def _request(call: Call) -> bytes:
    """The request's DER; empty, which no request is, where it is no base64."""
    if call.method == "POST":
        return call.body
    try:
        return base64.b64decode(unquote(call.path.removeprefix("/")), validate=True)
    except (binascii.Error, ValueError):
        return b""


def _signer(issuer: Issuer) -> Signer:
    if issuer.key is None:
        raise LookupError("only issuers with a key are asked")
    return Signer(issuer.certificate, issuer.key)


def _response(answer: bytes, headers: dict[str, str] | None = None) -> Response:
    return Response(answer, 200, headers, "application/ocsp-response")
