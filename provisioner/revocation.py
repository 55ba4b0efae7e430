"""Revocation lists of our issuers: one each, from what the ledger retired.

1. A list is made anew when something was retired, when an issuer comes (before it signs anything else), and once a day;
   it says that it is good for a week, so a broker that was not reached, or a night without us, does no harm.
2. Numbers go up: each is more than the last one known, which is read back at the start, and at least the second it was
   made in, so that a lost folder does not make them start over.
3. A certificate stays listed until a day after its end (RFC 5280, section 3.3, wants it on one list after that).
4. Issuers of our own listeners have a list too, as their certificates say where it is; nothing is ever on it.
5. What the ledger retired is refused by the embedded device broker at once; lists are for those who do not ask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from certs.authority import Issuer
from certs.crl import Revocation, Revoked, create_crl
from certs.hierarchy import Signer
from provisioner.certification import DAY, Certification
from provisioner.model import Millis
from provisioner.ports import Certificates

GOOD_FOR: Millis = 7 * DAY
_LOOK_EVERY: Millis = 5_000


class RevocationLists:
    """`publish` gets all lists (DER, by the issuer's key identifier) each time one changed; raises nothing.

    `numbers` are those of the lists that were published last.
    """

    def __init__(
        self,
        certificates: Certificates,
        certification: Certification,
        publish: Callable[[Mapping[str, bytes]], None],
        numbers: Mapping[str, int],
    ) -> None:
        self._certificates = certificates
        self._certification = certification
        self._publish = publish
        self._numbers = dict(numbers)
        self._made: tuple[int, frozenset[str]] | None = None
        self._made_on: Millis = 0
        self.lists: Mapping[str, bytes] = {}
        """The lists in force, DER, by the issuer's key identifier in hex."""

    async def step(self, now: Millis) -> Millis:
        """Make the lists anew where they are out of date; when to look again."""
        issuers = (self._certification.coming or self._certification.authority).issuers
        signers = {issuer.id: issuer for issuer in issuers if issuer.key is not None}
        state = await self._certificates.count_revoked(), frozenset(signers)
        if state != self._made or not 0 <= now - self._made_on < DAY:
            self.lists = {one: await self._list_of(issuer, now) for one, issuer in signers.items()}
            self._publish(self.lists)
            self._made, self._made_on = state, now
        return now + _LOOK_EVERY

    async def _list_of(self, issuer: Issuer, now: Millis) -> bytes:
        if issuer.key is None:
            raise ValueError("an issuer without a key signs no list")
        revoked = [
            Revoked(int(one.serial, 16), one.revoked_on or now, Revocation(one.reason or Revocation.UNSPECIFIED))
            for one in await self._certificates.list_revoked(issuer.id, now - DAY)
        ]
        number = self._numbers[issuer.id] = max(self._numbers.get(issuer.id, 0) + 1, now // 1000)
        return create_crl(Signer(issuer.certificate, issuer.key), revoked, number, now, now + GOOD_FOR)
