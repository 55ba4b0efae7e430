"""What an operator cannot have an authority made of, and what a device cannot ask for: each is one sentence."""

from __future__ import annotations

import os

import pytest
from cryptography import x509

from certs.csr import MAX_SIZE
from certs.errors import BadCsr, NotIssued, UnusableAuthority
from certs.est import parse_body
from certs.hierarchy import create_issuer, create_root, key_id_of
from certs.keys import P256, digest_for, generate
from certs.profile import Purpose, Responder

NOW = 1_800_000_000_000
YEAR = 365 * 86_400_000


def test_no_issuer_under_a_root_that_has_expired() -> None:
    root = create_root("Plant", generate(P256), NOW, os.urandom)
    with pytest.raises(UnusableAuthority, match="has expired"):
        create_issuer(root, "Plant", Purpose.DEVICES, generate(P256), NOW + 100 * YEAR, os.urandom)


@pytest.mark.parametrize("label", ["", "x" * 41, "a/b", "a\nb", "ü"])
def test_no_authority_of_a_name_that_has_to_be_escaped(label: str) -> None:
    with pytest.raises(ValueError, match="1 to 40 letters"):
        create_root(label, generate(P256), NOW, os.urandom)


def test_no_server_issuer_that_verifiers_would_misread() -> None:
    root = create_root("Plant", generate(P256), NOW, os.urandom)
    with pytest.raises(ValueError, match="permit a host as well"):
        create_issuer(root, "Plant", Purpose.SERVERS, generate(P256), NOW, os.urandom, permitted=["192.0.2.0/24"])


def test_no_key_of_an_algorithm_nobody_checked() -> None:
    with pytest.raises(ValueError, match="choose P-256"):
        generate("RSA-1024")


@pytest.mark.parametrize("name", ["", " x", "x" * 65, "x\ny"])
def test_no_responder_of_a_name_that_has_to_be_escaped(name: str) -> None:
    with pytest.raises(NotIssued, match="no name for a responder"):
        Responder(name)


def test_no_authority_that_its_certificates_could_not_point_to() -> None:
    key = generate(P256)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bare")])
    root = create_root("Plant", key, NOW, os.urandom).certificate
    bare = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(root.not_valid_before_utc)
        .not_valid_after(root.not_valid_after_utc)
        .sign(key, digest_for(key))
    )
    assert key_id_of(root).digest
    with pytest.raises(UnusableAuthority, match="no subject key identifier"):
        key_id_of(bare)


def test_no_csr_of_any_size_from_an_est_client() -> None:
    with pytest.raises(BadCsr, match="more than"):
        parse_body(b"A" * (MAX_SIZE + 1))
