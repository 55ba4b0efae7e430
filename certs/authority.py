"""The authority: an order, a certificate for it, and the chain that goes with it.

1. The order of things (Boulder's): `order` draws a serial and fixes every field; the caller commits the order; `issue`
   builds what is to be signed, reads it with the eyes of a stranger (`profile.read`) and signs; the caller commits the
   certificate. What does not read as it should is never signed.
2. What is read is not a likeness: the issuer signs the very bytes (`der` tells how they are put together). The first
   of a shape is read whole; of the others, the values that go into its template are checked (`template`).
3. `issue` is a function of order and issuer. Ordered once, issued as often as need be: always the same bytes.
4. Rotation is overlap. All issuers hang on one root; the newest valid one of a purpose takes orders, each order and
   certificate finds its own issuer by key identifier, and old ones go on signing CRLs and OCSP answers until their last
   certificate has ended.
5. Nothing outlives its issuer, and nothing begins before it.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs import der
from certs.csr import Csr
from certs.errors import BadCsr, NotIssued, UnusableAuthority
from certs.hierarchy import check_names, check_path, constraints_of, key_id_of
from certs.keys import PrivateKey, algorithm_identifier, key_identifier, signature_of, spki_of
from certs.order import Order
from certs.profile import (
    BACKDATE,
    VALIDITY,
    Above,
    Device,
    Millis,
    Names,
    Purpose,
    Responder,
    Server,
    extensions_for,
    millis,
    moment,
    new_serial,
    read_with_key,
    subject_of,
)
from certs.template import Shape, Template, Values, values_of

_FRAME = 1024
"""More octets than everything of a certificate but names, URLs and key can have: RSA-4096 signs with 512 of them."""

_LABELS = 60

_TEMPLATES = 1024
"""Shapes that an issuer remembers: names are short, so there are hardly more."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate: `der` alone, `pem` with the chain below the root (leaf first), which is what a TLS peer sends."""

    serial: int
    der: bytes = field(repr=False)
    pem: str = field(repr=False)
    not_before: Millis
    not_after: Millis


class Issuer:
    """An issuing authority: its certificate, those between it and the root, and its key unless only trust is left.

    Raises `UnusableAuthority` for whatever `check_path` refuses and for a key of another certificate.
    """

    def __init__(
        self,
        purpose: Purpose,
        root: x509.Certificate,
        chain: Sequence[x509.Certificate],
        key: PrivateKey | None = None,
    ) -> None:
        self.purpose = purpose
        self.certificate = chain[0]
        self.chain = tuple(chain)
        self.key = key
        self.path = (root, *reversed(chain))
        check_path(self.path, purpose)
        if key is not None and spki_of(key.public_key()) != spki_of(self.certificate.public_key()):  # type: ignore[arg-type]  # check_path admits no other kind of key
            raise UnusableAuthority(
                "key", "the issuer's key does not belong to its certificate: give the one that does"
            )
        self.id = key_id_of(self.certificate).digest.hex()
        self.not_before = max(millis(one.not_valid_before_utc) for one in self.path)
        self.not_after = min(millis(one.not_valid_after_utc) for one in self.path)
        self.pem = "".join(_pem(one) for one in self.chain)
        self._subject = self.certificate.subject.public_bytes()
        self._algorithm = algorithm_identifier(self.certificate.public_key())
        self.constraints = constraints_of(self.path)
        self.above = Above.of(self.certificate)
        self._templates: dict[Shape, Template] = {}

    def __repr__(self) -> str:
        return f"Issuer({self.purpose}, {self.id[:8]})"

    def is_valid(self, now: Millis) -> bool:
        """Whether it and all above are valid at `now`."""
        return self.not_before <= now <= self.not_after

    def sign(self, order: Order) -> bytes:
        """Rules 1 to 3: the certificate in DER; raises `NotIssued`."""
        if self.key is None:
            raise NotIssued("issuer", "the issuer's key is not here: orders go to another one")
        shaped = values_of(order)
        template = None if shaped is None else self._templates.get(shaped[0])
        if shaped is None or template is None:
            tbs = self._put_together(order, shaped)
        else:
            tbs = template.fill(shaped[1])
            self._check_values(order)
        return der.certificate(tbs, self._algorithm, signature_of(self.key, tbs))

    def _put_together(self, order: Order, shaped: tuple[Shape, Values] | None) -> bytes:
        """What is to be signed, read as a stranger would; and a template for others of its shape."""
        values = extensions_for(
            order.names,
            key_identifier(order.public_key),
            self.above.key,
            crl_url=order.crl_url,
            ocsp_url=order.ocsp_url,
        )
        extensions = [der.extension(one) for one in values]
        tbs = der.to_be_signed(
            order.serial,
            self._algorithm,
            self._subject,
            moment(order.not_before),
            moment(order.not_after),
            subject_of(order.names.common_name).public_bytes(),
            order.public_key,
            der.extensions(extensions),
        )
        self._check(self._unsigned(tbs), order)
        self._check_values(order)
        if shaped is not None and len(self._templates) < _TEMPLATES:
            template = Template(order, shaped[1], self._algorithm, self._subject, extensions)
            if template.fill(shaped[1]) == tbs:
                self._templates[shaped[0]] = template
        return tbs

    def _unsigned(self, tbs: bytes) -> x509.Certificate:
        """A certificate to be read only: where the signature goes it has one zero."""
        try:
            return x509.load_der_x509_certificate(der.certificate(tbs, self._algorithm, b"\x00"))
        except ValueError:
            raise NotIssued("encoding", "what would be signed cannot be read") from None

    def _check(self, draft: x509.Certificate, order: Order) -> None:
        names, public_key = read_with_key(draft, self.above)
        if (
            names != order.names
            or draft.serial_number != order.serial
            or draft.not_valid_before_utc != moment(order.not_before)
            or draft.not_valid_after_utc != moment(order.not_after)
            or public_key != order.public_key
        ):
            raise NotIssued("order", "the certificate is not the one that was ordered")

    def _check_values(self, order: Order) -> None:
        """What differs between certificates of one shape and is not checked by its type."""
        above = self.above
        if not above.begin <= moment(order.not_before) < moment(order.not_after) <= above.end:
            raise NotIssued("validity", "the validity is not within the issuer's")
        check_names(order.names, self.constraints)
        if not isinstance(order.names, Responder) and isinstance(order.names, Device) != (
            self.purpose is Purpose.DEVICES
        ):
            raise NotIssued("issuer", f"the issuer is for {self.purpose}")


