"""An order becomes a certificate, the same each time, made of nothing but the record and the device's key."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from hypothesis import given, settings
from hypothesis import strategies as st

from certs.authority import Authority, Issuer
from certs.csr import parse_csr
from certs.errors import BadCsr, NotIssued, UnusableAuthority
from certs.hierarchy import Signer, create_issuer, create_root
from certs.keys import ED25519, P256, P384, digest_for, generate, is_deterministic, key_identifier, spki_of
from certs.order import Order
from certs.profile import (
    VALIDITY,
    Device,
    Names,
    Purpose,
    Responder,
    Server,
    extensions_for,
    moment,
    read,
    subject_of,
)
from tests.certs.forge import DAY, NOW, request, text

ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}", fullmatch=True)
devices = st.builds(Device, ids, ids) | st.builds(Device, ids, st.none())
hosts = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?(\.[a-z]{2,8}){0,2}", fullmatch=True)
servers = st.builds(
    Server,
    st.lists(hosts | st.ip_addresses().map(str), min_size=1, max_size=4, unique=True).map(tuple),
)
SPKI = {algorithm: spki_of(generate(algorithm).public_key()) for algorithm in (P256, P384, ED25519)}
WHOLE = {
    algorithm: (create_root("w", generate(algorithm), NOW, os.urandom), generate(algorithm))
    for algorithm in (P256, P384, ED25519)
}


def authority_of(
    algorithm: str, purpose: Purpose = Purpose.DEVICES, *, excluded_hosts: Sequence[str] = ()
) -> Authority:
    root, key = WHOLE[algorithm]
    made = create_issuer(root, "w", purpose, key, NOW, os.urandom, excluded_hosts=excluded_hosts)
    issuer = Issuer(purpose, root.certificate, [made.certificate], made.key)
    return Authority(root.certificate, [issuer], crl_url="http://c.example/{issuer}", ocsp_url="http://o.example")


def by_library(authority: Authority, order: Order) -> bytes:
    """What the library's builder makes of an order."""
    issuer, names = authority.issuers[0], order.names
    assert issuer.key is not None
    key = order.public_key
    extensions = extensions_for(
        names, key_identifier(key), issuer.above.key, crl_url=order.crl_url, ocsp_url=order.ocsp_url
    )
    return (
        x509.CertificateBuilder(extensions=extensions)
        .subject_name(subject_of(names.common_name))
        .issuer_name(issuer.certificate.subject)
        .public_key(load_der_public_key(key))  # type: ignore[arg-type]  # of one of our algorithms
        .serial_number(order.serial)
        .not_valid_before(moment(order.not_before))
        .not_valid_after(moment(order.not_after))
        .sign(issuer.key, digest_for(issuer.key), ecdsa_deterministic=is_deterministic(issuer.key))
        .public_bytes(Encoding.DER)
    )


@settings(max_examples=60, deadline=None)
@given(
    names=devices | servers, ca=st.sampled_from(list(WHOLE)), key=st.sampled_from(list(SPKI)), days=st.integers(1, 400)
)
def test_every_byte_is_what_the_library_would_have_signed(names: Names, ca: str, key: str, days: int) -> None:
    purpose = Purpose.SERVERS if isinstance(names, Server) else Purpose.DEVICES
    authority = authority_of(ca, purpose)
    order = authority.order(names, SPKI[key], NOW, os.urandom, validity=days * DAY)
    issued = authority.issue(order)
    assert issued.der == by_library(authority, order)
    assert read(x509.load_der_x509_certificate(issued.der), authority.issuers[0].above) == names


short = st.text("aB7.:", min_size=1, max_size=3).filter(lambda text: text[0] not in ".:")
BUSY = {algorithm: authority_of(algorithm) for algorithm in WHOLE}


