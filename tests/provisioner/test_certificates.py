"""Certificates in the path of a claim: what the order of things promises, which keys are taken, and who is admitted."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from certs.authority import Authority
from certs.csr import parse_der
from certs.hierarchy import create_issuer
from certs.keys import ED25519, P256, P384, RSA3072, PrivateKey, digest_for, generate
from certs.order import Order
from certs.profile import Device, Purpose
from provisioner.creation import Created
from provisioner.errors import Conflict, Invalid, Reason, Unavailable
from provisioner.events import EventType
from provisioner.lifecycle import Phase
from provisioner.model import (
    BrokerAddress,
    Claim,
    Confirm,
    Coupling,
    DeviceCertificate,
    Kind,
    Offer,
    Origin,
    Result,
    Secret,
)
from provisioner.ports import EventFilter
from tests.provisioner.conftest import ADMIN, ISSUER, LOCAL, ROOT, START, SimpleDevice, World, an_authority
from tests.provisioner.test_service import reason_of, rejected

SECURE = BrokerAddress("mqtts://127.0.0.1:8883")
DAY = 86_400_000
ISSUER_END = an_authority().issuers[0].not_after


def csr_of(key: PrivateKey, *names: str) -> bytes:
    """A CSR as a device would make it: a subject of its own that nobody reads."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if names:
        asked = [x509.UniformResourceIdentifier(name) for name in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(asked), critical=False)
    return builder.sign(key, digest_for(key)).public_bytes(Encoding.DER)


def leaf_of(offer: Offer) -> x509.Certificate:
    assert offer.certificate is not None
    return x509.load_pem_x509_certificates(offer.certificate.pem.encode())[0]


def der_of(offer: Offer) -> bytes:
    return leaf_of(offer).public_bytes(Encoding.DER)


async def prescribed(world: World, client_id: str = "dev-1", **fields: object) -> tuple[Created, SimpleDevice]:
    world.broker.secure = SECURE
    created = await world.request(client_id, kind=Kind.X509, **fields)
    return created, world.device(created, client_id)


async def admitted(world: World, offer: Offer, client_id: str = "dev-1") -> bool:
    found = await world.provisioner.certificate_login("embedded", der_of(offer), client_id, world.now)
    return found is not None


async def renewing(world: World, offer: Offer, device: SimpleDevice) -> SimpleDevice:
    """The same device on a session that it opened with its certificate."""
    session = await world.provisioner.login_by_certificate(der_of(offer), device.client_id, world.now)
    assert session is not None
    assert session.user == device.user
    return replace(device, origin=Origin("127.0.0.1", 7, secure=True, tls=True, certificate=session.serial))


def unproved(device: SimpleDevice, request_id: str, csr: bytes) -> Claim:
    return Claim(device.user, device.client_id, request_id, device.origin, csr=csr)


async def test_a_csr_becomes_a_certificate_in_the_names_of_the_request(world: World) -> None:
    created, device = await prescribed(world)
    key = generate(P256)
    offer = await device.claim(csr=csr_of(key))
    leaf = leaf_of(offer)
    assert leaf.subject.rfc4514_string() == "CN=dev-1"
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == ["urn:prov:acme:dev-1"]
    assert leaf.public_key() == key.public_key()
    assert (offer.password, offer.broker) == (Secret(""), SECURE)
    assert offer.certificate is not None
    assert offer.certificate.not_after == START + 90 * DAY
    assert (await device.ack()).reason is Reason.CONFIRMED
    assert (await world.read(created.request.id)).phase is Phase.CONFIRMED


async def test_a_loose_certificate_names_the_account_alone(world: World) -> None:
    _, device = await prescribed(world, coupling=Coupling.LOOSE)
    offer = await device.claim(csr=csr_of(generate(ED25519)))
    leaf = leaf_of(offer)
    assert leaf.subject.rfc4514_string() == "CN=acme"
    assert await admitted(world, offer, "another-id")


async def test_the_same_key_gets_the_same_certificate_whatever_the_request_id(world: World) -> None:
    _, device = await prescribed(world)
    key = generate(P256)
    first = await device.claim(csr=csr_of(key))
    world.now += 60_000
    # Another CSR of the same key: ECDSA signs each differently.
    again = [await device.claim(f"r-{n}", csr=csr_of(key)) for n in range(3)]
    assert {offer.certificate for offer in again} == {first.certificate}
    assert {offer.generation for offer in again} == {1}