class Authority:
    """A root and the issuers under it, oldest first. Raises `UnusableAuthority` for a root that must not be used.

    `crl_url` and `ocsp_url` go into certificates; `{issuer}` in them stands for the issuer's key identifier.
    """

    def __init__(
        self, root: x509.Certificate, issuers: Sequence[Issuer], *, crl_url: str = "", ocsp_url: str = ""
    ) -> None:
        check_path((root,), None)
        self.root = root
        self.issuers = tuple(issuers)
        self._by_id = {issuer.id: issuer for issuer in issuers}
        self._crl_url = crl_url
        self._ocsp_url = ocsp_url

    @property
    def root_pem(self) -> str:
        """What others trust: a broker's `cafile`, an offer's `broker.ca`."""
        return _pem(self.root)

    def about_root(self) -> dict[str, object]:
        """What there is to know of the root, as of an issuer."""
        return {
            "purpose": "root",
            "name": self.root.subject.rfc4514_string(),
            "id": key_id_of(self.root).digest.hex(),
            "notBefore": millis(self.root.not_valid_before_utc),
            "notAfter": millis(self.root.not_valid_after_utc),
            "state": "trusted",
        }

    def bundle(self, purpose: Purpose, now: Millis) -> str:
        """The root and all valid issuers of a purpose, for software that wants every one of them."""
        valid = [issuer.pem for issuer in self.issuers if issuer.purpose is purpose and issuer.is_valid(now)]
        return "".join((self.root_pem, *dict.fromkeys(valid)))

    def current(self, purpose: Purpose, now: Millis) -> Issuer:
        """Who takes orders: the newest that is valid and has its key; raises `NotIssued` (`issuer`)."""
        for issuer in reversed(self.issuers):
            if issuer.purpose is purpose and issuer.key is not None and issuer.is_valid(now):
                return issuer
        raise NotIssued("issuer", f"there is no valid issuer for {purpose}: rotate the authority")

    def issuer(self, issuer_id: str) -> Issuer:
        """The issuer with that key identifier (hex); raises `NotIssued` (`issuer`)."""
        try:
            return self._by_id[issuer_id]
        except KeyError:
            raise NotIssued("issuer", "the issuer of that certificate is not here any more") from None

    def order(
        self,
        names: Names,
        public_key: bytes,
        now: Millis,
        entropy: Callable[[int], bytes],
        *,
        validity: Millis = VALIDITY,
        issuer: Issuer | None = None,
    ) -> Order:
        """A certificate to be committed, then issued. `public_key` is a canonical SPKI, `issuer` for responders only.

        Raises `NotIssued` when nobody can sign it; `entropy(n)` gives n random bytes.
        """
        signer = issuer or self.current(Purpose.SERVERS if isinstance(names, Server) else Purpose.DEVICES, now)
        check_names(names, signer.constraints)
        return Order(
            signer.id,
            new_serial(entropy),
            names,
            public_key,
            max(_whole(now - BACKDATE), signer.not_before),
            min(_whole(now + validity), signer.not_after),
            self._crl_url.format(issuer=signer.id),
            self._ocsp_url.format(issuer=signer.id),
        )

    def order_device(
        self, device: Device, csr: Csr, now: Millis, entropy: Callable[[int], bytes], *, validity: Millis = VALIDITY
    ) -> Order:
        """A device's certificate on its own key; raises `BadCsr` for a CSR in another's name, and `NotIssued`."""
        if foreign := set(csr.names) - {device.uri, device.common_name, device.client_id}:
            raise BadCsr("request", f"the CSR asks for {len(foreign)} names that are not the device's: leave them out")
        return self.order(device, csr.public_key, now, entropy, validity=validity)

    def issue(self, order: Order) -> Issued:
        """The certificate of a committed order, the same bytes each time; raises `NotIssued`."""
        return self.issued(order, self.issuer(order.issuer).sign(order))

    def largest(self, order: Order) -> int:
        """Characters that `pem` of this order's certificate has at most, without signing it; raises `NotIssued`."""
        asked = len(order.names.common_name) + sum(len(repr(name)) for name in order.names.alternative_names)
        leaf = _FRAME + asked + len(order.public_key) + len(order.crl_url) + len(order.ocsp_url)
        return (leaf * 4 // 3) * 66 // 65 + _LABELS + len(self.issuer(order.issuer).pem)

    def issued(self, order: Order, certificate: bytes) -> Issued:
        """A certificate that the ledger kept, with the chain of its own issuer; raises `NotIssued`."""
        pem = _armoured(certificate) + self.issuer(order.issuer).pem
        return Issued(order.serial, certificate, pem, order.not_before, order.not_after)


def _whole(when: Millis) -> Millis:
    return when // 1000 * 1000


def _armoured(certificate: bytes) -> str:
    """PEM of a certificate in DER (RFC 7468)."""
    text = b2a_base64(certificate, newline=False).decode("ascii")
    lines = "\n".join(text[at : at + 64] for at in range(0, len(text), 64))
    return f"-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n"


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode("ascii")
