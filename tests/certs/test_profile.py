"""A certificate is read strictly: the profile, or a rule it breaks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from certs.errors import NotIssued
from certs.hierarchy import Signer
from certs.profile import Above, Device, Server, key_usage, parse_urn, read
from tests.certs import forge
from tests.certs.forge import DAY, NOW, Recipe

CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}", fullmatch=True)


def named(uri: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])


@given(ids, ids | st.none())
def test_a_urn_reads_back_as_the_device_it_was_made_of(account: str, client_id: str | None) -> None:
    device = Device(account, client_id)
    assert parse_urn(named(device.uri)) == device


@given(ids, ids, ids, ids)
def test_no_two_devices_share_a_urn(a: str, b: str, c: str, d: str) -> None:
    assert (Device(a, b).uri == Device(c, d).uri) == ((a, b) == (c, d))
    assert Device(a, None).uri != Device(c, d).uri


@pytest.mark.parametrize(
    "uri",
    [
        "urn:prov:",
        "urn:prov:acme:",
        "urn:prov::dev-1",
        "URN:prov:acme:dev-1",
        "urn:prov:a%3ab:dev-1",
        "urn:prov:acme:dev%2D1",
        "urn:prov:acme:dev-1 ",
        "urn:prov:acme:dev-1\n",
        "urn:other:acme:dev-1",
        "urn:prov:acme:" + "x" * 65,
        "https://prov/acme/dev-1",
    ],
)
def test_another_spelling_is_no_name(uri: str) -> None:
    with pytest.raises(NotIssued) as refused:
        parse_urn(named(uri))
    assert refused.value.code == "name"


@pytest.mark.parametrize("names", [(), ("a", "a"), ("*.example",), ("a b",), ("-a",), ("a" * 65,), ("broker_1",)])
def test_a_server_has_hosts_and_addresses(names: tuple[str, ...]) -> None:
    with pytest.raises(NotIssued):
        Server(names)


@pytest.fixture(scope="module")
def issuer() -> Signer:
    root = forge.root().made()
    return forge.issuer(root, CLIENT, end=NOW + 20 * DAY).made(root)


CHANGES: dict[str, tuple[str, Callable[[Recipe], Recipe]]] = {
    "version 1": ("version", lambda one: one.with_(version=None)),
    "outlives its issuer": ("validity", lambda one: one.with_(end=NOW + 21 * DAY)),
    "another issuer's name": ("issuer", lambda one: one.with_(issuer_name="nobody")),
    "sha-1": ("signature-algorithm", lambda one: one.with_(algorithm=forge.SHA1_ECDSA, sign=forge.sha1)),
    "an authority": ("usage", lambda one: one.plus((x509.BasicConstraints(ca=True, path_length=None), True))),
    "signs certificates": ("usage", lambda one: one.plus((key_usage(signs_certificates=True), True))),
    "two usages": (
        "usage",
        lambda one: one.plus((x509.ExtendedKeyUsage([CLIENT, ExtendedKeyUsageOID.SERVER_AUTH]), False)),
    ),
    "no usage": ("extensions", lambda one: one.without(x509.ExtendedKeyUsage)),
    "no name": ("extensions", lambda one: one.without(x509.SubjectAlternativeName)),
    "critical usage": ("extensions", lambda one: one.plus((x509.ExtendedKeyUsage([CLIENT]), True))),
    "one extension more": ("extensions", lambda one: one.plus((x509.OCSPNoCheck(), False))),
    "another's key identifier": ("key-identifier", lambda one: one.plus((x509.SubjectKeyIdentifier(bytes(20)), False))),
    "another's authority key": (
        "key-identifier",
        lambda one: one.plus((x509.AuthorityKeyIdentifier(bytes(20), None, None), False)),
    ),
    "two names": (
        "name",
        lambda one: one.plus(
            (x509.SubjectAlternativeName([*named("urn:prov:acme:dev-1"), *named("urn:prov:acme:dev-2")]), False)
        ),
    ),
    "another's name": ("name", lambda one: one.plus((named("urn:prov:acme:dev-2"), False))),
    "a list at no URL": (
        "pointers",
        lambda one: one.plus(
            (
                x509.CRLDistributionPoints(
                    [x509.DistributionPoint(None, None, None, [x509.DirectoryName(x509.Name([]))])]
                ),
                False,
            )
        ),
    ),
}


def test_the_profile_is_read(issuer: Signer) -> None:
    made = forge.device(issuer, end=NOW + 10 * DAY).made(issuer).certificate
    assert read(made, Above.of(issuer.certificate)) == Device("acme", "dev-1")


@pytest.mark.parametrize(("code", "change"), CHANGES.values(), ids=CHANGES)
def test_anything_else_is_refused(code: str, change: Callable[[Recipe], Recipe], issuer: Signer) -> None:
    made = change(forge.device(issuer, end=NOW + 10 * DAY)).made(issuer).certificate
    with pytest.raises(NotIssued) as refused:
        read(made, Above.of(issuer.certificate))
    assert refused.value.code == code
