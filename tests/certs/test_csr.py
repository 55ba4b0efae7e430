"""What an honest device sends is understood, however its tools wrote it down."""

from __future__ import annotations

import base64
import hashlib
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from certs import der
from certs.csr import MAX_SIZE, KeyPolicy, parse_csr
from certs.errors import BadCsr, UnsupportedKey
from certs.keys import ED25519, P256, P384, RSA3072, generate, is_small_order, spki_of
from certs.profile import subject_of
from tests.certs.forge import request, text
from tests.hostile.csrs import assembled
from tests.programs import needed


@pytest.mark.parametrize("algorithm", [P256, P384, ED25519])
def test_a_key_on_offer_is_taken(algorithm: str) -> None:
    made = request(generate(algorithm))
    csr = parse_csr(text(made))
    assert csr.algorithm == algorithm
    assert csr.public_key == spki_of(made.public_key())  # type: ignore[arg-type]  # of one of our algorithms
    assert csr.key_id == hashlib.sha256(csr.public_key).hexdigest()
    assert csr.der_hash == hashlib.sha256(made.public_bytes(Encoding.DER)).hexdigest()


def test_pem_and_base64_are_the_same_request() -> None:
    made = request()
    pem = made.public_bytes(Encoding.PEM).decode()
    legacy = pem.replace("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST")
    one_line = f"-----BEGIN CERTIFICATE REQUEST-----\n{text(made)}\n-----END CERTIFICATE REQUEST-----"
    spellings = [text(made), pem, pem.strip(), pem.replace("\n", "\r\n"), f"\n{pem}\n", legacy, one_line]
    assert len({parse_csr(one) for one in spellings}) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
        ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384", "-sha384"),
        ("-newkey", "ed25519"),
        ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-addext", "subjectAltName=URI:urn:prov:acme:dev-1"),
    ],
)
def test_what_openssl_makes_is_taken(arguments: tuple[str, ...], tmp_path: Path) -> None:
    made = subprocess.run(
        [
            needed("openssl", "openssl"),
            "req",
            "-new",
            "-nodes",
            "-subj",
            "/CN=dev-1",
            "-keyout",
            tmp_path / "key",
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert parse_csr(made.stdout).algorithm in {P256, P384, ED25519}


@pytest.mark.parametrize("template", ["cn = dev-1\n", "cn = dev-1\nuri = urn:prov:acme:dev-1\ntls_www_client\n"])
def test_what_certtool_makes_is_taken(template: str, tmp_path: Path) -> None:
    certtool = needed("certtool", "gnutls-bin")
    (tmp_path / "template").write_text(template)
    key: list[str | Path] = [
        certtool,
        "--generate-privkey",
        "--key-type",
        "ecdsa",
        "--curve",
        "secp256r1",
        "--outfile",
        tmp_path / "key",
    ]
    subprocess.run(key, capture_output=True, timeout=20, check=True)
    ask: list[str | Path] = [
        certtool,
        "--generate-request",
        "--load-privkey",
        tmp_path / "key",
        "--template",
        tmp_path / "template",
    ]
    made = subprocess.run(ask, capture_output=True, text=True, timeout=20, check=True)
    pem = made.stdout[made.stdout.index("-----BEGIN") :]
    assert parse_csr(pem).algorithm == P256


def test_a_compressed_point_is_the_same_key() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    compressed = der.sequence(
        der.sequence(bytes.fromhex("06072a8648ce3d020106082a8648ce3d030107")),
        der.tlv(3, b"\x00", key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)),
    )
    assert parse_csr(text(assembled(key, spki=compressed))).key_id == parse_csr(text(request(key))).key_id


def test_rsa_is_taken_where_a_policy_says_so() -> None:
    made = text(request(rsa.generate_private_key(65537, 3072), digest=hashes.SHA512()))
    assert parse_csr(made, KeyPolicy(rsa=True)).algorithm == RSA3072
    with pytest.raises(UnsupportedKey) as refused:
        parse_csr(made)
    assert refused.value.supported == (P256, P384, ED25519)


def test_a_blocked_key_is_refused() -> None:
    made = text(request())
    blocked = KeyPolicy(blocked=frozenset({parse_csr(made).key_id}))
    with pytest.raises(BadCsr) as refused:
        parse_csr(made, blocked)
    assert refused.value.code == "known-key"


def test_the_limit_is_on_what_was_sent() -> None:
    made = text(request(subject=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x" * 60)] * 37)))
    assert len(made) <= MAX_SIZE
    parse_csr(made)
    with pytest.raises(BadCsr, match="4096"):
        parse_csr(made + "\n" * (MAX_SIZE + 1 - len(made)))


def test_no_secret_and_no_request_in_what_is_printed() -> None:
    csr = parse_csr(text(request()))
    assert csr.der.hex() not in repr(csr)
    assert "der=" not in repr(csr)


def test_the_points_of_small_order_are_just_those() -> None:
    prime = 2**255 - 19
    d = -121665 * pow(121666, -1, prime) % prime

    def add(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
        (x, y), (u, v) = one, other
        product = d * x * u * y * v
        return (
            (x * v + y * u) * pow(1 + product, -1, prime) % prime,
            (y * v + x * u) * pow(1 - product, -1, prime) % prime,
        )

    y = int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little")
    square = (y * y - 1) * pow(d * y * y + 1, -1, prime) % prime
    x = pow(square, (prime + 3) // 8, prime)
    if x * x % prime != square:
        x = x * pow(2, (prime - 1) // 4, prime) % prime
    point, seen = (x, y), set()
    for _ in range(8):
        point = add(point, (x, y))
        seen.add(point)
        assert is_small_order(point[1].to_bytes(32, "little"))
        assert is_small_order((point[1] | 1 << 255).to_bytes(32, "little"))
    assert len(seen) == 8
    assert is_small_order((prime + 1).to_bytes(32, "little"))
    base = 4 * pow(5, -1, prime) % prime
    assert not is_small_order(base.to_bytes(32, "little"))


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda raw: base64.b64encode(raw).decode()))
def test_anything_else_is_refused_in_one_sentence(sent: str) -> None:
    with pytest.raises((BadCsr, UnsupportedKey)) as refused:
        parse_csr(sent)
    assert "\n" not in refused.value.detail


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_request_is_refused(data: st.DataObject) -> None:
    honest = bytearray(request(KEY, subject_of("dev-1")).public_bytes(Encoding.DER))
    at = data.draw(st.integers(0, len(honest) - 1))
    honest[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises((BadCsr, UnsupportedKey)):
        parse_csr(text(bytes(honest)))


KEY = generate(ED25519)