@settings(max_examples=300, deadline=None)
@given(
    device=st.builds(Device, short, short | st.none()) | devices,
    ca=st.sampled_from(list(BUSY)),
    key=st.sampled_from(list(SPKI.values())),
    serial=st.integers(0, 2**128 - 1),
    begin=st.integers(0, 300 * DAY // 1000),
    seconds=st.integers(1, 60 * DAY // 1000),
)
def test_a_certificate_filled_into_a_template_is_what_the_library_would_have_signed(
    device: Device, ca: str, key: bytes, serial: int, begin: int, seconds: int
) -> None:
    """One authority for all examples: names are short, so most are of a shape that it has read before."""
    start = NOW + begin * 1000
    order = Order(
        BUSY[ca].issuers[0].id, 1 << 128 | serial, device, key, start, start + seconds * 1000, "http://c.example", ""
    )
    assert BUSY[ca].issue(order).der == by_library(BUSY[ca], order)


@given(
    names=devices | servers | st.just(Responder("proof")), serial=st.integers(0, 2**128 - 1), at=st.integers(0, 2**42)
)
def test_an_order_survives_being_written_down(names: Names, serial: int, at: int) -> None:
    order = Order("ab" * 20, 1 << 128 | serial, names, SPKI[P256], at, at + DAY, "http://c.example", "")
    assert Order.decode(order.encode()) == order
    assert len(order.serial_hex) == 34


def test_issued_twice_is_the_same_certificate(authority: Authority) -> None:
    order = authority.order(Device("acme", "dev-1"), SPKI[P256], NOW, os.urandom)
    assert authority.issue(order) == authority.issue(Order.decode(order.encode()))


def test_the_certificate_carries_the_record_and_the_key_alone(authority: Authority, device_issuer: Issuer) -> None:
    asked = request(
        subject=subject_of("administrator"), extensions=[(x509.SubjectAlternativeName([x509.DNSName("dev-1")]), True)]
    )
    csr = parse_csr(text(asked))
    order = authority.order_device(Device("acme", "dev-1"), csr, NOW, os.urandom)
    issued = authority.issue(order)
    leaf, above = x509.load_pem_x509_certificates(issued.pem.encode())
    assert above == device_issuer.certificate
    assert leaf.subject == subject_of("dev-1")
    assert spki_of(leaf.public_key()) == spki_of(asked.public_key())  # type: ignore[arg-type]  # P-256
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.UniformResourceIdentifier("urn:prov:acme:dev-1")]
    assert (issued.not_before, issued.not_after) == (NOW - 300_000, NOW + VALIDITY)


def test_loose_is_the_account(authority: Authority) -> None:
    order = authority.order(Device("acme:west", None), SPKI[P256], NOW, os.urandom)
    leaf = x509.load_der_x509_certificate(authority.issue(order).der)
    assert leaf.subject == subject_of("acme:west")
    assert b"urn:prov:acme%3Awest" in leaf.public_bytes(Encoding.DER)


def test_nothing_outlives_or_precedes_its_issuer(authority: Authority, device_issuer: Issuer) -> None:
    order = authority.order(Device("acme", "dev-1"), SPKI[P256], NOW, os.urandom, validity=9_000 * DAY)
    assert order.not_after == device_issuer.not_after
    assert authority.order(Device("a", "b"), SPKI[P256], NOW, os.urandom).not_before >= device_issuer.not_before


@pytest.mark.parametrize("shift", [-DAY, 366 * DAY])
def test_an_issuer_out_of_its_time_takes_no_orders(authority: Authority, shift: int) -> None:
    with pytest.raises(NotIssued, match="no valid issuer for devices"):
        authority.order(Device("acme", "dev-1"), SPKI[P256], NOW + shift, os.urandom)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"serial": 5}, "serial"),
        ({"serial": 1 << 129}, "serial"),
        ({"not_after": NOW + 400 * DAY}, "validity"),
        ({"not_before": NOW - 40 * DAY}, "validity"),
        ({"not_after": NOW - DAY}, "validity"),
        ({"names": Server(("mq.example",))}, "issuer"),
        ({"names": Device("acme", "broker.example")}, "name-constraints"),
        ({"issuer": "00" * 20}, "issuer"),
    ],
)
@pytest.mark.parametrize("templates", [False, True])
def test_an_order_against_the_rules_is_not_signed(changes: dict[str, object], code: str, *, templates: bool) -> None:
    authority = authority_of(P256, excluded_hosts=("broker.example",))
    order = authority.order(Device("acme", "dev-1"), SPKI[P256], NOW, os.urandom)
    for name in ("dev-1", "broker-example") if templates else ():
        authority.issue(replace(order, names=Device("acme", name)))
    with pytest.raises(NotIssued) as refused:
        authority.issue(replace(order, **changes))  # type: ignore[arg-type]  # fields by name
    assert refused.value.code == code


