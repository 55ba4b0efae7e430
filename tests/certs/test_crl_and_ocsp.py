"""Revocation as others see it: OpenSSL reads our lists and asks our responder."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from certs.authority import Authority, Issuer
from certs.crl import Crl, Revocation, Revoked, create_crl
from certs.errors import NotTrusted
from certs.hierarchy import Signer
from certs.keys import P256, generate, spki_of
from certs.ocsp import NoAnswer, Question, Status, parse_request, respond
from certs.profile import Device, Purpose, Responder
from certs.trust import Trust
from tests.certs import forge
from tests.certs.forge import DAY, NOW, pem
from tests.programs import needed


@pytest.fixture(scope="module")
def signer(device_issuer: Issuer) -> Signer:
    assert device_issuer.key is not None
    return Signer(device_issuer.certificate, device_issuer.key)


@pytest.fixture(scope="module")
def leaf(authority: Authority) -> x509.Certificate:
    order = authority.order(Device("acme", "dev-1"), spki_of(generate(P256).public_key()), NOW, os.urandom)
    return x509.load_der_x509_certificate(authority.issue(order).der)


@pytest.fixture(scope="module")
def delegate(authority: Authority) -> Signer:
    key = generate(P256)
    issuer = authority.current(Purpose.DEVICES, NOW)
    order = authority.order(Responder("factory responder"), spki_of(key.public_key()), NOW, os.urandom, issuer=issuer)
    return Signer(x509.load_der_x509_certificate(authority.issue(order).der), key)


def test_a_list_says_who_why_and_since_when(signer: Signer) -> None:
    revoked = [Revoked(7 + n, NOW - n * DAY, reason) for n, reason in enumerate(Revocation)]
    made = create_crl(signer, revoked, 41, NOW, NOW + DAY)
    listed = Crl(made, signer.certificate)
    assert listed.number == 41
    assert listed.revoked == {one.serial: one.at for one in revoked}
    assert listed.is_revoked(7)
    assert not listed.is_revoked(6)
    reasons = [
        one.extensions.get_extension_for_class(x509.CRLReason).value.reason.value
        for one in list(x509.load_der_x509_crl(made))[1:]
    ]
    assert reasons == list(Revocation)[1:]
    assert Crl(x509.load_der_x509_crl(made).public_bytes(Encoding.PEM), signer.certificate).number == 41


def test_a_list_is_good_until_the_next(signer: Signer) -> None:
    listed = Crl(create_crl(signer, [], 1, NOW, NOW + DAY), signer.certificate)
    assert [listed.is_fresh(NOW + shift) for shift in (-1000, 0, DAY, DAY + 1000)] == [False, True, True, False]


def test_a_list_of_ten_thousand_is_made_in_one_go(signer: Signer) -> None:
    made = create_crl(signer, (Revoked(serial, NOW) for serial in range(1, 10_001)), 1, NOW, NOW + DAY)
    assert len(Crl(made, signer.certificate).revoked) == 10_000


@pytest.mark.parametrize(
    "damage", [lambda der: der[:-1], lambda der: der[:-4] + bytes(4), lambda der: b"", lambda der: b"-----"]
)
def test_a_damaged_list_is_no_list(signer: Signer, damage: object) -> None:
    made = create_crl(signer, [], 1, NOW, NOW + DAY)
    with pytest.raises(NotTrusted):
        Crl(damage(made), signer.certificate)  # type: ignore[operator]  # one of those above


def test_anothers_list_does_not_count(signer: Signer, device_issuer: Issuer, leaf: x509.Certificate) -> None:
    der = leaf.public_bytes(Encoding.DER)
    trust = Trust([device_issuer])
    other = forge.issuer(forge.root().made(), ExtendedKeyUsageOID.CLIENT_AUTH).made()
    with pytest.raises(NotTrusted):
        Crl(create_crl(other, [], 1, NOW, NOW + DAY), signer.certificate)
    fresh = Crl(create_crl(signer, [], 1, NOW, NOW + DAY), signer.certificate)
    assert trust.verify(der, Purpose.DEVICES, NOW, {device_issuer.id: fresh})[1] == Device("acme", "dev-1")
    for lists in ({}, {"another": fresh}):
        with pytest.raises(NotTrusted) as refused:
            trust.verify(der, Purpose.DEVICES, NOW, lists)
        assert refused.value.code == "crl"
    with pytest.raises(NotTrusted) as late:
        trust.verify(der, Purpose.DEVICES, NOW + 2 * DAY, {device_issuer.id: fresh})
    assert late.value.code == "crl"


def asked(
    leaf: x509.Certificate, signer: Signer, digest: hashes.HashAlgorithm | None = None
) -> ocsp.OCSPRequestBuilder:
    return ocsp.OCSPRequestBuilder().add_certificate(leaf, signer.certificate, digest or hashes.SHA1())


@pytest.mark.parametrize("digest", [hashes.SHA1(), hashes.SHA256(), hashes.SHA384()])
def test_a_question_is_understood(leaf: x509.Certificate, signer: Signer, digest: hashes.HashAlgorithm) -> None:
    request = asked(leaf, signer, digest).add_extension(x509.OCSPNonce(b"n" * 32), critical=False).build()
    other = forge.root().made().certificate
    question = parse_request(request.public_bytes(Encoding.DER), [other, signer.certificate])
    assert question == Question(signer.certificate, leaf.serial_number, digest.name, b"n" * 32)


def test_what_is_no_question_to_us_gets_its_answer(leaf: x509.Certificate, signer: Signer) -> None:
    stranger = forge.root().made().certificate
    long = asked(leaf, signer).add_extension(x509.OCSPNonce(b"n" * 129), critical=False).build()
    for request, issuers, code, status in (
        (asked(leaf, signer).build().public_bytes(Encoding.DER), [stranger], "unauthorized", 6),
        (
            asked(leaf, signer, hashes.SHA512()).build().public_bytes(Encoding.DER),
            [signer.certificate],
            "unauthorized",
            6,
        ),
        (long.public_bytes(Encoding.DER), [signer.certificate], "malformed", 1),
        (b"", [signer.certificate], "malformed", 1),
        (b"0" * 3000, [signer.certificate], "malformed", 1),
    ):
        with pytest.raises(NoAnswer) as refused:
            parse_request(request, issuers)
        assert refused.value.code == code
        assert ocsp.load_der_ocsp_response(refused.value.response).response_status.value == status


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_break_the_responder(data: bytes) -> None:
    with pytest.raises(NoAnswer):
        parse_request(data, [])


@pytest.mark.parametrize("by_delegate", [False, True])
@pytest.mark.parametrize(
    ("status", "told"),
    [
        (Status.GOOD, "good"),
        (Status.UNKNOWN, "unknown"),
        (Revoked(0, NOW - DAY, Revocation.KEY_COMPROMISE), "revoked"),
        (Revoked(0, NOW - DAY), "revoked"),
    ],
)
def test_openssl_understands_the_answer(
    *,
    status: Status | Revoked,
    told: str,
    by_delegate: bool,
    leaf: x509.Certificate,
    authority: Authority,
    signer: Signer,
    delegate: Signer,
    tmp_path: Path,
) -> None:
    def answer(request: bytes) -> bytes:
        question = parse_request(request, [signer.certificate])
        assert question.nonce
        return respond(question, status, delegate if by_delegate else signer, NOW, NOW + DAY)

    for name, one in (("root", authority.root), ("issuer", signer.certificate), ("leaf", leaf)):
        (tmp_path / f"{name}.pem").write_bytes(pem(one))
    with responder(answer) as url:
        read = subprocess.run(
            [
                *(needed("openssl", "openssl"), "ocsp", "-url", url, "-CAfile", "root.pem"),
                *("-issuer", "issuer.pem", "-cert", "leaf.pem", "-verify_other", "issuer.pem"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    assert "Response verify OK" in read.stderr
    assert f"leaf.pem: {told}" in read.stdout
    assert "WARNING" not in read.stderr


@contextmanager
def responder(answer: Callable[[bytes], bytes]) -> Iterator[str]:
    """One request over HTTP on a free port, answered by a function of bytes."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = answer(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Type", "application/ocsp-response")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name in the base class
            """Nothing to tell."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.timeout = 20
        thread = Thread(target=server.handle_request)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            thread.join(20)


def test_an_answer_kept_for_everybody_has_no_nonce(signer: Signer) -> None:
    question = Question(signer.certificate, 5)
    kept = ocsp.load_der_ocsp_response(respond(question, Status.GOOD, signer, NOW, NOW + DAY))
    assert list(kept.extensions) == []
    own = ocsp.load_der_ocsp_response(respond(replace(question, nonce=b"x"), Status.GOOD, signer, NOW, NOW + DAY))
    assert own.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == b"x"
