"""The reference device with a key of its own: stored before it claims, kept until it is certified, never sent."""

from __future__ import annotations

import base64
import os
import ssl
from tempfile import NamedTemporaryFile

from cryptography import x509

from broker.fleet.actions import Mode, Options
from broker.fleet.device import State
from broker.fleet.device_key import SEED_SIZE, DeviceKey
from broker.fleet.flash import MemoryFlash, load, load_key
from certs.authority import Authority, Issuer
from certs.csr import parse_csr
from certs.hierarchy import create_issuer, create_root
from certs.keys import P256, generate
from certs.profile import Device as Named
from certs.profile import Purpose
from tests.broker.fleet import double
from tests.broker.fleet.script import Stage

NOW = 1_800_000_000_000
ROOT = create_root("Test", generate(P256), NOW, os.urandom)
ISSUER = create_issuer(ROOT, "Test", Purpose.DEVICES, generate(P256), NOW, os.urandom)
AUTHORITY = Authority(ROOT.certificate, [Issuer(Purpose.DEVICES, ROOT.certificate, [ISSUER.certificate], ISSUER.key)])
OPTIONS = Options(csr=True)


def certified(csr: str) -> dict[str, object]:
    """What an offer has in the place of user name and password."""
    order = AUTHORITY.order_device(Named("acme", double.CLIENT_ID), parse_csr(csr), NOW, os.urandom)
    issued = AUTHORITY.issue(order)
    return {
        "type": "x509",
        "username": "",
        "password": "",
        "certificate": issued.pem,
        "notBefore": issued.not_before,
        "notAfter": issued.not_after,
    }


def test_a_certificate_on_its_own_key_is_stored_with_the_key() -> None:
    stage = Stage(OPTIONS).start()
    stage.offer(**certified(stage.said["csr"]))
    credential = load(stage.flash)
    assert credential is not None
    assert credential.certificate is not None
    assert (credential.password, credential.not_after) == ("", NOW + 90 * 86_400_000)
    assert credential.private_key is not None
    with NamedTemporaryFile("w") as file:
        file.write(credential.certificate + credential.private_key)
        file.flush()
        ssl.create_default_context().load_cert_chain(file.name)  # the two fit, as TLS sees it
    assert load_key(stage.flash) == b""
    assert stage.logins == 1


def test_every_mode_asks_and_opens() -> None:
    for mode in Mode:
        stage = Stage(Options(csr=True, mode=mode)).start()
        stage.offer(**certified(stage.said["csr"]))
        assert stage.device.state is State.STORED


def test_the_private_key_is_nowhere_in_what_is_sent() -> None:
    stage = Stage(OPTIONS).start()
    key = DeviceKey.load(load_key(stage.flash))
    assert key is not None
    secret = key._private.private_numbers().private_value.to_bytes(32)
    sent = b"".join(publish.payload for publish in stage.published) + base64.b64decode(stage.said["csr"])
    assert secret not in sent
    assert base64.b64encode(secret)[:40] not in sent


def test_a_repeat_asks_for_the_same_key_also_after_a_power_cut() -> None:
    stage = Stage(OPTIONS).start()
    first = parse_csr(stage.said["csr"]).key_id
    assert parse_csr(stage.wait().wait().said["csr"]).key_id == first
    again = Stage(OPTIONS, stage.flash, seed=2).start()
    assert parse_csr(again.said["csr"]).key_id == first


def test_a_new_claim_takes_a_new_key() -> None:
    stage = Stage(OPTIONS).start()
    first = parse_csr(stage.said["csr"]).key_id
    stage.answer("superseded")
    second = parse_csr(stage.said["csr"]).key_id
    assert second != first
    stage.offer(**certified(stage.said["csr"]))
    stage.let_in().answer("confirmed", generation=1)
    stage.device.renew(stage.now)
    assert parse_csr(stage.settle().said["csr"]).key_id not in (first, second)


def test_a_certificate_on_another_key_is_no_offer() -> None:
    stage = Stage(OPTIONS).start()
    stranger = base64.b64encode(DeviceKey.made_from(os.urandom(SEED_SIZE)).csr).decode()
    stage.offer(**certified(stranger))
    assert (stage.device.state, load(stage.flash)) == (State.CLAIMING, None)


def test_who_has_no_key_takes_no_certificate() -> None:
    stage = Stage().start()
    stranger = base64.b64encode(DeviceKey.made_from(os.urandom(SEED_SIZE)).csr).decode()
    stage.offer(**certified(stranger))
    assert (stage.device.state, load(stage.flash)) == (State.CLAIMING, None)


def test_a_key_that_cannot_be_stored_is_not_claimed_with() -> None:
    class Worn(MemoryFlash):
        worn = True

        def write(self, slot: int, octets: bytes) -> None:
            super().write(slot, octets[:-1] if self.worn else octets)

    flash = Worn()
    stage = Stage(OPTIONS, flash).start()
    assert stage.published == []
    flash.worn = False
    stage.wait()
    assert "csr" in stage.said


def test_every_seed_makes_a_key_of_the_curve() -> None:
    for seed in (b"\0" * SEED_SIZE, b"\xff" * SEED_SIZE, os.urandom(SEED_SIZE)):
        key = DeviceKey.made_from(seed)
        assert x509.load_der_x509_csr(key.csr).is_signature_valid
        assert (again := DeviceKey.load(key.pem.encode())) is not None
        assert again.pem == key.pem
    assert DeviceKey.load(b"") is None
