"""Issuers whose key is in a token: SoftHSM, as others would use it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pkcs11
import pytest

from certs.crl import Crl, Revoked, create_crl
from certs.errors import NotIssued, UnusableAuthority
from certs.hierarchy import Signer
from certs.keys import P256, generate, spki_of
from certs.keystore import Keystore, load_key
from certs.ocsp import Question, Status, respond
from certs.profile import Device, Purpose
from certs.token import TokenKey, parse_uri
from certs.trust import Trust
from tests.certs.forge import NOW
from tests.softhsm import PIN, make_token, uri_file


@pytest.fixture(scope="session")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a token, which this process reaches."""
    folder = tmp_path_factory.mktemp("token")
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ["SOFTHSM2_CONF"] = str(make_token(folder))  # the library looks for it there
    yield folder
    if before is None:
        del os.environ["SOFTHSM2_CONF"]
    else:
        os.environ["SOFTHSM2_CONF"] = before


@pytest.fixture
def keystore(tmp_path: Path, token: Path) -> Keystore:
    """An authority whose issuer for devices has its key in the token."""
    store = Keystore(tmp_path / "ca")
    store.create("plant", NOW, os.urandom)
    store.add_issuer("plant", Purpose.DEVICES, NOW, os.urandom, key=load_key(uri_file(tmp_path, token)))
    return store


def test_an_issuers_key_signs_and_never_is_on_the_disk(keystore: Keystore, tmp_path: Path) -> None:
    authority = keystore.load()
    [issuer] = authority.issuers
    assert isinstance(issuer.key, TokenKey)
    assert (keystore.folder / "devices-1.key").read_text().startswith("pkcs11:token=plant;object=devices?")
    assert PIN not in "".join(one.read_text() for one in keystore.folder.iterdir())
    order = authority.order(Device("acme", "dev-1"), spki_of(generate(P256).public_key()), NOW, os.urandom)
    issued = authority.issue(order)
    assert Keystore(keystore.folder).load().issue(order) == issued  # the same bytes, as often as anybody asks
    assert Trust([issuer]).verify(issued.der, Purpose.DEVICES, NOW) == (order.serial, order.names)
    root, chain = tmp_path / "root.pem", tmp_path / "chain.pem"
    root.write_text(authority.root_pem)
    chain.write_text(issued.pem)
    words = ["openssl", "verify", "-attime", str(NOW // 1000), "-purpose", "sslclient", "-CAfile", str(root)]
    subprocess.run([*words, "-untrusted", str(chain), str(chain)], check=True, capture_output=True)


def test_lists_and_ocsp_answers_are_signed_there_too(keystore: Keystore) -> None:
    [issuer] = keystore.load().issuers
    assert issuer.key is not None
    signer = Signer(issuer.certificate, issuer.key)
    made = Crl(create_crl(signer, [Revoked(17, NOW)], 1, NOW, NOW + 1000), issuer.certificate)
    assert made.is_revoked(17)
    assert respond(Question(issuer.certificate, 17), Status.GOOD, signer, NOW, NOW + 1000)


def test_other_kinds_of_key_are_refused(tmp_path: Path, token: Path) -> None:
    with pytest.raises(UnusableAuthority, match="none of RSA") as refused:
        load_key(uri_file(tmp_path, token, "curve"))
    assert refused.value.code == "strength"


def test_what_is_not_there_is_told_in_a_sentence(tmp_path: Path, token: Path) -> None:
    for label, name in (("nothing", "plant"), ("devices", "elsewhere")):
        with pytest.raises(UnusableAuthority, match="cannot be used"):
            load_key(uri_file(tmp_path, token, label, name))
    open_pin = tmp_path / "pin"
    open_pin.write_text(PIN)
    open_pin.chmod(0o644)
    with pytest.raises(UnusableAuthority, match="may be read by others"):
        load_key(uri_file(tmp_path, token, pin=open_pin))
    with pytest.raises(UnusableAuthority, match="cannot be read"):
        load_key(uri_file(tmp_path, token, pin=tmp_path / "missing"))


@pytest.mark.parametrize(
    "text",
    [
        "pkcs11:",
        "pkcs11:token=a;object=b",
        "pkcs11:token=a;object=b?module-path=/m",
        "pkcs11:token=a;token=c;object=b?module-path=/m&pin-source=/p",
        "pkcs11:token=a;object=b;type=private?module-path=/m&pin-source=/p",
        "pkcs11:token=a;object=b?module-path=/m&pin-value=1234",
        "pkcs11:token=a;object=?module-path=/m&pin-source=/p",
    ],
)
def test_a_uri_says_all_of_it_and_no_more(text: str) -> None:
    with pytest.raises(UnusableAuthority, match="write the token's URI as"):
        parse_uri(text)


def test_a_uri_may_be_written_in_other_ways() -> None:
    read = parse_uri("pkcs11:object=my%20key;token=a?pin-source=file:/p&module-path=/m")
    assert (read.token, read.label, read.module, read.pin_file) == ("a", "my key", Path("/m"), Path("/p"))


def test_a_token_that_does_not_sign_is_told(keystore: Keystore) -> None:
    authority = keystore.load()
    [issuer] = authority.issuers
    assert isinstance(issuer.key, TokenKey)

    class Gone:
        def sign(self, _data: bytes, *, mechanism: object) -> bytes:
            raise pkcs11.exceptions.DeviceRemoved

    issuer.key._private = Gone()
    order = authority.order(Device("acme", "dev-1"), spki_of(generate(P256).public_key()), NOW, os.urandom)
    with pytest.raises(NotIssued, match="DeviceRemoved"):
        authority.issue(order)
