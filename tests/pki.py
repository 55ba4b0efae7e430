"""An authority in this process, and files with what it issues: for tests that speak TLS."""

from __future__ import annotations

import itertools
import os
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from certs.authority import Authority, Issuer
from certs.hierarchy import Signer, create_issuer, create_root
from certs.keys import P256, generate, spki_of
from certs.profile import VALIDITY, Device, Millis, Names, Purpose, Server


@dataclass(frozen=True)
class Held:
    """A certificate with its key: PEM files, and the certificate alone in DER."""

    chain: Path
    key: Path
    der: bytes
    serial: int


class Pki:
    """A root, an issuer for each purpose, and a folder for files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now: Millis = time.time_ns() // 1_000_000
        self.root: Signer = create_root("tests", generate(P256), self.now, os.urandom)
        self.authority = Authority(self.root.certificate, [self.issuer(purpose) for purpose in Purpose])
        self.trusted = folder / "root.pem"
        self.trusted.write_text(self.authority.root_pem)
        self._numbers = itertools.count(1)

    def issuer(self, purpose: Purpose) -> Issuer:
        """One more issuer under the root."""
        made = create_issuer(self.root, "tests", purpose, generate(P256), self.now, os.urandom)
        return Issuer(purpose, self.root.certificate, [made.certificate], made.key)

    def server(self, *names: str) -> Held:
        """A listener's certificate; for this machine without names."""
        return self.hold(Server(names or ("localhost", "127.0.0.1")))

    def device(self, account: str, client_id: str | None, validity: Millis = VALIDITY) -> Held:
        """A device's certificate."""
        return self.hold(Device(account, client_id), validity)

    def hold(self, names: Names, validity: Millis = VALIDITY) -> Held:
        """A certificate, and files of it."""
        key = generate(P256)
        order = self.authority.order(names, spki_of(key.public_key()), self.now, os.urandom, validity=validity)
        issued = self.authority.issue(order)
        base = self.folder / str(next(self._numbers))
        chain, private = base.with_suffix(".pem"), base.with_suffix(".key")
        chain.write_text(issued.pem)
        private.touch(mode=0o600)
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return Held(chain, private, issued.der, issued.serial)

    def client(self, shown: Held | None = None) -> ssl.SSLContext:
        """What a client of our listeners connects with."""
        context = ssl.create_default_context(cafile=str(self.trusted))
        if shown is not None:
            context.load_cert_chain(shown.chain, shown.key)
        return context
