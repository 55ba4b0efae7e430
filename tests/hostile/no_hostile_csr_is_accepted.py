"""No hostile certificate request gets a certificate; each is refused with its own code in under 5 ms of work (H-2)."""

from __future__ import annotations

import os
import time
from collections import Counter

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from certs.authority import Authority, Issuer
from certs.csr import KeyPolicy, parse_csr
from certs.errors import BadCsr, UnsupportedKey
from certs.hierarchy import create_issuer, create_root
from certs.keys import P256, P384, generate
from certs.profile import Device, Purpose, key_usage
from tests.certs.forge import NOW, request, text
from tests.hostile.csrs import Hostile, everything

CODES = {"too-big", "encoding", "structure", "signature", "weak-key", "known-key", "request", "key"}


@pytest.fixture(scope="module")
def authority() -> Authority:
    root = create_root("factory", generate(P256), NOW, os.urandom)
    made = create_issuer(root, "factory", Purpose.DEVICES, generate(P256), NOW, os.urandom)
    whole = Authority(root.certificate, [Issuer(Purpose.DEVICES, root.certificate, [made.certificate], made.key)])
    for algorithm in (P256, P384):  # tables are made at the first key of their curve
        ask(whole, Hostile("honest", text(request(generate(algorithm))), ""))
    return whole


def ask(authority: Authority, hostile: Hostile) -> None:
    csr = parse_csr(hostile.text, KeyPolicy(rsa=hostile.rsa))
    authority.issue(authority.order_device(Device("acme", "dev-1"), csr, NOW, os.urandom))


def test_none_gets_a_certificate(authority: Authority) -> None:
    corpus = everything()
    wrong, slow = [], []
    for hostile in corpus:
        times = []
        for _ in range(3):
            start = time.thread_time()
            told = code_of(authority, hostile)
            times.append(time.thread_time() - start)
            if told not in CODES or told != hostile.code != "*":
                wrong.append(f"{hostile.name}: {told}")
        if min(times) >= 0.005:
            slow.append(f"{hostile.name}: {min(times):.4f} s")
    assert (wrong, slow) == ([], [])
    assert len(corpus) >= 150
    assert max(Counter(one.name for one in corpus).values()) == 1


def code_of(authority: Authority, hostile: Hostile) -> str:
    try:
        ask(authority, hostile)
    except (BadCsr, UnsupportedKey) as refused:
        return refused.code if refused.detail.isprintable() else "control bytes in the detail"
    return "issued"


def test_the_same_request_without_the_attack_is_served(authority: Authority) -> None:
    own = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("urn:prov:acme:dev-1"), x509.DNSName("dev-1")])
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    no_authority = x509.BasicConstraints(ca=False, path_length=None)
    asked = request(extensions=[(own, False), (usage, False), (no_authority, True), (key_usage(), True)])
    ask(authority, Hostile("honest", text(asked), ""))
