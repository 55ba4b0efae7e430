"""The certificate authority of a data directory: its folder `ca/`, made at the first start.

1. There is one from the first start on: a root and an issuer each for devices and for our own listeners. What an
   operator brings instead (`provisioner ca import`, before the first start) is left as it is.
2. A start is refused where others may read a key, and where the ledger knows certificates of an issuer that is not
   here: a new authority beside an old ledger would look like a success, and no device could log in.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from broker.datadir import Unusable
from certs.authority import Authority
from certs.errors import NotIssued, UnusableAuthority
from certs.keys import P256, algorithm_of
from certs.keystore import Keystore, load_passphrase
from certs.profile import Purpose
from certs.token import TokenKey
from provisioner.certification import DAY, CertificateRules, Certification
from provisioner.errors import Unavailable
from provisioner.journal import line_of
from provisioner.model import Line, Millis
from provisioner.policy import iso
from provisioner.ports import Note

LABEL = "MQTT Provisioner"

_SOON: Millis = 1_000
"""Until the next look whether the lists of a new issuer are in place."""

_log = structlog.get_logger(__name__)

Record = Callable[[Sequence[Line]], Awaitable[None]]

_ROOT_NAME = re.compile(r"CN=(?P<label>[A-Za-z0-9][A-Za-z0-9 ._-]{0,39}) root [0-9a-f]{8}")
_KEY_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class AuthorityChoices:
    """What the operator decided: URLs that go into certificates ("" for none), and the file that opens the keys."""

    rules: CertificateRules = field(default_factory=CertificateRules)
    crl_url: str = ""
    ocsp_url: str = ""
    passphrase_file: Path | None = None
    crl_file: Path | None = None

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


def open_authority(choices: AuthorityChoices, folder: Path, now: Millis, known: Sequence[str] = ()) -> Authority:
    """The authority in that folder, made where there is none yet; `known` are the ledger's issuers (rule 2).

    Raises `Unusable`.
    """
    keystore = choices.keystore(folder)
    try:
        if not known:
            create(keystore, now)
    except UnusableAuthority as error:
        raise unusable(error) from None
    authority = choices.load(keystore) if keystore.exists() else None
    here = set() if authority is None else {issuer.id for issuer in authority.issuers}
    if (missing := set(known) - here) or authority is None:
        raise Unusable(
            f"{folder} does not have the issuer {min(missing)[:8]}… of certificates in the ledger: "
            "put back the folder that belongs to it."
        )
    return authority


def create(keystore: Keystore, now: Millis, *, label: str = LABEL, algorithm: str = P256) -> None:
    """Make what is missing; a crash half-way leaves the rest to the next time. Raises `UnusableAuthority`."""
    if not keystore.exists():
        keystore.create(label, now, os.urandom, algorithm=algorithm)
    if not (keystore.folder / "root.key").exists():
        return  # somebody else's root: its issuers are brought here
    purposes = {issuer.purpose for issuer in keystore.load().issuers}
    for purpose in Purpose:
        if purpose not in purposes:
            keystore.add_issuer(label, purpose, now, os.urandom, algorithm=algorithm)


class AuthorityWatch:
    """The authority while the program runs: read again when somebody says so, rotated before it is too late.

    An issuer of which two thirds are over gets its successor, if the root's key is here: certificates that a device
    gets would end earlier and earlier, and at last there would be none. Without that key it is told in the log, daily,
    and so is an issuer whose key is in a token: a successor's has to be made there.

    A new issuer of devices signs once its revocation list is in place: `announce`, given the time, puts it there, and
    raises `Unavailable` where a device broker has not read it. Brokers refuse certificates of an issuer whose list they
    do not have. Until then the former one goes on, as long as it is valid.
    """

    def __init__(self, choices: AuthorityChoices, folder: Path, certification: Certification, record: Record) -> None:
        self._choices = choices
        self._keystore = choices.keystore(folder)
        self._certification = certification
        self._record = record
        self._known = {issuer.id for issuer in certification.authority.issuers}
        self._is_told = False
        self.announce: Callable[[Millis], Awaitable[None]] = _nowhere
        self.wake = asyncio.Event()
        """Set when there is something to look at."""

    def in_force(self) -> Authority:
        """The authority that signs now."""
        return self._certification.authority

    def reload(self) -> None:
        """Take what is on the disk now; what cannot be used is told, and the former stays."""
        try:
            found = self._choices.load(self._keystore)
        except Unusable as error:
            _log.error("authority not reloaded, the former one stays", reason=str(error))
            return
        here = {issuer.id for issuer in self._certification.authority.issuers}
        if any(issuer.purpose is Purpose.DEVICES and issuer.id not in here for issuer in found.issuers):
            self._certification.coming = found
        else:
            self._use(found)
        self._is_told = False
        self.wake.set()

    def _use(self, authority: Authority) -> None:
        self._certification.use(authority)
        _log.info("authority reloaded", issuers=[one.id[:16] for one in authority.issuers])

    async def step(self, now: Millis) -> Millis:
        """Rotate what is due, note in the journal who signs from now on; when to look again."""
        for purpose in Purpose:
            self._renew(purpose, now)
        if (coming := self._certification.coming) is not None:
            if not await self._is_announced(now):
                return now + _SOON
            self._use(coming)
        issuers = self._certification.authority.issuers
        if new := [issuer for issuer in issuers if issuer.id not in self._known]:
            self._known |= {issuer.id for issuer in new}
            causes = [f"{one.purpose}: issuer {one.id[:16]} until {iso(one.not_after)}" for one in new]
            await self._record([line_of(Note(now, "new-issuer", cause=cause)) for cause in causes])
        return now + DAY

    async def _is_announced(self, now: Millis) -> bool:
        """Whether the issuers that come may sign: their lists are in place, or nobody else can."""
        try:
            await self.announce(now)
        except Unavailable as error:
            try:
                former = self._certification.authority.current(Purpose.DEVICES, now)
            except NotIssued:
                return True
            if not self._is_told:
                self._is_told = True
                _log.warning("the former issuer goes on", id=former.id[:16], reason=error.detail)
            return False
        return True

    def _renew(self, purpose: Purpose, now: Millis) -> None:
        authority = self._certification.coming or self._certification.authority
        ours = [one for one in authority.issuers if one.purpose is purpose and one.key is not None]
        if not ours or now < ours[-1].not_before + (ours[-1].not_after - ours[-1].not_before) * 2 // 3:
            return
        newest = ours[-1]
        if not (self._keystore.folder / "root.key").exists() or isinstance(newest.key, TokenKey):
            _log.warning("an issuer ends soon", purpose=str(purpose), id=newest.id[:16], ends=iso(newest.not_after))
            return
        try:
            label, algorithm = label_of(self._keystore), algorithm_of(newest.certificate.public_key()) or P256
            self._keystore.add_issuer(label, purpose, now, os.urandom, algorithm=algorithm)
        except UnusableAuthority as error:
            _log.error("an issuer ends soon and has no successor", purpose=str(purpose), reason=error.detail)
        else:
            self.reload()


async def _nowhere(_now: Millis) -> None:
    """Nobody looks for lists."""


def label_of(keystore: Keystore) -> str:
    """What the root here is called, for its next issuers. Raises `UnusableAuthority`."""
    found = _ROOT_NAME.fullmatch(keystore.load_root().subject.rfc4514_string())
    return found["label"] if found else LABEL


def parse_blocked(text: str) -> frozenset[str]:
    """Keys that the operator blocks, a `key_id` a line. Raises ValueError with the rest of a sentence."""
    lines = [line.strip().lower() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if any(_KEY_ID.fullmatch(line) is None for line in lines):
        raise ValueError("has a line that is no SHA-256 in hex: write 64 hex digits a line")
    return frozenset(lines)


def unusable(error: UnusableAuthority | ValueError) -> Unusable:
    """The same for whoever starts the program."""
    return Unusable(f"The certificate authority cannot be used: {error}.")
