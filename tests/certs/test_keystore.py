"""The authority's folder: made whole, kept private, refused when it is not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from certs.authority import Issuer
from certs.errors import UnusableAuthority
from certs.hierarchy import Signer
from certs.keys import ED25519, P256, generate, spki_of
from certs.keystore import MAX_FILE, Keystore, load_certificates, load_key, load_passphrase
from certs.profile import Device, Purpose
from tests.certs import forge
from tests.certs.forge import DAY, NOW, pem


@pytest.fixture
def store(tmp_path: Path) -> Keystore:
    made = Keystore(tmp_path / "ca")
    made.create("factory", NOW, os.urandom)
    made.add_issuer("factory", Purpose.DEVICES, NOW, os.urandom)
    return made


def refused(code: str, call: Callable[[], object]) -> str:
    with pytest.raises(UnusableAuthority) as error:
        call()
    assert error.value.code == code
    return error.value.detail


def files(store: Keystore) -> dict[str, str]:
    return {one.name: f"{one.stat().st_mode & 0o777:o}" for one in store.folder.iterdir()}


def test_everything_is_private(store: Keystore) -> None:
    names = ("root.pem", "root.key", "devices-1.pem", "devices-1.key")
    assert files(store) == dict.fromkeys(names, "600")
    assert store.folder.stat().st_mode & 0o777 == 0o700


def test_what_was_made_is_what_is_loaded(store: Keystore) -> None:
    authority, again = store.load(), store.load()
    spki = spki_of(generate(P256).public_key())
    order = authority.order(Device("acme", "dev-1"), spki, NOW, os.urandom)
    assert again.issue(order) == authority.issue(order)


def test_rotation_keeps_the_former_issuer(store: Keystore) -> None:
    newer = store.add_issuer("factory", Purpose.DEVICES, NOW, os.urandom, algorithm=ED25519)
    store.add_issuer("factory", Purpose.SERVERS, NOW, os.urandom)
    authority = store.load()
    assert [str(one.purpose) for one in authority.issuers] == ["devices", "devices", "servers"]
    assert authority.current(Purpose.DEVICES, NOW).id == newer.id


def test_the_tenth_issuer_is_newer_than_the_ninth(store: Keystore) -> None:
    for _ in range(9):
        last = store.add_issuer("factory", Purpose.DEVICES, NOW, os.urandom)
    assert store.load().current(Purpose.DEVICES, NOW).id == last.id


def test_the_roots_key_may_be_away(store: Keystore) -> None:
    (store.folder / "root.key").unlink()
    store.load()
    assert "root.key cannot be read" in refused(
        "file", lambda: store.add_issuer("factory", Purpose.DEVICES, NOW, os.urandom)
    )


def test_an_issuer_whose_key_was_destroyed_is_still_trusted(store: Keystore) -> None:
    (store.folder / "devices-1.key").unlink()
    assert [issuer.key for issuer in store.load().issuers] == [None]


def test_a_crash_between_key_and_certificate_leaves_a_number_unused(store: Keystore) -> None:
    (store.folder / "devices-2.pem").write_bytes(b"")
    (store.folder / "devices-2.pem").rename(store.folder / "devices-2.key")
    assert len(store.load().issuers) == 1
    store.add_issuer("factory", Purpose.DEVICES, NOW, os.urandom)
    assert (store.folder / "devices-3.pem").exists()
    assert len(store.load().issuers) == 2


def test_a_root_is_made_once(store: Keystore) -> None:
    refused("file", lambda: store.create("factory", NOW, os.urandom))


def test_a_root_key_left_by_a_crash_is_replaced(tmp_path: Path) -> None:
    store = Keystore(tmp_path / "ca")
    store.folder.mkdir(mode=0o700)
    (store.folder / "root.key").write_bytes(b"left over")
    store.create("factory", NOW, os.urandom)
    store.add_issuer("factory", Purpose.DEVICES, NOW, os.urandom)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610])
def test_a_key_that_others_may_read_is_refused(store: Keystore, mode: int) -> None:
    (store.folder / "devices-1.key").chmod(mode)
    assert "chmod 600" in refused("permissions", store.load)


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_folder_that_others_may_write_to_is_refused(store: Keystore, mode: int) -> None:
    store.folder.chmod(mode)
    assert "chmod 700" in refused("permissions", store.load)


def test_a_passphrase_closes_and_opens(tmp_path: Path) -> None:
    (tmp_path / "passphrase").write_bytes(b"correct horse\r\n")
    (tmp_path / "passphrase").chmod(0o600)
    store = Keystore(tmp_path / "ca", load_passphrase(tmp_path / "passphrase"))
    store.create("factory", NOW, os.urandom)
    store.add_issuer("factory", Purpose.DEVICES, NOW, os.urandom)
    assert b"ENCRYPTED" in (store.folder / "devices-1.key").read_bytes()
    Keystore(tmp_path / "ca", b"correct horse").load()
    assert "is encrypted" in refused("passphrase", Keystore(tmp_path / "ca").load)
    assert "correct" not in refused("key", Keystore(tmp_path / "ca", b"wrong").load)
    assert "horse" not in repr(store)
    (tmp_path / "passphrase").chmod(0o640)
    refused("permissions", lambda: load_passphrase(tmp_path / "passphrase"))
    (tmp_path / "empty").touch(mode=0o600)
    refused("passphrase", lambda: load_passphrase(tmp_path / "empty"))


def test_a_passphrase_for_a_plain_key_is_told(store: Keystore) -> None:
    assert "not encrypted" in refused("passphrase", Keystore(store.folder, b"x").load)


def corporate() -> tuple[Signer, Signer, Signer]:
    root = forge.root("corporate").made()
    middle = forge.root("corporate middle", path_length=1)
    middle = middle.plus((x509.AuthorityKeyIdentifier.from_issuer_public_key(root.key.public_key()), False))
    between = middle.made(root)
    return root, between, forge.issuer(between, ExtendedKeyUsageOID.CLIENT_AUTH).made(between)


def test_an_operator_brings_an_issuer_and_its_chain(tmp_path: Path) -> None:
    root, between, issuer = corporate()
    store = Keystore(tmp_path / "ca")
    store.import_root(root.certificate, NOW)
    chain = [issuer.certificate, between.certificate, root.certificate]
    store.import_issuer(Purpose.DEVICES, chain, issuer.key, NOW)
    (loaded,) = store.load().issuers
    assert loaded.pem.encode() == pem(issuer.certificate, between.certificate)
    assert not (store.folder / "root.key").exists()
    assert "already" in refused("file", lambda: store.import_issuer(Purpose.DEVICES, chain, issuer.key, NOW))


def test_what_an_operator_brings_is_checked(tmp_path: Path) -> None:
    root, between, issuer = corporate()
    store = Keystore(tmp_path / "ca")
    store.import_root(root.certificate, NOW)
    bring = store.import_issuer
    chain = [issuer.certificate, between.certificate]
    refused("key", lambda: bring(Purpose.DEVICES, chain, generate(P256), NOW))
    refused("chain", lambda: bring(Purpose.DEVICES, chain[:1], issuer.key, NOW))
    refused("chain", lambda: bring(Purpose.DEVICES, chain[::-1], between.key, NOW))
    refused("chain", lambda: bring(Purpose.DEVICES, [root.certificate], root.key, NOW))
    refused("usage", lambda: bring(Purpose.SERVERS, chain, issuer.key, NOW))
    refused("validity", lambda: bring(Purpose.DEVICES, chain, issuer.key, NOW + 99 * DAY))
    assert files(store) == {"root.pem": "600"}


def test_a_root_of_anothers_key_is_refused(tmp_path: Path) -> None:
    root = forge.root().made()
    store = Keystore(tmp_path / "ca")
    refused("key", lambda: store.import_root(Signer(root.certificate, generate(P256)), NOW))
    refused("validity", lambda: store.import_root(root, NOW + 99 * DAY))


def test_files_that_are_something_else_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    refused("file", lambda: load_certificates(file))
    file.touch(mode=0o600)
    for contents in (b"", b"hello", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        file.write_bytes(contents)
        refused("file", lambda: load_certificates(file))
        refused("key", lambda: load_key(file))
    file.write_bytes(b"x" * (MAX_FILE + 1))
    refused("file", lambda: load_key(file))
    other = dsa.generate_private_key(1024)
    file.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    refused("strength", lambda: load_key(file))
    refused("file", Keystore(file).load)
    refused("file", lambda: Keystore(tmp_path / "nowhere").load())
    refused("file", lambda: Keystore(file / "below").create("factory", NOW, os.urandom))


def test_a_full_disk_leaves_nothing_half_written(store: Keystore, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(store)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "No space" in refused("file", lambda: store.add_issuer("factory", Purpose.DEVICES, NOW, os.urandom))
    monkeypatch.undo()
    assert files(store) == before
    assert [type(issuer) for issuer in store.load().issuers] == [Issuer]