async def test_twenty_claims_at_once_make_one_certificate(world: World) -> None:
    _, device = await prescribed(world)
    csr = csr_of(generate(P256))
    offers = await asyncio.gather(*(device.claim(csr=csr) for _ in range(20)))
    assert len({offer.certificate for offer in offers}) == 1


async def test_another_key_retires_the_former_and_gets_its_own_certificate(world: World) -> None:
    _, device = await prescribed(world)
    first = await device.claim(csr=csr_of(generate(P256)))
    second_key = generate(P256)
    assert await reason_of(device.claim("r-2", csr=csr_of(second_key))) is Reason.WAIT
    assert not await admitted(world, first)
    await world.run_jobs()
    second = await device.claim("r-2", csr=csr_of(second_key))
    assert second.generation == 2
    assert leaf_of(second).serial_number != leaf_of(first).serial_number
    assert await admitted(world, second)
    revoked = await world.store.certificates.list_revoked(an_authority().issuers[0].id, world.now)
    assert [int(one.serial, 16) for one in revoked] == [leaf_of(first).serial_number]


async def test_a_retired_key_and_a_retired_request_id_stay_superseded(world: World) -> None:
    _, device = await prescribed(world)
    old = generate(P256)
    await device.claim(csr=csr_of(old))
    assert await reason_of(device.claim("r-2", csr=csr_of(generate(P256)))) is Reason.WAIT
    await world.run_jobs()
    assert await reason_of(device.claim("r-3", csr=csr_of(old))) is Reason.SUPERSEDED
    assert await reason_of(device.claim("r-1", csr=csr_of(generate(P256)))) is Reason.SUPERSEDED


