"""What others trust by, over HTTP: the authorities' certificates, and the revocation lists of their issuers.

1. Everything here is public and signed, so it is served without a token, and without TLS as well (RFC 5280, section 8).
2. `{issuer}.crl` is one issuer's list in DER, which is what a distribution point in a certificate names. `crl.pem` are
   all of them, and `devices.pem` is the root with the issuers of devices: a broker's `crlfile` and `cafile`. `root.pem`
   is what devices check our listeners with.
3. A list is fetched far more often than it changes: it goes with an ETag, and who has it already is told so.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping

from starlette.responses import Response

from broker.http.pki import Call, refusal
from certs.authority import Authority
from certs.crl import pem_of
from certs.profile import Millis, Purpose
from provisioner.ports import Clock

PREFIX = "/ca/"

_ISSUER = re.compile(r"(?P<issuer>[0-9a-f]{40})\.crl")
_PEM = "application/x-pem-file"


class TrustFiles:
    """`lists` gives the lists in force (DER), by the issuer's key identifier in hex."""

    def __init__(
        self, authority: Callable[[], Authority], lists: Callable[[], Mapping[str, bytes]], clock: Clock
    ) -> None:
        self._authority = authority
        self._lists = lists
        self._clock = clock

    async def __call__(self, call: Call) -> Response:
        """Answer one call; `call.path` begins behind `PREFIX`."""
        found = self._find(call.path, self._clock())
        if found is None:
            return refusal(404, "there are root.pem, devices.pem, crl.pem and ISSUER.crl, its key identifier in hex")
        if call.method not in ("GET", "HEAD"):
            return refusal(405, "this is for reading", {"allow": "GET, HEAD"})
        body, media_type = found
        tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        headers = {"etag": tag, "cache-control": "no-cache"}
        if call.headers.get("if-none-match") == tag:
            return Response(None, 304, headers)
        return Response(body, 200, headers, media_type)

    def _find(self, name: str, now: Millis) -> tuple[bytes, str] | None:
        match name:
            case "root.pem":
                return self._authority().root_pem.encode(), _PEM
            case "devices.pem":
                return self._authority().bundle(Purpose.DEVICES, now).encode(), _PEM
            case "crl.pem":
                return "".join(pem_of(one) for one in self._lists().values()).encode(), _PEM
        asked = _ISSUER.fullmatch(name)
        found = None if asked is None else self._lists().get(asked["issuer"])
        return None if found is None else (found, "application/pkix-crl")
