"""The service's side of the authority: from a CSR to a certificate, and whether a shown one is ours.

1. An order is committed with the mint of its credential, and only then signed. What is signed is a function of the
   order, so who repeats a claim, even after a crash in between, gets the same certificate.
2. Names come from the request, never from the CSR: `certs.profile` builds subject and alternative name.
3. A key belongs to one generation for ever: the ledger refuses a second certificate on it, whosever it is.
4. What is wrong with a CSR the device is told (`bad-csr`, `unsupported`); what is wrong with the authority is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

from certs.authority import Authority
from certs.csr import DEFAULT_POLICY, Csr, KeyPolicy, parse_der
from certs.errors import BadCsr, NotIssued, NotTrusted, UnsupportedKey
from certs.order import Order
from certs.profile import VALIDITY, Device, Purpose
from certs.trust import Trust
from provisioner.errors import Reason, Rejected, Unavailable
from provisioner.model import Certificate, Coupling, Credential, DeviceCertificate, Millis
from provisioner.ports import Entropy

DAY: Millis = 24 * 3600 * 1000

_RETRY = 300
"""Seconds until a device looks again whether the operator has brought the authority into order."""


@dataclass(frozen=True, slots=True)
class CertificateRules:
    """What the operator decided: how long certificates are valid (milliseconds), and which keys are taken."""

    validity: Millis = VALIDITY
    keys: KeyPolicy = DEFAULT_POLICY


@dataclass(frozen=True, slots=True)
class Ordered:
    """A certificate to be committed, and the same as the authority takes it."""

    certificate: Certificate
    order: Order

    @classmethod
    def again(cls, certificate: Certificate) -> Ordered:
        """One that was committed before."""
        return cls(certificate, Order.decode(certificate.order_text))


class Certification:
    """One authority at work. `use` replaces it, after a rotation: orders find their own issuer in the new one.

    `coming` is the one that will, once the revocation lists of its issuers are where somebody may look for them.
    """

    def __init__(self, authority: Authority, rules: CertificateRules, entropy: Entropy) -> None:
        self._rules = rules
        self._entropy = entropy
        self.coming: Authority | None = None
        self.use(authority)

    def use(self, authority: Authority) -> None:
        """Issue and verify with this authority from now on."""
        self.authority = authority
        self.coming = None
        self._trust = Trust(authority.issuers)

    def parse(self, der: bytes) -> Csr:
        """A CSR that proved possession of a key we take. Raises `bad-csr`, `unsupported`."""
        try:
            return parse_der(der, self._rules.keys)
        except BadCsr as error:
            raise Rejected(Reason.BAD_CSR, error.detail, step="mint") from None
        except UnsupportedKey as error:
            raise Rejected(Reason.UNSUPPORTED, error.detail, step="mint", supported=error.supported) from None

    def order(self, credential: Credential, csr: Csr, now: Millis, validity: Millis | None = None) -> Ordered:
        """What to commit before anything is signed. Raises `bad-csr`, `Unavailable`.

        `validity` (milliseconds) may shorten what the rules say; the issuer's end may shorten both.
        """
        longest = self._rules.validity
        validity = longest if validity is None else min(validity, longest)
        strict = credential.coupling is Coupling.STRICT
        try:
            device = Device(credential.account_name, credential.client_id if strict else None)
            order = self.authority.order_device(device, csr, now, self._entropy, validity=validity)
        except BadCsr as error:
            raise Rejected(Reason.BAD_CSR, error.detail, step="mint") from None
        except NotIssued as error:
            raise Unavailable(error.detail, retry_after=_RETRY) from None
        certificate = Certificate(
            serial=order.serial_hex,
            device_broker=credential.device_broker,
            client_id=credential.client_id,
            generation=credential.generation,
            request_id=credential.request_id,
            issuer=order.issuer,
            key_id=csr.key_id,
            order_text=order.encode(),
            not_before=order.not_before,
            not_after=order.not_after,
        )
        return Ordered(certificate, order)

    def issue(self, ordered: Ordered) -> DeviceCertificate:
        """The certificate of a committed order, the same each time. Raises `Unavailable`."""
        try:
            issued = self.authority.issue(ordered.order)
        except NotIssued as error:
            raise Unavailable(error.detail, retry_after=_RETRY) from None
        return DeviceCertificate(issued.pem, issued.not_before, issued.not_after)

    def draft(self, ordered: Ordered) -> DeviceCertificate:
        """As large as the certificate of this order can become, and nothing else."""
        order = ordered.order
        return DeviceCertificate("-" * self.authority.largest(order), order.not_before, order.not_after)

    def verify(self, shown: bytes, now: Millis) -> tuple[str, Device] | None:
        """Serial (34 hex digits) and names of a device's certificate (DER); None: it is none of ours, or not valid now.

        Whether it is revoked the ledger knows.
        """
        try:
            serial, names = self._trust.verify(shown, Purpose.DEVICES, now)
        except NotTrusted:
            return None
        return (f"{serial:034x}", names) if isinstance(names, Device) else None