def test_a_weak_key_in_an_order_is_not_signed(authority: Authority) -> None:
    order = authority.order(Device("acme", "dev-1"), SPKI[P256], NOW, os.urandom)
    spki = spki_of(rsa.generate_private_key(65537, 1024).public_key())
    with pytest.raises(NotIssued) as refused:
        authority.issue(replace(order, public_key=spki))
    assert refused.value.code == "key"


def test_a_csr_in_anothers_name_is_refused_before_an_order(authority: Authority) -> None:
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("urn:prov:acme:dev-2")])
    csr = parse_csr(text(request(extensions=[(names, False)])))
    with pytest.raises(BadCsr, match="not the device's"):
        authority.order_device(Device("acme", "dev-1"), csr, NOW, os.urandom)


def test_after_a_rotation_old_orders_find_their_issuer(root: Signer, device_issuer: Issuer) -> None:
    made = create_issuer(root, "factory", Purpose.DEVICES, generate(ED25519), NOW + DAY, os.urandom)
    newer = Issuer(Purpose.DEVICES, root.certificate, [made.certificate], made.key)
    before = Authority(root.certificate, [device_issuer])
    after = Authority(root.certificate, [device_issuer, newer])
    order = before.order(Device("acme", "dev-1"), SPKI[P256], NOW, os.urandom)
    assert after.issue(order) == before.issue(order)
    assert after.current(Purpose.DEVICES, NOW) is device_issuer  # the newer one begins tomorrow
    assert after.current(Purpose.DEVICES, NOW + DAY) is newer
    later = after.order(Device("acme", "dev-2"), SPKI[P256], NOW + DAY, os.urandom)
    assert after.issue(later).pem.endswith(newer.pem)
    assert x509.load_pem_x509_certificates(after.bundle(Purpose.DEVICES, NOW + DAY).encode()) == [
        root.certificate,
        device_issuer.certificate,
        newer.certificate,
    ]


def test_an_issuer_without_its_key_signs_nothing(root: Signer, device_issuer: Issuer) -> None:
    trusted = Issuer(Purpose.DEVICES, root.certificate, device_issuer.chain)
    order = Authority(root.certificate, [device_issuer]).order(Device("a", "b"), SPKI[P256], NOW, os.urandom)
    with pytest.raises(NotIssued, match="key is not here"):
        Authority(root.certificate, [trusted]).issue(order)


def test_a_key_of_another_issuer_is_refused(root: Signer, device_issuer: Issuer) -> None:
    with pytest.raises(UnusableAuthority, match="does not belong"):
        Issuer(Purpose.DEVICES, root.certificate, device_issuer.chain, generate(P256))


@pytest.mark.parametrize(
    "names", [lambda: Device("acme", "x" * 65), lambda: Device("a" * 65, None), lambda: Device("", "x")]
)
def test_a_name_that_does_not_fit_is_refused(names: Callable[[], Device]) -> None:
    with pytest.raises(NotIssued) as refused:
        names()
    assert refused.value.code == "name"


def test_serials_are_never_the_same(authority: Authority) -> None:
    serials = {authority.order(Device("a", "b"), SPKI[P256], NOW, os.urandom).serial for _ in range(1000)}
    assert len(serials) == 1000
    assert {serial.bit_length() for serial in serials} == {129}
