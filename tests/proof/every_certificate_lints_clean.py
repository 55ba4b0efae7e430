"""A thousand certificates, the authorities above them, lists and OCSP answers: pkilint finds nothing (H-9).

pkilint holds them against RFC 5280 (certificates, CRLs) and RFC 6960 (OCSP). Findings count down to NOTICE; INFO is
where it tells which way a key identifier was made.

One finding does not apply: `pkix.invalid_uri_syntax` for a URN. RFC 5280 (4.2.1.6) asks for an absolute URI with a
scheme, of RFC 3986; pkilint asks `validators.url`, which wants a host in it and refuses every URN. So where it finds
that, the name is held against the grammar of RFC 8141 instead, and counts if it does not fit that.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pkilint import loader, pkix
from pkilint.pkix import certificate, crl, extension, name, ocsp
from pkilint.validation import ValidationFindingSeverity

from certs.authority import Authority, Issuer
from certs.crl import Revocation, Revoked, create_crl
from certs.hierarchy import Signer, create_issuer, create_root
from certs.keys import ED25519, P256, P384, generate, spki_of
from certs.ocsp import Question, Status, respond
from certs.profile import Device, Millis, Names, Purpose, Responder, Server
from tests.proof.scale import record, rounds

START: Millis = 1_800_000_000_000
DAY: Millis = 24 * 3600 * 1000
MARKS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

CERTIFICATES = certificate.create_pkix_certificate_validator_container(
    certificate.create_decoding_validators(name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS),
    [
        certificate.create_issuer_validator_container([]),
        certificate.create_validity_validator_container(),
        certificate.create_subject_validator_container([]),
        certificate.create_extensions_validator_container([]),
        certificate.create_spki_validator_container([]),
    ],
)
LISTS = crl.create_pkix_crl_validator_container(
    [
        pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
        pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
    ],
    [
        crl.create_issuer_validator_container([]),
        crl.create_validity_validator_container([]),
        crl.create_extensions_validator_container([]),
    ],
)
ANSWERS = ocsp.create_pkix_ocsp_response_validator_container(
    [
        ocsp.create_response_decoder(),
        pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
        pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
    ],
    [],
)


# RFC 8141, section 2: assigned-name, without the optional parts.
URN = re.compile(
    r"urn:[A-Za-z0-9][A-Za-z0-9-]{0,30}[A-Za-z0-9]:"
    r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*"
)
REFUSES_EVERY_URN = "pkix.invalid_uri_syntax"


def findings(validator: Any, document: Any) -> list[str]:
    return [
        f"{found.finding.severity.name} {found.finding.code} {found.message or ''}"
        for result in validator.validate(document.root)
        for found in result.finding_descriptions
        if found.finding.severity <= ValidationFindingSeverity.NOTICE
        and not (found.finding.code == REFUSES_EVERY_URN and URN.fullmatch(str(result.node.pdu)))
    ]


def lint(der: bytes) -> list[str]:
    return findings(CERTIFICATES, loader.load_certificate(der, "certificate"))


def authority(algorithm: str, entropy: Callable[[int], bytes]) -> tuple[Authority, dict[Purpose, Signer]]:
    root = create_root("proof", generate(algorithm), START, entropy)
    signers = {
        purpose: create_issuer(root, "proof", purpose, generate(algorithm), START, entropy, permitted=permitted)
        for purpose, permitted in (
            (Purpose.DEVICES, ()),
            (Purpose.SERVERS, ("plant.example", "10.0.0.0/8", "fd00::/8")),
        )
    }
    issuers = [
        Issuer(purpose, root.certificate, [signer.certificate], signer.key) for purpose, signer in signers.items()
    ]
    made = Authority(
        root.certificate, issuers, crl_url="http://crl.example/{issuer}.crl", ocsp_url="http://ocsp.example/"
    )
    return made, signers


def text(chance: random.Random, most: int) -> str:
    return chance.choice(MARKS) + "".join(chance.choices(MARKS + "._:-", k=chance.randrange(most)))


def names(chance: random.Random) -> Names:
    match chance.randrange(10):
        case 0:
            return Device(text(chance, 64), None)
        case 1:
            host = f"mq-{chance.randrange(1000)}.plant.example"
            return Server((host, f"10.0.{chance.randrange(256)}.1", f"fd00::{chance.randrange(1, 9999)}"))
        case _:
            return Device(text(chance, 128), text(chance, 64))


@pytest.mark.timeout(900)
def test_pkilint_finds_nothing() -> None:
    seed = 20_260_101
    chance = random.Random(seed)
    entropy = chance.randbytes
    tries = rounds(36, 1_002, 20_000)
    keys = [spki_of(generate(kind).public_key()) for kind in (P256, P384, ED25519) for _ in range(4)]
    found: list[str] = []
    for algorithm in (P256, P384, ED25519):
        made, signers = authority(algorithm, entropy)
        for one in (made.root, *(issuer.certificate for issuer in made.issuers)):
            found += lint(one.public_bytes(Encoding.DER))
        for _ in range(tries // 3):
            now = START + chance.randrange(300 * DAY)
            order = made.order(
                names(chance), chance.choice(keys), now, entropy, validity=chance.randrange(1, 400) * DAY
            )
            found += lint(made.issue(order).der)
        found += lists_and_answers(made, signers[Purpose.DEVICES], chance)
    assert found == []
    record("lint", "H-9", certificates=tries, authorities=9, findings=len(found), seed=seed)


def lists_and_answers(made: Authority, signer: Signer, chance: random.Random) -> list[str]:
    revoked = [Revoked(chance.getrandbits(128), START - DAY, reason) for reason in Revocation]
    found = []
    for listed in ([], revoked):
        made_list = create_crl(signer, listed, chance.randrange(1, 1 << 40), START, START + DAY)
        found += findings(LISTS, loader.load_crl(made_list, "list"))
    key = generate(P256)
    order = made.order(
        Responder("proof responder"),
        spki_of(key.public_key()),
        START,
        chance.randbytes,
        issuer=made.current(Purpose.DEVICES, START),
    )
    delegate = Signer(x509.load_der_x509_certificate(made.issue(order).der), key)
    found += lint(made.issue(order).der)
    every: list[Status | Revoked] = [Status.GOOD, Status.UNKNOWN, *revoked]
    for status in every:
        for by, nonce in ((signer, None), (delegate, b"n" * 32)):
            question = Question(signer.certificate, chance.getrandbits(128), nonce=nonce)
            answer = respond(question, status, by, START, START + DAY)
            found += findings(ANSWERS, loader.load_ocsp_response(answer, "answer"))
    return found


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        (b"urn:prov:acme:dev-1", b"urn:prov:acme:dev|1"),
        (b"urn:prov:acme:dev-1", b"urn_prov_acme_dev-1"),
        (b"http://crl.example/", b"http:||crl.example/"),
        (b"\x06\x03\x55\x1d\x0f\x01\x01\xff", b"\x06\x03\x55\x1d\x0e\x01\x01\xff"),
    ],
)
def test_pkilint_would_find_something(was: bytes, becomes: bytes) -> None:
    made, _ = authority(P256, random.Random(1).randbytes)
    order = made.order(Device("acme", "dev-1"), spki_of(generate(P256).public_key()), START, random.Random(2).randbytes)
    der = made.issue(order).der
    assert lint(der) == []
    assert lint(der.replace(was, becomes)) != []
