"""The certificate of our own listeners: ordered before it is signed, and renewed in time."""

import os
import stat
import subprocess
from pathlib import Path

import pytest

from broker.datadir import DataDir
from broker.servercertificate import FILE, ServerCertificate
from broker.tls import server_context
from certs.authority import Authority
from certs.profile import Purpose
from provisioner.errors import Unavailable
from tests.pki import Pki

DAY = 24 * 3600 * 1000
NAMES = ("localhost", "127.0.0.1")


class World:
    """A data directory, and an authority that can be exchanged."""

    def __init__(self, folder: Path) -> None:
        self.pki = Pki(folder)
        self.authority = self.pki.authority
        self.directory = DataDir(folder / "data")
        self.directory.prepare()
        self.file = folder / "data" / FILE

    def certificate(self, *names: str) -> ServerCertificate:
        return ServerCertificate(self.directory, lambda: self.authority, names or NAMES, os.urandom)

    def sans(self) -> str:
        """What OpenSSL reads in it, once it has verified the chain."""
        file = str(self.file)
        verify = ["openssl", "verify", "-purpose", "sslserver", "-CAfile", str(self.pki.trusted), "-untrusted", file]
        subprocess.run([*verify, file], check=True, capture_output=True)
        show = ["openssl", "x509", "-in", file, "-noout", "-ext", "subjectAltName"]
        told: str = subprocess.run(show, check=True, capture_output=True, text=True).stdout
        return told.split("\n")[1].strip()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_it_is_made_once_and_kept_until_two_thirds_of_its_life(world: World) -> None:
    now = world.pki.now
    made, due = world.certificate().renew(now)
    assert made
    assert world.sans() == "DNS:localhost, IP Address:127.0.0.1"
    assert stat.S_IMODE(world.file.stat().st_mode) == 0o600
    server_context(world.file, world.file)
    assert 59 * DAY < due - now < 60 * DAY
    first = world.file.read_bytes()
    for when in (now, due - 1):
        assert world.certificate().renew(when) == (False, due)
    assert world.file.read_bytes() == first
    made, later = world.certificate().renew(due)
    assert made
    assert later - due > 59 * DAY
    second = world.file.read_bytes()
    assert first.split(b"-----")[2] != second.split(b"-----")[2]  # the key is another one


def test_other_names_and_a_new_issuer_make_another(world: World) -> None:
    now = world.pki.now
    world.certificate().renew(now)
    assert world.certificate("broker.example").renew(now)[0]
    assert world.sans() == "DNS:broker.example"
    authority = world.authority
    world.authority = Authority(authority.root, [*authority.issuers, world.pki.issuer(Purpose.SERVERS)])
    assert world.certificate("broker.example").renew(now)[0]
    assert not world.certificate("broker.example").renew(now)[0]
    world.sans()


def test_a_crash_between_order_and_signature_signs_the_same_order(world: World) -> None:
    now = world.pki.now

    def dies_once_ordered() -> Authority:
        if world.file.exists():
            raise KeyboardInterrupt
        return world.authority

    with pytest.raises(KeyboardInterrupt):
        ServerCertificate(world.directory, dies_once_ordered, NAMES, os.urandom).renew(now)
    ordered = world.file.read_text().splitlines()[0]
    assert world.certificate().renew(now)[0]
    assert world.file.read_text().splitlines()[0] == ordered
    server_context(world.file, world.file)
    world.sans()


@pytest.mark.parametrize("text", ["", "nonsense", "# order: {}\n", "# order: null\nx"])
def test_a_damaged_file_is_replaced(world: World, text: str) -> None:
    world.directory.save_secret(FILE, text)
    assert world.certificate().renew(world.pki.now)[0]
    world.sans()


def test_the_key_of_another_order_is_not_shown(world: World) -> None:
    now = world.pki.now
    world.certificate().renew(now)
    order, *_ = world.file.read_text().splitlines()
    world.file.unlink()
    world.certificate().renew(now)
    _, *rest = world.file.read_text().splitlines()
    world.directory.save_secret(FILE, "\n".join([order, *rest]))
    assert world.certificate().renew(now)[0]
    world.sans()


def test_without_an_issuer_it_waits_for_the_operator(world: World) -> None:
    world.authority = Authority(world.authority.root, [])
    with pytest.raises(Unavailable, match="no valid issuer for servers: rotate the authority"):
        world.certificate().renew(world.pki.now)