async def test_the_order_is_committed_before_anything_is_signed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash between the two: nobody got a certificate, and who repeats the claim gets the one that was ordered."""
    _, device = await prescribed(world)
    csr = csr_of(generate(P256))
    sign = type(world.certification).issue
    seen: list[str] = []

    def crash(_self: object, certificate: object) -> DeviceCertificate:
        raise Unavailable("the power is gone", retry_after=1)

    monkeypatch.setattr(type(world.certification), "issue", crash)
    with pytest.raises(Unavailable):
        await device.claim(csr=csr)
    found = await world.store.certificates.find_key(parse_der(csr).key_id)
    assert found is not None
    seen.append(found.serial)
    monkeypatch.setattr(type(world.certification), "issue", sign)
    offer = await device.claim(csr=csr)
    assert (f"{leaf_of(offer).serial_number:034x}", offer.generation) == (seen[0], 1)


async def test_a_key_of_another_device_is_refused(world: World) -> None:
    key = generate(P256)
    _, one = await prescribed(world, "dev-1")
    _, other = await prescribed(world, "dev-2")
    await one.claim(csr=csr_of(key))
    refusal = await rejected(other.claim(csr=csr_of(key)))
    assert (refusal.reason, "another device" in refusal.detail) == (Reason.BAD_CSR, True)
    assert (await other.claim(csr=csr_of(generate(P256)))).generation == 1


async def test_of_two_devices_that_come_with_one_key_at_once_one_is_refused(world: World) -> None:
    key = generate(P256)
    devices = [(await prescribed(world, f"dev-{n}"))[1] for n in range(4)]
    outcomes = await asyncio.gather(*(one.claim(csr=csr_of(key)) for one in devices), return_exceptions=True)
    assert sum(isinstance(outcome, Offer) for outcome in outcomes) == 1
    refused = [outcome for outcome in outcomes if not isinstance(outcome, Offer)]
    assert {getattr(outcome, "reason", outcome) for outcome in refused} == {Reason.BAD_CSR}


async def test_what_is_no_csr_of_a_good_key_is_refused_and_mints_nothing(world: World) -> None:
    created, device = await prescribed(world)
    csr = csr_of(generate(P256))
    flipped = csr[:-1] + bytes([csr[-1] ^ 1])
    for bad in (b"\x30\x00", flipped, csr_of(generate(P256), "urn:prov:acme:dev-2")):
        assert await reason_of(device.claim(csr=bad)) is Reason.BAD_CSR
    refusal = await rejected(device.claim(csr=csr_of(generate(RSA3072))))
    assert (refusal.reason, refusal.supported) == (Reason.UNSUPPORTED, ("P-256", "P-384", "Ed25519"))
    assert (await world.read(created.request.id)).generation == 0
    assert (await device.claim(csr=csr_of(generate(P384), "urn:prov:acme:dev-1"))).generation == 1


async def test_the_request_prescribes_and_the_claim_only_says_whether_it_can(world: World) -> None:
    _, device = await prescribed(world)
    csr = csr_of(generate(P256))
    for fields in ({}, {"accept": ("x509",)}, {"csr": csr, "accept": ("password",)}):
        refusal = await rejected(device.claim(**fields))
        assert (refusal.reason, refusal.supported) == (Reason.UNSUPPORTED, ("x509",))
    assert (await device.claim(csr=csr, accept=("password", "x509"))).certificate is not None
    other = world.device(await world.request("dev-2"), "dev-2")
    assert (await other.claim(csr=csr, accept=("password", "x509"))).certificate is None


async def test_a_name_that_fits_no_certificate_is_refused_at_creation(world: World) -> None:
    world.broker.secure = SECURE
    await world.request("d" * 64, kind=Kind.X509)
    with pytest.raises(Invalid) as caught:
        await world.request("d" * 65, kind=Kind.X509)
    assert (caught.value.code, caught.value.field) == ("name-too-long", "clientId")
    created = await world.request("e" * 65, kind=Kind.X509, coupling=Coupling.LOOSE)
    with pytest.raises(Invalid):
        await world.administration.update_request(
            ADMIN, created.request.id, created.request.optlock, {"coupling": Coupling.STRICT}, world.now
        )


async def test_a_certificate_needs_a_tls_address(world: World) -> None:
    with pytest.raises(Invalid) as caught:
        await world.request(kind=Kind.X509)
    assert caught.value.code == "no-such-url"
    created, _ = await prescribed(world)
    assert created.request.secure_url
    with pytest.raises(Invalid):
        await world.administration.update_request(
            ADMIN, created.request.id, created.request.optlock, {"secure_url": False}, world.now
        )


async def test_a_reply_that_would_not_fit_orders_nothing(world: World) -> None:
    created, device = await prescribed(world)
    csr = csr_of(generate(P256))
    refusal = await rejected(device.claim(csr=csr, max_reply=899))
    assert (refusal.reason, (await world.read(created.request.id)).generation) == (Reason.TOO_LARGE, 0)
    assert await world.store.certificates.find_key(parse_der(csr).key_id) is None


# -- logins ------------------------------------------------------------------------------------------------------------


async def test_the_first_login_with_the_certificate_confirms(world: World) -> None:
    created, device = await prescribed(world, confirm=Confirm.LOGIN)
    offer = await device.claim(csr=csr_of(generate(P256)))
    rights = await world.provisioner.certificate_login("embedded", der_of(offer), "dev-1", world.now)
    assert rights is not None
    assert (rights.account, rights.username, rights.grant.publish) == ("acme", "p.acme.dev-1.g1", ("acme/dev-1/#",))
    assert (await world.read(created.request.id)).phase is Phase.CONFIRMED


async def test_a_strict_certificate_is_admitted_under_its_client_id_alone(world: World) -> None:
    created, device = await prescribed(world)
    offer = await device.claim(csr=csr_of(generate(P256)))
    assert not await admitted(world, offer, "dev-2")
    assert (await world.read(created.request.id)).phase is Phase.OFFERED
    assert await world.provisioner.certificate_login("elsewhere", der_of(offer), "dev-1", world.now) is None


async def test_nobody_logs_in_with_a_password_where_a_certificate_was_made(world: World) -> None:
    _, device = await prescribed(world)
    offer = await device.claim(csr=csr_of(generate(P256)))
    assert await world.provisioner.device_login("embedded", offer.username, b"", "dev-1", world.now) is None


async def test_a_revoked_certificate_is_refused_from_the_commit_on(world: World) -> None:
    created, device = await prescribed(world)
    offer = await device.claim(csr=csr_of(generate(P256)))
    assert await admitted(world, offer)
    await world.administration.revoke(ADMIN, created.request.id, world.now)
    assert not await admitted(world, offer)
    assert await world.provisioner.login_by_certificate(der_of(offer), "dev-1", world.now) is None
    revoked = await world.store.certificates.list_revoked(an_authority().issuers[0].id, world.now)
    assert [(one.reason, one.revoked_on) for one in revoked] == [("privilegeWithdrawn", world.now)]


async def test_a_certificate_that_ended_or_is_of_another_authority_is_refused(world: World) -> None:
    _, device = await prescribed(world)
    offer = await device.claim(csr=csr_of(generate(P256)))
    foreign = create_issuer(ROOT, "Other", Purpose.DEVICES, generate(P256), START, os.urandom)
    key = generate(P256)
    order = an_authority(foreign).order_device(Device("acme", "dev-1"), parse_der(csr_of(key)), START, os.urandom)
    forged = an_authority(foreign).issue(order).der
    assert await world.provisioner.certificate_login("embedded", forged, "dev-1", world.now) is None
    assert await world.provisioner.certificate_login("embedded", b"\x30\x00", "dev-1", world.now) is None
    # Signed by our own issuer, but never ordered here.
    unknown = an_authority().issue(
        an_authority().order_device(Device("acme", "dev-1"), parse_der(csr_of(key)), START, os.urandom)
    )
    assert await world.provisioner.certificate_login("embedded", unknown.der, "dev-1", world.now) is None
    world.now += 91 * DAY
    assert not await admitted(world, offer)


# -- renewal -----------------------------------------------------------------------------------------------------------


async def test_a_device_renews_with_its_certificate_and_no_key(world: World) -> None:
    created, device = await prescribed(world)
    first = await device.claim(csr=csr_of(generate(P256)))
    await device.ack()
    world.now += 60 * DAY
    session = await renewing(world, first, device)
    second = await world.provisioner.claim(unproved(session, "r-2", csr_of(generate(P256))), world.now)
    assert (second.generation, (await world.read(created.request.id)).phase) == (2, Phase.RENEWING)
    assert await admitted(world, first)
    assert await admitted(world, second)
    assert (await world.read(created.request.id)).phase is Phase.CONFIRMED
    assert not await admitted(world, first)
    await world.run_jobs()
    revoked = await world.store.certificates.list_revoked(an_authority().issuers[0].id, world.now)
    assert [(one.generation, one.reason) for one in revoked] == [(1, "superseded")]


async def test_a_renewal_that_fails_leaves_the_proved_certificate_as_it_was(world: World) -> None:
    created, device = await prescribed(world, retry_max_attempts=2)
    first = await device.claim(csr=csr_of(generate(P256)))
    await device.ack()
    for generation in range(2, 8):  # more often than any attempts allow: what renews holds the credential in force
        session = await renewing(world, first, device)
        claim = unproved(session, f"r-{generation}", csr_of(generate(P256)))
        assert (await world.provisioner.claim(claim, world.now)).generation == generation
        assert (await device.ack(generation, Result.FAILED, f"r-{generation}")).reason is Reason.NOTED
        await world.run_jobs()
        assert (await world.read(created.request.id)).phase is Phase.CONFIRMED
        assert await admitted(world, first)


async def test_only_a_certificate_in_force_renews(world: World) -> None:
    created, device = await prescribed(world)
    first = await device.claim(csr=csr_of(generate(P256)))
    await device.ack()
    session = await renewing(world, first, device)
    stolen = replace(session, client_id="dev-2")
    await prescribed(world, "dev-2")
    assert await reason_of(world.provisioner.claim(unproved(stolen, "r-2", csr_of(generate(P256))), world.now)) is (
        Reason.DENIED
    )
    plain = replace(session, origin=LOCAL)
    claim = unproved(plain, "r-2", csr_of(generate(P256)))
    assert await reason_of(world.provisioner.claim(claim, world.now)) is Reason.BAD_REQUEST
    await world.administration.revoke(ADMIN, created.request.id, world.now)
    claim = unproved(session, "r-2", csr_of(generate(P256)))
    assert await reason_of(world.provisioner.claim(claim, world.now)) is Reason.DENIED


async def test_the_key_in_force_is_not_certified_twice(world: World) -> None:
    _, device = await prescribed(world)
    key = generate(P256)
    first = await device.claim(csr=csr_of(key))
    await device.ack()
    session = await renewing(world, first, device)
    claim = unproved(session, "r-2", csr_of(key))
    assert await reason_of(world.provisioner.claim(claim, world.now)) is Reason.ALREADY_PROVISIONED


async def test_an_ack_can_be_repeated_after_it_retired_the_certificate_of_its_session(world: World) -> None:
    _, device = await prescribed(world)
    first = await device.claim(csr=csr_of(generate(P256)))
    await device.ack()
    session = await renewing(world, first, device)
    await world.provisioner.claim(unproved(session, "r-2", csr_of(generate(P256))), world.now)
    for _ in range(2):
        assert (await session.ack(2, request_id="r-2")).reason is Reason.CONFIRMED


async def test_an_operators_rotation_renews_with_the_activation_key(world: World) -> None:
    created, device = await prescribed(world)
    first = await device.claim(csr=csr_of(generate(P256)))
    await device.ack()
    assert await reason_of(device.claim("r-2", csr=csr_of(generate(P256)))) is Reason.ALREADY_PROVISIONED
    await world.administration.rotate(ADMIN, created.request.id, world.now)
    second = await device.claim("r-3", csr=csr_of(generate(P256)))
    assert await admitted(world, first)
    assert (await device.ack(2, request_id="r-3")).reason is Reason.CONFIRMED
    assert await admitted(world, second)
    assert not await admitted(world, first)


async def test_a_wiped_key_does_not_keep_an_operator_from_rotating_a_certificate(world: World) -> None:
    created, device = await prescribed(world, reuse_key=False)
    await device.claim(csr=csr_of(generate(P256)))
    await device.ack()
    assert (await world.administration.rotate(ADMIN, created.request.id, world.now)).rotate_wanted
    other = await world.request("dev-2", reuse_key=False)
    plain = world.device(other, "dev-2")
    await plain.claim()
    await plain.ack()
    with pytest.raises(Conflict):
        await world.administration.rotate(ADMIN, other.request.id, world.now)


async def test_old_and_new_issuer_overlap(world: World) -> None:
    _, device = await prescribed(world)
    key = generate(P256)
    first = await device.claim(csr=csr_of(key))
    newer = create_issuer(ROOT, "Test", Purpose.DEVICES, generate(P256), START, os.urandom)
    world.certification.use(an_authority(newer))
    # An order finds the issuer that it was made for, and what that one signed counts.
    assert (await device.claim(csr=csr_of(key))).certificate == first.certificate
    assert await admitted(world, first)
    _, other = await prescribed(world, "dev-2")
    second = await other.claim(csr=csr_of(generate(P256)))
    assert leaf_of(second).issuer == newer.certificate.subject
    assert leaf_of(first).issuer == ISSUER.certificate.subject
    assert await admitted(world, second, "dev-2")


@settings(deadline=None)  # a key pair takes as long as the machine is busy
@given(
    st.sampled_from([P256, P384, ED25519]),
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}", fullmatch=True),
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}", fullmatch=True),
    st.booleans(),
    st.sampled_from(["", "http://pki.example/" + "c" * 200 + "/{issuer}.crl"]),
)
def test_no_certificate_is_larger_than_its_draft_says(
    algorithm: str, account: str, client_id: str, strict: bool, url: str
) -> None:
    authority = an_authority()
    authority._crl_url = authority._ocsp_url = url
    device = Device(account, client_id if strict else None)
    order = authority.order_device(device, parse_der(csr_of(generate(algorithm))), START, os.urandom)
    size = len(authority.issue(Order.decode(order.encode())).pem)
    assert size <= authority.largest(order) <= size + 2048


async def test_before_a_certificate_ends_an_event_says_so_and_the_next_claim_renews(world: World) -> None:
    created, device = await prescribed(world, reuse_key=True)
    first = await device.claim(csr=csr_of(generate(P256)))
    await device.ack()
    world.now = START + 59 * DAY
    await world.run_jobs()
    assert await reason_of(device.claim("r-2", csr=csr_of(generate(P256)))) is Reason.ALREADY_PROVISIONED
    world.now = START + 61 * DAY
    await world.run_jobs()
    told = await world.store.events.list_events(EventFilter(request_id=created.request.id), 10)
    assert EventType.CREDENTIAL_EXPIRING in [event.type for event in told]
    second = await device.claim("r-3", csr=csr_of(generate(P256)))
    assert (second.generation, await admitted(world, first), await admitted(world, second)) == (2, True, True)
    assert second.certificate is not None
    assert second.certificate.not_after == world.now + 90 * DAY


@pytest.mark.parametrize(
    ("asked", "life"),
    [
        pytest.param(60_000, 60_000, id="as the policy says"),
        pytest.param(30 * DAY, 30 * DAY, id="for weeks"),
        pytest.param(400 * DAY, 90 * DAY, id="at most what the authority gives"),
    ],
)
async def test_the_validity_of_a_policy_is_the_life_of_a_certificate(world: World, asked: int, life: int) -> None:
    _, device = await prescribed(world, validity=asked, reuse_key=True)
    first = await device.claim(csr=csr_of(generate(P256)))
    assert leaf_of(first).not_valid_after_utc.timestamp() * 1000 == START + life
    assert first.certificate is not None
    assert first.certificate.not_after == START + life
    await device.ack()
    world.now = START + life * 2 // 3 - 1000
    await world.run_jobs()
    assert await reason_of(device.claim("r-2", csr=csr_of(generate(P256)))) is Reason.ALREADY_PROVISIONED
    world.now += 1000
    await world.run_jobs()
    second = await device.claim("r-3", csr=csr_of(generate(P256)))
    assert second.certificate is not None
    assert (second.generation, second.certificate.not_after) == (2, world.now + life)
    world.now = START + life + 1000
    assert not await admitted(world, first)
    assert await admitted(world, second)


async def test_no_validity_outlives_the_issuer(world: World) -> None:
    _, device = await prescribed(world, validity=60 * DAY, reuse_key=True)
    world.now = ISSUER_END - 20 * DAY
    offer = await device.claim(csr=csr_of(generate(P256)))
    assert offer.certificate is not None
    assert offer.certificate.not_after == ISSUER_END


async def test_without_a_valid_issuer_nothing_is_minted_and_the_device_comes_again(world: World) -> None:
    created, device = await prescribed(world)
    world.now = START + 400 * DAY  # the issuer has ended, and nobody made its successor
    with pytest.raises(Unavailable, match="rotate the authority"):
        await device.claim(csr=csr_of(generate(P256)))
    assert (await world.read(created.request.id)).generation == 0


async def test_an_order_whose_issuer_is_gone_is_kept_and_told_as_our_fault(world: World) -> None:
    _, device = await prescribed(world)
    key = generate(P256)
    first = await device.claim(csr=csr_of(key))
    root = ROOT.certificate
    world.certification.use(Authority(root, []))
    with pytest.raises(Unavailable, match="not here any more"):
        await device.claim(csr=csr_of(key))
    world.certification.use(an_authority())
    assert (await device.claim(csr=csr_of(key))).certificate == first.certificate


async def test_a_certificate_past_its_confirm_time_is_retired_and_revoked(world: World) -> None:
    created, device = await prescribed(world, confirm_time=60)
    offer = await device.claim(csr=csr_of(generate(P256)))
    world.now += 61_000
    await world.run_jobs()
    assert not await admitted(world, offer)
    assert (await world.read(created.request.id)).phase is Phase.PENDING
    revoked = await world.store.certificates.list_revoked(an_authority().issuers[0].id, world.now)
    assert [int(one.serial, 16) for one in revoked] == [leaf_of(offer).serial_number]


async def test_an_expired_certificate_is_replaced_with_the_activation_key(world: World) -> None:
    """A device that slept through its renewal is not locked out (section 9, rule 6)."""
    _, device = await prescribed(world)
    first = await device.claim(csr=csr_of(generate(P256)))
    await device.ack()
    world.now = START + 120 * DAY
    await world.run_jobs()
    assert not await admitted(world, first)
    assert await world.provisioner.login_by_certificate(der_of(first), "dev-1", world.now) is None
    second = await device.claim("r-2", csr=csr_of(generate(P256)))
    assert (await device.ack(2, request_id="r-2")).reason is Reason.CONFIRMED
    assert await admitted(world, second)
