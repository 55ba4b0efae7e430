"""The certificate authority of a data directory: its folder `ca/`, made at the first start.

1. There is one from the first start on: a root and an issuer each for devices and for our own listeners. What an
   operator brings instead (`provisioner ca import`, before the first start) is left as it is.
2. A start is refused where others may read a key, and where the ledger knows certificates of an issuer that is not
   here: a new authority beside an old ledger would look like a success, and no device could log in.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from broker.datadir import Unusable
from certs.authority import Authority
from certs.errors import UnusableAuthority
from certs.keystore import Keystore, load_passphrase
from certs.profile import Purpose
from provisioner.certification import CertificateRules
from provisioner.model import Millis

LABEL = "MQTT Provisioner"

_KEY_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class AuthorityChoices:
    """What the operator decided: URLs that go into certificates ("" for none), and the file that opens the keys."""

    rules: CertificateRules = field(default_factory=CertificateRules)
    crl_url: str = ""
    ocsp_url: str = ""
    passphrase_file: Path | None = None

    def keystore(self, folder: Path) -> Keystore:
        """The folder of the authority. Raises `Unusable`."""
        try:
            return Keystore(folder, None if self.passphrase_file is None else load_passphrase(self.passphrase_file))
        except UnusableAuthority as error:
            raise unusable(error) from None

    def load(self, keystore: Keystore) -> Authority:
        """The authority as it stands on the disk. Raises `Unusable`."""
        try:
            return keystore.load(crl_url=self.crl_url, ocsp_url=self.ocsp_url)
        except UnusableAuthority as error:
            raise unusable(error) from None


def open_authority(choices: AuthorityChoices, folder: Path, now: Millis) -> Authority:
    """The authority in that folder, made where there is none yet. Raises `Unusable`."""
    keystore = choices.keystore(folder)
    try:
        create(keystore, now)
    except UnusableAuthority as error:
        raise unusable(error) from None
    return choices.load(keystore)


def create(keystore: Keystore, now: Millis) -> None:
    """Make what is missing; a crash half-way leaves the rest to the next time. Raises `UnusableAuthority`."""
    if not keystore.exists():
        keystore.create(LABEL, now, os.urandom)
    if not (keystore.folder / "root.key").exists():
        return  # somebody else's root: its issuers are brought here
    purposes = {issuer.purpose for issuer in keystore.load().issuers}
    for purpose in Purpose:
        if purpose not in purposes:
            keystore.add_issuer(LABEL, purpose, now, os.urandom)


def check_issuers(authority: Authority, known: Sequence[str], folder: Path) -> None:
    """Whether the issuers that the ledger knows are here (rule 2). Raises `Unusable`."""
    if missing := set(known) - {issuer.id for issuer in authority.issuers}:
        raise Unusable(
            f"{folder} does not have the issuer {min(missing)[:8]}… of certificates in the ledger: "
            "put back the folder that belongs to it."
        )


def parse_blocked(text: str) -> frozenset[str]:
    """Keys that the operator blocks, a `key_id` a line. Raises ValueError with the rest of a sentence."""
    lines = [line.strip().lower() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if any(_KEY_ID.fullmatch(line) is None for line in lines):
        raise ValueError("has a line that is no SHA-256 in hex: write 64 hex digits a line")
    return frozenset(lines)


def unusable(error: UnusableAuthority) -> Unusable:
    """The same for whoever starts the program."""
    return Unusable(f"The certificate authority cannot be used: {error.detail}.")
